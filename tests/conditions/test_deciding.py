"""Which tokens decided: shares worked out by hand, and told on request with what was decided."""

from dataclasses import replace

import pytest
import torch

import hypersteer as hs
import tiny
from gating import CHATS, LONG, PROMPTS, condition_at, drawn, states_by_hand
from hypersteer.conditions.deciding import deciding_tokens
from hypersteer.errors import CheckpointError, SteeringError

SHORT = {"max_new_tokens": 3}


def two_layers(lm, **fields):
    """A condition that reads two layers, with intercepts and scales."""
    means = torch.stack([drawn(31), drawn(32)]) / 10
    return replace(
        condition_at(lm, 1),
        directions=torch.stack([drawn(21), drawn(22)]),
        means=means,
        scales=1 + torch.stack([drawn(41), drawn(42)]).abs(),
        fitted=(1, 2),
        layers=(1, 2),
        threshold=0.0,
        **fields,
    )


def shares_by_hand(lm, condition, text):
    """Shares [K, T] token by token, each mean without one token's state, from plain passes."""
    prompt = lm.chat.prompt(text)
    turn = prompt.prefix if prompt.turn is None else prompt.turn
    starts = {"turn": turn, "prompt": prompt.prefix, "all": 0, "last": len(prompt.ids) - 1}
    start = starts[condition.pooling]
    found = []
    for row, layer in enumerate(condition.layers):
        states = states_by_hand(lm, prompt.ids, layer)[start:].double()
        scale = 1.0 if condition.scales is None else condition.scales[row].double()
        centred = (states - condition.means[row].double()) / scale
        mean = centred.mean(0)
        direction = condition.directions[row].double()
        without = [mean @ direction - (mean - one / len(states)) @ direction for one in centred]
        found.append(torch.stack(without) / mean.norm())
    return torch.stack(found)


@pytest.mark.parametrize("joined", ["mean", "any"])
@pytest.mark.parametrize("pooling", ["turn", "prompt", "all", "last"])
def test_shares_are_those_worked_out_by_hand(lm, pooling, joined):
    condition = two_layers(lm, joined=joined, pooling=pooling)
    for text in CHATS if pooling == "turn" else PROMPTS:
        found = deciding_tokens(condition, text, lm=lm)
        by_layer = shares_by_hand(lm, condition, text)
        expected = by_layer.mean(0) if joined == "mean" else by_layer[by_layer.sum(1).argmax()]
        assert [share for _, share in found] == pytest.approx(expected.tolist(), abs=1e-5)
        ids = lm.chat.prompt(text).ids[-len(found) :]
        assert [text for text, _ in found] == [lm.tokenizer.decode([one]) for one in ids]


def test_shares_add_up_to_the_score_that_decides(lm):
    conditions = {"a": two_layers(lm, joined="mean"), "b": condition_at(lm, 0, 2)}
    edits = {"x": tiny.edit_of(lm, lm.site(1), 1)}
    rules = hs.rules("if a and not b then x", conditions=conditions, edits=edits, tokens=True)
    log = hs.Decisions()
    given = {"edit": [rules, None, rules, rules], "decisions": log, **SHORT}
    texts = lm.generate(list(PROMPTS), strength=2.0, **given)
    for row, checks in enumerate(log.rows):
        assert len(checks) == (row != 1)
        for check in checks:
            for name, condition in conditions.items():
                assert sum(share for _, share in check.tokens[name]) == pytest.approx(
                    check.scores[name], abs=1e-5
                )
                alone = deciding_tokens(condition, PROMPTS[row], lm=lm)
                assert [text for text, _ in check.tokens[name]] == [text for text, _ in alone]
    told = log.rows[0][0].as_dict()["tokens"]["a"]
    assert told == [[text, round(share, 6)] for text, share in log.rows[0][0].tokens["a"]]
    plain = hs.Decisions()
    quiet = replace(rules, tokens=False)
    given = {"edit": [quiet, None, quiet, quiet], "decisions": plain, **SHORT}
    assert lm.generate(list(PROMPTS), strength=2.0, **given) == texts
    assert plain.rows[0][0].tokens is None
    assert "tokens" not in plain.rows[0][0].as_dict()


def test_of_rules_that_are_said_the_tokens_are_those_of_the_prompt_as_given(said):
    conditions = {"a": condition_at(said.lm, 1, 1)}
    edits = {"x": said.steer[0]}
    rules = hs.rules("if a then x", conditions=conditions, edits=edits, tokens=True)
    log = hs.Decisions()
    said.steerer.generate([LONG], steer=rules, decisions=log, prompted=True, **SHORT)
    ((check,),) = log.rows
    assert check.tokens == {"a": deciding_tokens(conditions["a"], LONG, lm=said.lm)}


def test_a_check_during_the_answer_tells_none(lm):
    conditions = {"a": condition_at(lm, 0)}
    edits = {"x": tiny.edit_of(lm, lm.site(1), 1)}
    rules = hs.rules("if a then x", conditions=conditions, edits=edits, check="token", tokens=True)
    log = hs.Decisions()
    lm.generate([LONG], edit=rules, decisions=log, **SHORT)
    first, *later = log.rows[0]
    assert first.tokens
    assert later
    assert all(check.tokens is None for check in later)


def test_what_has_no_shares_is_refused_or_left_out(lm):
    legacy = replace(condition_at(lm, 0), scorer="legacy")
    answer = replace(condition_at(lm, 0), pooling="response")
    with pytest.raises(SteeringError, match="legacy, which is no sum"):
        deciding_tokens(legacy, "Hi", lm=lm)
    with pytest.raises(SteeringError, match="about the answer"):
        deciding_tokens(answer, "Hi", lm=lm)
    with pytest.raises(CheckpointError, match="base LM"):
        deciding_tokens(replace(legacy, base_lm="another"), "Hi", lm=lm)
    rules = hs.rules(
        "if a then x",
        conditions={"a": legacy},
        edits={"x": tiny.edit_of(lm, lm.site(1), 1)},
        tokens=True,
    )
    log = hs.Decisions()
    lm.generate(["Hi"], edit=rules, decisions=log, **SHORT)
    assert log.rows[0][0].tokens is None


@pytest.fixture
def said():
    return tiny.case_of("llama", "cross-attention")
