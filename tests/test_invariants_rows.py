"""Invariants 1, 2, 5 and 6: a row is steered the same whatever else is in the batch."""

import pytest
import torch

import tiny
from hypersteer.lm.chat import collate
from hypersteer.lm.writers import written

LONG = "Tell me about your day at the sea, about the ship and all the bees, and say why."
PROMPTS = ("Hi", LONG, "Why is the sky blue?", "Talk like the sea.")
STRENGTHS = (1.0, 1.0, -0.7, 0.0)
CLOSE = {"rtol": 0.0, "atol": 1e-4}


@pytest.fixture(scope="session", params=tiny.EVERY)
def lm(request):
    return tiny.lm_of(request.param)


@pytest.fixture(scope="module", params=[*tiny.KINDS, *tiny.VARIANTS])
def case(lm, request):
    return tiny.case_of(lm.name, request.param)


def steers(case):
    """Row 0 and 2 are steered, row 1 is not, row 3 is with strength 0."""
    return case.steer[0], None, case.steer[1], case.steer[0]


def logits(case, rows, side="right"):
    """Logits of whole prompts in one pass, and the batch they belong to."""
    lm = case.lm
    batch = collate([lm.chat.prompt(PROMPTS[r]) for r in rows], pad_id=lm.chat.pad_id, side=side)
    writers = case.writers(
        [PROMPTS[r] for r in rows], [steers(case)[r] for r in rows], [STRENGTHS[r] for r in rows]
    )
    with torch.no_grad(), written(lm.blocks, writers, batch.spans):
        return lm.logits(batch), batch


def decoded(case, rows):
    prompts = [PROMPTS[r] for r in rows]
    writers = case.writers(prompts, [steers(case)[r] for r in rows], [STRENGTHS[r] for r in rows])
    return tiny.decoded(case.lm, [case.lm.chat.prompt(p) for p in prompts], writers)


def test_1_alone_batched_streamed(case):
    together = decoded(case, range(4))
    steer = steers(case)
    plain = tiny.decoded(case.lm, [case.lm.chat.prompt(p) for p in PROMPTS])
    for row, prompt in enumerate(PROMPTS):
        alone = decoded(case, [row])
        assert alone.ids[0] == together.ids[row]
        torch.testing.assert_close(alone.logits[:, 0], together.logits[:, row], **CLOSE)
        moved = (alone.logits[0, 0] - plain.logits[0, row]).abs().max()
        assert moved > 0.1 if row in (0, 2) else moved < 1e-4
        text = case.lm.chat.decode(alone.ids[0])
        one = {"steer": steer[row], "strength": STRENGTHS[row], "max_new_tokens": 6}
        assert case.steerer.generate(prompt, **one) == text
        assert "".join(case.steerer.stream(prompt, **one)) == text
    texts = case.steerer.generate(
        list(PROMPTS), steer=list(steer), strength=list(STRENGTHS), max_new_tokens=6
    )
    assert texts == [case.lm.chat.decode(ids) for ids in together.ids]


def test_1_padding_side_and_neighbours(case):
    right, right_batch = logits(case, range(4))
    left, left_batch = logits(case, range(4), side="left")
    for row in range(4):
        alone = logits(case, [row])[0][0]
        torch.testing.assert_close(right[row][right_batch.spans.real[row]], alone, **CLOSE)
        torch.testing.assert_close(left[row][left_batch.spans.real[row]], alone, **CLOSE)


def assert_same(case, steered, plain):
    """Bit for bit; where experts share a product among rows, only its last bits may differ."""
    if case.lm.name == "mixtral":
        torch.testing.assert_close(steered, plain, rtol=0, atol=1e-5)
    else:
        assert torch.equal(steered, plain)


@pytest.mark.parametrize("side", ["left", "right"])
def test_2_unsteered_rows_are_the_plain_model_bit_for_bit(case, side):
    steered, batch = logits(case, range(4), side=side)
    with torch.no_grad():
        plain = case.lm.logits(batch)
    for row in (1, 3):
        real = batch.spans.real[row]
        assert_same(case, steered[row][real], plain[row][real])
    for row in (0, 2):
        assert not torch.allclose(steered[row], plain[row], atol=0.1)


def test_2_unsteered_rows_decode_as_the_plain_model_bit_for_bit(case):
    prompts = [case.lm.chat.prompt(p) for p in PROMPTS]
    steered, plain = decoded(case, range(4)), tiny.decoded(case.lm, prompts)
    for row in (1, 3):
        assert steered.ids[row] == plain.ids[row]
        assert_same(case, steered.logits[:, row], plain.logits[:, row])
    steer = [case.steer[0], None, case.steer[1], None]
    nothing = tiny.decoded(case.lm, prompts, case.writers(PROMPTS, steer, [0.0, 1.0, 0.0, 0.0]))
    assert torch.equal(nothing.logits, plain.logits)


@pytest.mark.parametrize("variant", tiny.VARIANTS)
def test_5_an_edit_depends_on_its_own_pair_only(lm, variant):
    case = tiny.case_of(lm.name, variant)
    pairs = [(case.steer[0], "Hi"), ("be terse, please, and kind", LONG), (case.steer[1], LONG)]
    together = case.steerer.edit([s for s, _ in pairs], [p for _, p in pairs])
    turned = case.steerer.edit([s for s, _ in pairs[::-1]], [p for _, p in pairs[::-1]])[::-1]
    writer = case.writers([p for _, p in pairs], [s for s, _ in pairs])[0]
    tiny.decoded(case.lm, [case.lm.chat.prompt(p) for _, p in pairs], [writer], steps=1)
    for row, (steer, prompt) in enumerate(pairs):
        alone = case.steerer.edit(steer, prompt).vector
        for other in (together[row].vector, turned[row].vector, writer.params["vector"][row]):
            torch.testing.assert_close(other, alone, rtol=1e-5, atol=1e-5)
    same_steer = case.steerer.edit(case.steer[0], ["Hi", LONG])
    differ = (same_steer[0].vector - same_steer[1].vector).abs().max()
    assert differ < 1e-5 if variant == "no-context" else differ > 0.01
    other_steer = case.steerer.edit(case.steer[1], "Hi")
    assert (other_steer.vector - same_steer[0].vector).abs().max() > 0.01


def test_6_strength_is_linear_in_what_is_written(case):
    lm, steer = case.lm, case.steer[0]
    strengths = [0.0, 1.0, 2.5, -1.0]
    prompts = [LONG] * 4
    batch = collate([lm.chat.prompt(LONG)] * 4, pad_id=lm.chat.pad_id)
    writers = case.writers(prompts, steer, strengths)
    seen = []
    with torch.no_grad(), written(lm.blocks, writers, batch.spans):
        hook = tiny.module_at(lm, writers[0].site).register_forward_hook(
            lambda _m, _a, out: seen.append(out if isinstance(out, torch.Tensor) else out[0])
        )
        lm.forward(batch)
        hook.remove()
    hidden = seen[0]
    unit = hidden[1] - hidden[0]
    assert unit[batch.spans.prompt[0]].norm(dim=-1).min() > 1.0
    for row, strength in enumerate(strengths):
        torch.testing.assert_close(hidden[row] - hidden[0], strength * unit, rtol=0, atol=1e-5)
