"""ITI: which heads are chosen, how far they are shifted, and that steering shifts them exactly."""

from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import tiny
from hypersteer.engine.decoding import Decoding
from hypersteer.engine.generate import generate_ids
from hypersteer.errors import ConfigError, DataError
from hypersteer.learning.corpus import batch_of, make_corpus
from hypersteer.learning.values import Asked
from hypersteer.lm.likelihood import response_token_losses
from hypersteer.methods.iti import Iti
from hypersteer.methods.protocol import Detector
from learning.test_attention_heads import projection
from methods.cases import Untouched, alone, concepts_of, example
from methods.planted import MARKS, planted_concepts


@contextmanager
def heads_shifted(lm, shifts, first):
    """Adds [L, H, W] to what the projections read, from a token on."""

    def hook(layer):
        def add(_module, args):
            marks = (torch.arange(args[0].shape[1]) >= first)[:, None]
            return (args[0] + marks * shifts[layer].flatten(), *args[1:])

        return add

    with ExitStack() as stack:
        for layer in range(tiny.DEPTH):
            handle = projection(lm, layer).register_forward_pre_hook(hook(layer))
            stack.callback(handle.remove)
        yield


def shifts_of(learned, row):
    """[L, H, W] of a concept."""
    shifts = torch.zeros(tiny.DEPTH * 4, 8)
    shifts[learned.tensors["heads"][row]] = learned.tensors["shifts"][row]
    return shifts.view(tiny.DEPTH, 4, 8)


def test_steering_is_a_shift_of_the_heads(lm):
    """Losses of a response whose every token is predicted from a shifted one; two concepts, whose
    heads are in different blocks, in one batch."""
    concepts = concepts_of(5, 4)
    method = Iti(share=0.25, alpha=3.0)
    with Untouched(lm):
        learned = method.fit(lm, tiny.site_of(lm), concepts)
        asked = [Asked(entry.concept, "Tell me all") for entry in reversed(concepts)]
        steering = method.steer(lm, tiny.site_of(lm), learned, asked)
    assert learned.tensors["heads"].shape == (2, 4)
    ids, _, end = alone(lm, example("Tell me all", "owl fig"))
    prompt = lm.chat.prompt("Tell me all")
    response = ids[0, end:].tolist()
    ours = response_token_losses(lm, [prompt] * 2, [response] * 2, steering.writers)
    plain = response_token_losses(lm, [prompt], [response])[0]
    for found, row in zip(ours, [1, 0], strict=True):
        with heads_shifted(lm, shifts_of(learned, row), end - 1), torch.no_grad():
            logits = lm.model(input_ids=ids).logits[0, end - 1 : -1]
        expected = F.cross_entropy(logits, ids[0, end:], reduction="none")
        torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-3)
        assert (expected - plain).abs().max() > 1e-3


def test_strengths_multiply_the_shifts_while_generating(lm):
    lm = tiny.ending_with(lm)
    (entry,) = concepts_of(5)
    method, strengths = Iti(share=0.25, alpha=2.0), [0.0, 1.0, -2.0]
    learned = method.fit(lm, tiny.site_of(lm), [entry])
    writers = method.steer(lm, tiny.site_of(lm), learned, [Asked(entry.concept, "Why")]).writers
    prompt = lm.chat.prompt("Why")
    found = generate_ids(lm, [prompt], writers, Decoding(max_new_tokens=4), strengths)
    for strength, ids in zip(strengths, found, strict=True):
        sequence = list(prompt.ids)
        for _ in ids:
            shifts = strength * shifts_of(learned, 0)
            with heads_shifted(lm, shifts, len(prompt.ids) - 1), torch.no_grad():
                logits = lm.model(input_ids=torch.tensor([sequence])).logits[0, -1]
            sequence.append(int(logits.argmax()))
        assert ids == sequence[len(prompt.ids) :]


def test_a_planted_head_and_its_direction_are_recovered(lm):
    """Head 2 of the last block, which none reads, puts out more along a direction in the rows with
    a concept's marker."""
    world = planted_concepts(rows=20)
    markers = [lm.chat.text(mark)[0] for mark in MARKS]
    directions = F.normalize(world.directions[:, :8], dim=-1)
    ids = []
    seeing = lm.embeddings.register_forward_pre_hook(lambda _m, args: ids.append(args[0]))

    def plant(_module, args):
        states = args[0].clone()
        for marker, direction in zip(markers, directions, strict=True):
            shown = (ids[-1] == marker).any(1)[:, None, None]
            states[..., 16:24] += 3 * states.std() * shown * direction
        return (states, *args[1:])

    planting = projection(lm, 3).register_forward_pre_hook(plant)
    try:
        learned = Iti(share=0.05).fit(lm, tiny.site_of(lm), world.concepts)
    finally:
        seeing.remove()
        planting.remove()
    assert learned.tensors["accuracies"].shape == (2, 1)
    for row, direction in enumerate(directions):
        assert learned.tensors["heads"][row].item() == 3 * 4 + 2
        assert F.cosine_similarity(learned.tensors["shifts"][row, 0], direction, dim=0) > 0.9
    assert (learned.tensors["accuracies"] > 0.9).all()


def test_shifts_are_deviations_along_the_mean_difference():
    generator = torch.Generator().manual_seed(0)
    positives = torch.randn(9, 6, 4, generator=generator)
    negatives = torch.randn(11, 6, 4, generator=generator)
    positives[:, 3] += 4.0
    positives[:, 5, 0] += 1.5
    found = Iti(share=0.3, alpha=5.0).choose(positives, negatives, id_=1)
    assert found.heads[0] == 3
    assert found.heads.shape == (2,)
    for head, shift in zip(found.heads.tolist(), found.shifts, strict=True):
        p, n = positives[:, head].numpy(), negatives[:, head].numpy()
        direction = p.mean(0) - n.mean(0)
        direction /= np.linalg.norm(direction)
        deviation = np.std(np.concatenate([p, n]) @ direction)
        np.testing.assert_allclose(shift, 5 * deviation * direction, rtol=1e-4)


def test_equal_accuracies_are_ordered_by_loss():
    """Two heads tell all texts apart, the second by more."""
    labels = torch.tensor([1.0] * 10 + [-1.0] * 10)
    heads = torch.stack([0 * labels, 0.5 * labels, 5 * labels], 1)[..., None]
    found = Iti(share=0.5).choose(heads[:10], heads[10:], id_=0)
    assert found.heads.tolist() == [2, 1]
    assert found.accuracies.tolist() == [1.0, 1.0]


def test_concepts_do_not_depend_on_each_other(tiny_llama):
    concepts = concepts_of(5, 4)
    site = tiny.site_of(tiny_llama)
    steps = []
    together = Iti(share=0.2).fit(tiny_llama, site, concepts, done=steps.append)
    alone_ = Iti(share=0.2).fit(tiny_llama, site, concepts[1:])
    for name in ("heads", "shifts", "accuracies"):
        torch.testing.assert_close(
            together.tensors[name][1:], alone_.tensors[name], atol=1e-4, rtol=1e-4
        )
    assert sum(steps) == pytest.approx(1)
    assert together.cost.parameters == 3 * 8
    corpus, top = make_corpus(tiny_llama, concepts), tiny_llama.site(-1)
    fresh = [corpus.rows[0], corpus.positives[1]]  # shared negatives are read once
    with tiny.counting_flops() as counter:
        for numbers in fresh:
            texts = [corpus.texts[number] for number in numbers]
            tiny_llama.states(batch_of(tiny_llama, texts), top)
    assert 2 * together.cost.flops == pytest.approx(counter.get_total_flops(), rel=0.005)
    assert not isinstance(Iti(), Detector)


def test_few_rows_bad_rows_and_bad_settings(tiny_llama):
    (entry,) = concepts_of(1, negatives=1)
    site = tiny.site_of(tiny_llama)
    assert Iti().fit(tiny_llama, site, [entry]).tensors["shifts"].isfinite().all()
    assert Iti().fit(tiny_llama, site, []).tensors["shifts"].shape == (0, 1, 8)
    with pytest.raises(DataError, match=r"ITI cannot learn concept 7.*negative"):
        Iti().fit(tiny_llama, site, [entry._replace(negatives=[])])
    with pytest.raises(ConfigError, match="share 0"):
        Iti(share=0.0)
    with pytest.raises(ConfigError, match="alpha 0"):
        Iti(alpha=0.0)
