"""Strength, steering and detection of vector methods against plain forwards of single rows."""

import pytest
import torch

import tiny
from hypersteer.concepts import Concept
from hypersteer.errors import SteeringError
from hypersteer.learning import vectors
from hypersteer.learning.corpus import States, make_corpus
from hypersteer.learning.values import Asked
from hypersteer.lm.likelihood import response_token_losses
from hypersteer.methods.caa import Caa
from hypersteer.methods.diffmean import DiffMean
from hypersteer.methods.lat import Lat
from hypersteer.methods.mass_mean import MassMean
from hypersteer.methods.pca import Pca
from hypersteer.methods.probe import LinearProbe
from hypersteer.methods.protocol import Detector
from hypersteer.methods.random import Random
from hypersteer.methods.reft_r1 import ReftR1
from methods.cases import (
    Untouched,
    alone,
    concepts_of,
    example,
    hooked,
    lengths_by_hand,
    states_alone,
)

METHODS = [
    DiffMean(),
    Random(),
    ReftR1(epochs=1),
    Pca(),
    Lat(),
    LinearProbe(epochs=1),
    MassMean(length="activation"),
    Caa(scopes=("all",)),
]


def name_of(method):
    return type(method).__name__


@pytest.mark.parametrize("method", METHODS, ids=name_of)
def test_a_method_steers_by_its_vector_at_the_site_and_nowhere_else(lm, method):
    """What fit learns is added to prompt and response exactly; the base LM stays as it is."""
    site, concepts = tiny.site_of(lm), concepts_of(3, 2)
    with Untouched(lm):
        learned = method.fit(lm, site, concepts)
        asked = [Asked(entry.concept, "Tell me all") for entry in reversed(concepts)]
        steering = method.steer(lm, site, learned, asked)
    assert steering.lm is lm
    assert steering.prompts == ["Tell me all"] * 2
    (writer,) = steering.writers
    assert writer.site == site
    norms = learned.tensors["directions"].norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones(2))
    assert (learned.tensors["activations"] > 0).all()

    ids, prefix, end = alone(lm, example("Tell me all", "owl fig"))
    prompt = lm.chat.prompt("Tell me all")
    ours = response_token_losses(lm, [prompt] * 2, [ids[0, end:].tolist()] * 2, [writer])
    for row, number in enumerate([1, 0]):
        tensors = learned.tensors
        vector = tensors["activations"][number] * tensors["directions"][number]
        marks = (torch.arange(ids.shape[1]) >= prefix)[:, None]
        with hooked(tiny.module_at(lm, site), lambda h, v=vector, m=marks: h + v * m):
            logits = lm.model(input_ids=ids).logits[0, end - 1 : -1]
        expected = torch.nn.functional.cross_entropy(logits, ids[0, end:], reduction="none")
        torch.testing.assert_close(ours[row], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS, ids=name_of)
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_maximum_activations_are_of_the_training_rows(tiny_llama, method, kind):
    site, concepts = tiny.site_of(tiny_llama, kind), concepts_of(3, 2)
    learned = method.fit(tiny_llama, site, concepts)
    for number, entry in enumerate(concepts):
        direction = learned.tensors["directions"][number]
        rows = [*entry.positives, *entry.negatives]
        highest = max(
            float((states_alone(tiny_llama, site, row) @ direction).max()) for row in rows
        )
        assert float(learned.tensors["activations"][number]) == pytest.approx(highest, rel=1e-4)


@pytest.mark.parametrize("method", METHODS, ids=name_of)
def test_detection_is_the_largest_product_after_the_prefix(lm, method):
    assert isinstance(method, Detector)
    site, concepts = tiny.site_of(lm), concepts_of(3, 2)
    learned = method.fit(lm, site, concepts)
    texts = [*concepts[0].negatives, *concepts[1].positives]
    asked = [concepts[1].concept, concepts[0].concept]
    scores = method.detect(lm, site, learned, asked, texts)
    for number, found in zip([1, 0], scores, strict=True):
        name = "probes" if isinstance(method, MassMean) else "directions"
        direction = learned.tensors[name][number]
        tops = [(states_alone(lm, site, text) @ direction).max() for text in texts]
        expected = torch.stack(tops)
        if isinstance(method, ReftR1):
            expected = expected.relu()
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_the_chat_prefix_is_not_measured(tiny_llama):
    """A direction along the prefix's largest state: the prefix would win if it counted."""
    site, entry = tiny.site_of(tiny_llama), concepts_of(3)[0]
    ids, prefix, _ = alone(tiny_llama, entry.positives[0])
    seen = []
    with hooked(tiny.module_at(tiny_llama, site), seen.append), torch.no_grad():
        tiny_llama.model(input_ids=ids)
    direction = torch.nn.functional.normalize(seen[0][:, 0], dim=-1)
    inside = float((seen[0][0, :prefix] @ direction[0]).max())
    corpus = make_corpus(tiny_llama, [entry])
    states = States(tiny_llama, site, corpus.texts, [1] * 6, batch_tokens=99, cache_bytes=0)
    measured = vectors.measure(states, corpus.rows, direction)
    assert float(measured.highest[0]) < inside


def test_without_a_positive_latent_the_strength_is_the_mean_length(tiny_llama):
    site, entry = tiny.site_of(tiny_llama), concepts_of(3)[0]
    rows = torch.cat(
        [states_alone(tiny_llama, site, row) for row in [*entry.positives, *entry.negatives]]
    )
    corpus = make_corpus(tiny_llama, [entry])
    states = States(tiny_llama, site, corpus.texts, [1] * 6, batch_tokens=99, cache_bytes=0)
    # No direction has only negative products with so many random states; moved ones have.
    away = torch.zeros(1, tiny.WIDTH)
    away[0, 0] = 1.0
    with hooked(tiny.module_at(tiny_llama, site), lambda h: h - 1000 * away):
        measured = vectors.measure(states, corpus.rows, away)
    moved = rows - 1000 * away
    assert float(measured.highest[0]) == pytest.approx(float(moved[:, 0].max()), rel=1e-5)
    assert float(measured.highest[0]) < 0
    length = float(lengths_by_hand(moved).mean())
    assert float(measured.activations[0]) == pytest.approx(length)
    # One dimension that is so large does not make the states long.
    assert length == pytest.approx(float(rows.norm(dim=-1).mean()), rel=0.2)


def test_an_unknown_concept_is_told(tiny_llama):
    site = tiny.site_of(tiny_llama)
    learned = DiffMean().fit(tiny_llama, site, concepts_of(2, 2))
    stranger = Concept(id=4, text="zebras")
    with pytest.raises(SteeringError, match=r"concept 4 \('zebras'\).*learnt are: 7, 10"):
        vectors.steer(tiny_llama, site, learned, [Asked(stranger, "Why")])
    with pytest.raises(SteeringError, match="concept 4"):
        vectors.detect(tiny_llama, site, learned, [stranger], [])
    long = [example("Why", "owl"), example("Why " * 300, "owl")]
    with pytest.raises(SteeringError, match="a text to detect concepts in needs"):
        vectors.detect(tiny_llama, site, learned, [concepts_of(2)[0].concept], long)


def test_detection_of_nothing_and_of_a_bare_prompt(tiny_llama):
    site, entry = tiny.site_of(tiny_llama), concepts_of(2)[0]
    learned = DiffMean().fit(tiny_llama, site, [entry])
    assert DiffMean().detect(tiny_llama, site, learned, [entry.concept], []).shape == (1, 0)
    bare = example("Tell me all", "", complete=False)
    (score,) = DiffMean().detect(tiny_llama, site, learned, [entry.concept], [bare])[0]
    expected = (states_alone(tiny_llama, site, bare) @ learned.tensors["directions"][0]).max()
    assert float(score) == pytest.approx(float(expected), rel=1e-4)


def test_cost_is_per_concept(tiny_llama):
    site, concepts = tiny.site_of(tiny_llama), concepts_of(3, 2)
    with tiny.counting_flops() as counter:
        cost = Random().fit(tiny_llama, site, concepts).cost
    assert cost.parameters == tiny.WIDTH + 1
    assert 2 * cost.flops == pytest.approx(counter.get_total_flops(), rel=0.005)
    assert 0 < cost.seconds < 60
