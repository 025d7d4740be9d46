"""Several edits on one row: everywhere one edit works, each with its own strength and scope."""

from dataclasses import replace

import pytest
import torch

import hypersteer as hs
import tiny
from hypersteer.edits.sites import Site
from hypersteer.errors import SteeringError
from hypersteer.lm.chat import collate
from hypersteer.lm.edited import edit_writers
from hypersteer.lm.likelihood import response_token_losses
from hypersteer.lm.messages import prompted
from hypersteer.lm.writers import written

TEXTS = ["Hi", "Tell me about your day at the sea, about the ship and the bees.", "Why?"]
SHORT = {"max_new_tokens": 8}


@pytest.fixture
def endless(lm):
    return tiny.ending_with(lm)


def edits_of(lm):
    """Two at one site, one above it, of different scopes."""
    return (
        tiny.edit_of(lm, Site(1), 1),
        tiny.edit_of(lm, Site(1), 2),
        tiny.edit_of(lm, Site(2, "mlp"), 3, "response"),
    )


def test_vectors_at_one_site_add_up(endless):
    lm = endless
    a, b, c = edits_of(lm)
    together = lm.generate(TEXTS, edits=[a, (b, -0.5)], strength=1.5, **SHORT)
    assert together == lm.generate(TEXTS, edit=a - 0.5 * b, strength=1.5, **SHORT)
    assert together != lm.generate(TEXTS, edit=a, strength=1.5, **SHORT)
    rows = [[a, b], None, [c, a]]
    mixed = lm.generate(TEXTS, edit=rows, **SHORT)
    assert mixed[0] == lm.generate(TEXTS[0], edit=a + b, **SHORT)
    assert mixed[1] == lm.generate(TEXTS[1], **SHORT)
    assert mixed[2] == lm.generate(TEXTS[2], edits=[c, a], **SHORT)
    assert "".join(lm.stream(TEXTS[2], edits=[c, a], **SHORT)) == mixed[2]


def test_all_states_are_those_of_edits_placed_by_hand(endless):
    """At two sites and two scopes, in one padded pass over prompts and responses."""
    lm = endless
    a, b, c = edits_of(lm)
    prompts = [lm.chat.prompt(text) for text in TEXTS]
    answers = [lm.chat.response("the sea")] * 3
    batch = collate(prompts, answers, pad_id=lm.chat.pad_id)
    writers = edit_writers(lm, [[a, b, (c, 2.0)], [c], None], [1.0, -1.0, 1.0])
    with torch.no_grad(), written(lm.blocks, writers, batch.spans):
        ours = lm.logits(batch)
    named = batch.spans.prompt | batch.spans.response
    first = torch.zeros(*batch.ids.shape, lm.width)
    first[0][named[0]] = a.vector + b.vector
    second = torch.zeros_like(first)
    second[0][batch.spans.response[0]] = 2 * c.vector
    second[1][batch.spans.response[1]] = -c.vector

    def add(delta):
        return lambda _m, _a, out: (
            out + delta if torch.is_tensor(out) else (out[0] + delta, *out[1:])
        )

    hooks = [
        tiny.module_at(lm, site).register_forward_hook(add(delta))
        for site, delta in ((Site(1), first), (Site(2, "mlp"), second))
    ]
    with torch.no_grad():
        expected = lm.logits(batch)
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(
        ours[batch.spans.real], expected[batch.spans.real], rtol=0, atol=1e-4
    )
    losses = response_token_losses(lm, prompts, answers, writers)
    alone = response_token_losses(
        lm, prompts[:1], answers[:1], edit_writers(lm, [[a, b, (c, 2.0)]], [1.0])
    )
    torch.testing.assert_close(losses[0], alone[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("variant", tiny.VARIANTS)
def test_steering_prompts_and_edits_on_one_row(lm, variant):
    """The hypernetwork reads states that no edit of the row has touched at its site."""
    case = tiny.case_of(lm.name, variant)
    steerer, lm = case.steerer, case.lm
    edit = tiny.edit_of(lm, Site(2), 5)
    for text in TEXTS:
        made = [steerer.edit(words, text) for words in case.steer]
        both = steerer.generate(text, edits=[*case.steer], **SHORT)
        assert both == lm.generate(text, edit=made[0] + made[1], **SHORT)
        more = steerer.generate(text, steer=[[edit, (case.steer[0], 0.5)]], strength=2.0, **SHORT)
        assert more == lm.generate(text, edits=[(edit, 2.0), (made[0], 1.0)], **SHORT)
    texts = steerer.generate(TEXTS, steer=[case.steer[0], [*case.steer], None], **SHORT)
    assert texts[0] == steerer.generate(TEXTS[0], steer=case.steer[0], **SHORT)
    assert texts[1] == steerer.generate(TEXTS[1], edits=[*case.steer], **SHORT)
    assert texts[2] == lm.generate(TEXTS[2], **SHORT)


def test_rules_beside_edits(tiny_llama):
    from gating import condition_at

    lm = tiny.ending_with(tiny_llama)
    a, b, c = edits_of(lm)
    rules = hs.rules(
        "if here then x, y", conditions={"here": condition_at(lm, 0, 1)}, edits={"x": a, "y": b}
    )
    log = hs.Decisions()
    together = lm.generate(TEXTS, edit=rules, edits=[c], decisions=log, **SHORT)
    for row, text in enumerate(TEXTS):
        fired = log.rows[row][0].edits == ("x", "y")
        own = [a, b, c] if fired else [c]
        assert together[row] == lm.generate(text, edits=own, **SHORT)
    below = tiny.edit_of(lm, Site(0), 6)
    high = hs.rules("if here then y", conditions={"here": condition_at(lm, 2, 1)}, edits={"y": b})
    alone, beside = hs.Decisions(), hs.Decisions()
    lm.generate(TEXTS, edit=high, decisions=alone, **SHORT)
    lm.generate(TEXTS, edit=high, edits=[below], decisions=beside, **SHORT)
    for one, other in zip(alone.rows, beside.rows, strict=True):
        assert one[0].scores == pytest.approx(other[0].scores, abs=1e-5)
    other = hs.rules("if here then x", conditions={"here": condition_at(lm, 0, 2)}, edits={"x": a})
    with pytest.raises(SteeringError, match="several sets of rules"):
        lm.generate("Hi", edits=[rules, other])


def test_strength_0_and_bad_input(tiny_llama):
    lm = tiny.ending_with(tiny_llama)
    a, b, _ = edits_of(lm)
    plain = lm.generate(TEXTS, **SHORT)
    assert lm.generate(TEXTS, edits=[a, b], strength=0, **SHORT) == plain
    assert lm.generate(TEXTS, edits=[(a, 0.0)], **SHORT) == plain
    for edits, told in (
        ([a, "sing"], "'sing' is not an edit"),
        ([(a, "2")], "strength '2'"),
        ([(a, float("nan"))], "nan"),
        ([5], "5 is not an edit"),
    ):
        with pytest.raises(SteeringError, match=told):
            lm.generate(TEXTS, edits=edits)


def test_steering_prompts_may_be_said_as_well(tiny_llama):
    """Said and steered is the edit for the prompt that says it; edits and rules have no words."""
    case = tiny.case_of("llama", "cross-attention")
    steerer, lm = case.steerer, case.lm
    words, other = case.steer[:2]
    edit = tiny.edit_of(lm, Site(2), 5)
    with_one = [prompted(text, words) for text in TEXTS]
    both = steerer.generate(TEXTS, steer=words, prompted=True, **SHORT)
    assert both == steerer.generate(with_one, steer=words, **SHORT)
    # At strength 0 a row is the unsteered model, and below it nothing asks for what is weakened.
    mixed = steerer.generate(TEXTS, steer=words, prompted=True, strength=[0.0, -1.0, 1.0], **SHORT)
    away = steerer.generate(TEXTS, steer=words, strength=-1.0, **SHORT)
    assert mixed == [lm.generate(TEXTS, **SHORT)[0], away[1], both[2]]
    pieces = steerer.stream(TEXTS[0], steer=words, prompted=True, **SHORT)
    assert "".join(pieces) == both[0]
    rows = [[words, (other, 0.5)], edit, None]
    told = [prompted(prompted(TEXTS[0], words), other), TEXTS[1], TEXTS[2]]
    found = steerer.generate(TEXTS[:3], steer=rows, prompted=True, **SHORT)
    assert found == steerer.generate(told, steer=rows, **SHORT)


def test_what_was_learnt_beside_the_prompt_is_said_unless_told_otherwise(tiny_llama):
    made = tiny.steerer_of(tiny.ending_with(tiny_llama))
    card = replace(made.card, training={"loss": {"prompted": True}})
    steerer, words = hs.Steerer(made.lm, made.hypernet, card), "sing of bees"
    for said in (True, False):
        expected = made.generate(TEXTS, steer=words, prompted=said, **SHORT)
        assert steerer.generate(TEXTS, steer=words, prompted=said, **SHORT) == expected
        options = {} if said else {"prompted": False}
        pieces = steerer.stream(TEXTS[0], steer=words, **options, **SHORT)
        assert "".join(pieces) == expected[0]
    both = made.generate(TEXTS, steer=words, prompted=True, **SHORT)
    assert steerer.generate(TEXTS, steer=words, **SHORT) == both
    assert both != made.generate(TEXTS, steer=words, **SHORT)
