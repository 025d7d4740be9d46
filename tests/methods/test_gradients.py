"""Attributions against gradients taken by hand, their sum, and a planted token."""

from contextlib import contextmanager

import pytest
import torch

import tiny
from hypersteer.concepts import Concept
from hypersteer.errors import ConfigError, SteeringError
from hypersteer.learning.values import ConceptExamples
from hypersteer.lm.chat import collate
from hypersteer.methods.classifier import classifier_of, last_states
from hypersteer.methods.gradients import InputXGradient, IntegratedGradients, Path, attributions
from hypersteer.methods.protocol import Detector, can_steer
from hypersteer.methods.random import unit_vectors
from methods.cases import Untouched, alone, concepts_of, example, hooked, some_words

FAST = {"epochs": 2, "learning_rate": 0.01}


def by_hand(lm, site, one, classifier, baseline, points):
    """Scores of an unpadded text, with a hook that adds a variable to the states at the site."""
    ids, prefix, _ = alone(lm, one)
    total = 0
    seen = []
    with hooked(tiny.module_at(lm, site), lambda h: seen.append(h.clone())), torch.no_grad():
        lm.model(input_ids=ids)
    distance = seen[0] - baseline
    distance[:, :prefix] = 0
    for point in points:
        move = ((point - 1) * distance).requires_grad_()
        last = []
        handle = lm.model.get_output_embeddings().register_forward_pre_hook(
            lambda _m, args, into=last: into.append(args[0][:, -1])
        )
        with hooked(tiny.module_at(lm, site), lambda h, m=move: h + m):
            lm.model(input_ids=ids)
        handle.remove()
        classifier.log_odds(last[0]).sum().backward()
        total = total + move.grad
    per_token = (distance * total / len(points)).abs().sum(-1)
    return float(per_token[0, prefix:].max())


@pytest.mark.parametrize(("steps", "kind"), [(0, "residual"), (0, "mlp"), (2, "residual")])
def test_a_score_is_the_largest_attribution_to_a_token(lm, steps, kind):
    """0 steps stand for input times gradient."""
    method = IntegratedGradients(steps=steps, **FAST) if steps else InputXGradient(**FAST)
    site, concepts = tiny.site_of(lm, kind, layer=2), concepts_of(3, 2)
    with Untouched(lm):
        learned = method.fit(lm, site, concepts)
        texts = [concepts[0].positives[1], concepts[0].negatives[2]]
        asked = [concepts[1].concept, concepts[0].concept]
        scores = method.detect(lm, site, learned, asked, texts)
    integrated = isinstance(method, IntegratedGradients)
    baseline = learned.tensors["baseline"] if integrated else torch.zeros(tiny.WIDTH)
    points = [1 / 4, 3 / 4] if integrated else [1.0]
    for concept, found in zip(asked, scores, strict=True):
        classifier = classifier_of(learned, concept)
        expected = [by_hand(lm, site, text, classifier, baseline, points) for text in texts]
        assert found.tolist() == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_integrated_gradients_add_up(family):
    """To the change of the log odds from the baseline to the states (completeness)."""
    lm = tiny.lm_of(family)
    site, concepts = tiny.site_of(lm, layer=2), concepts_of(2, 2)
    learned = IntegratedGradients(**FAST).fit(lm, site, concepts)
    classifiers = [classifier_of(learned, entry.concept) for entry in concepts]
    baseline = learned.tensors["baseline"]
    rows = concepts[0].positives
    batch = collate(
        [lm.chat.prompt(row.prompt) for row in rows],
        [lm.chat.response(row.response) for row in rows],
        pad_id=lm.chat.pad_id,
    )
    points = [(n + 0.5) / 40 for n in range(40)]
    found = attributions(lm, site, batch, classifiers, Path(baseline, points))
    marks = (batch.spans.prompt | batch.spans.response)[..., None]
    assert (found * ~marks == 0).all()
    with torch.no_grad():
        high = last_states(lm, batch)
        with hooked(tiny.module_at(lm, site), lambda h: torch.where(marks, baseline, h)):
            low = last_states(lm, batch)
    for one, classifier in zip(found, classifiers, strict=True):
        change = classifier.log_odds(high) - classifier.log_odds(low)
        torch.testing.assert_close(one.sum((1, 2)), change, atol=2e-2, rtol=2e-2)
        assert change.abs().max() > 0.04


@contextmanager
def copied(lm, site, marker):
    """A marker's state holds a direction at the site, and what the blocks above find of it there
    is added to the state of the last token, along another direction."""
    source, target = unit_vectors([1, 2], tiny.WIDTH, seed=3)
    ids, above = [], []

    def plant(hidden):
        return hidden + 10 * (ids[-1] == marker)[..., None] * source

    def copy_over(hidden):
        found = ((above[-1] @ source) * (ids[-1] == marker)).sum(1)
        last = (ids[-1] != tiny.tokenizer().pad_token_id).sum(1) - 1
        at_end = torch.arange(hidden.shape[1]) == last[:, None]
        return hidden + at_end[..., None] * 3 * found[:, None, None] * target

    handles = [
        lm.embeddings.register_forward_pre_hook(lambda _m, args: ids.append(args[0])),
        lm.blocks[2].register_forward_pre_hook(lambda _m, args: above.append(args[0])),
    ]
    try:
        with hooked(lm.blocks[site.layer], plant), hooked(lm.model.model.norm, copy_over):
            yield
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("integrated", [False, True])
def test_the_token_that_the_classifier_must_look_at_stands_out_in_its_text(tiny_llama, integrated):
    """Within a text. Texts do not compare well: where a classifier is sure, gradients are small."""
    lm, site = tiny_llama, tiny.site_of(tiny_llama)
    (marker,) = lm.chat.text("!")
    rows = [example("Tell me", some_words(n, 6)) for n in range(48)]
    shown = [
        example("Tell me", f"{some_words(n, 3)}! {some_words(n + 60, 3)}", 0) for n in range(48)
    ]
    entry = ConceptExamples(Concept(id=0, text="!"), shown[:32], rows[:32])
    prompts = [lm.chat.prompt(row.prompt) for row in shown[32:]]
    responses = [lm.chat.response(row.response) for row in shown[32:]]
    batch = collate(prompts, responses, pad_id=lm.chat.pad_id)
    with copied(lm, site, marker):
        learned = InputXGradient(learning_rate=0.01).fit(lm, site, [entry])
        path = Path(torch.zeros(tiny.WIDTH), [1.0])
        if integrated:
            path = Path(learned.tensors["baseline"], [0.25, 0.75])
        classifier = classifier_of(learned, entry.concept)
        found = attributions(lm, site, batch, [classifier], path)[0].abs().sum(-1)
    top = batch.ids.gather(1, found.argmax(1, keepdim=True))
    assert (top == marker).double().mean() > 0.9


def test_they_only_detect_and_refuse_what_they_cannot_read(tiny_llama):
    site, (entry,) = tiny.site_of(tiny_llama), concepts_of(2)
    for method in (InputXGradient(**FAST), IntegratedGradients(steps=1, **FAST)):
        assert isinstance(method, Detector)
        assert not can_steer(method)
        learned = method.fit(tiny_llama, site, [entry])
        assert method.detect(tiny_llama, site, learned, [entry.concept], []).shape == (1, 0)
        long = [example("Why " * 300, "owl")]
        with pytest.raises(SteeringError, match="a text to detect concepts in needs"):
            method.detect(tiny_llama, site, learned, [entry.concept], long)
        with pytest.raises(SteeringError, match="was not learnt"):
            method.detect(tiny_llama, site, learned, [Concept(id=1, text="no")], [])
        with pytest.raises(ConfigError, match="epochs 0"):
            type(method)(epochs=0)
    with pytest.raises(ConfigError, match="steps 0"):
        IntegratedGradients(steps=0)
