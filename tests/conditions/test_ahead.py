"""Rules that are decided before an answer, so that their steering prompts are in the prompt too."""

import pytest

import hypersteer as hs
import tiny
from gating import PROMPTS, condition_at, fires_by_hand
from hypersteer.engine.requests import as_request
from hypersteer.errors import SteeringError

SHORT = {"max_new_tokens": 4}


@pytest.fixture(params=tiny.FAMILIES)
def case(request):
    return tiny.case_of(request.param, "cross-attention")


@pytest.fixture
def conditions(case):
    return {"a": condition_at(case.lm, 1, 1), "b": condition_at(case.lm, 0, 2)}


@pytest.fixture
def edits(case):
    return {"x": case.steer[0], "z": tiny.edit_of(case.lm, case.steerer.card.site)}


def test_what_fires_is_said_and_steers_as_if_it_had_been_asked_for(case, conditions, edits):
    text = "if a then x, z at 0.5; if b then y at -1"
    rules = hs.rules(text, conditions=conditions, edits={**edits, "y": case.steer[1]})
    wanted, acting = [], []
    for prompt in PROMPTS:
        found = []
        if fires_by_hand(case.lm, prompt, conditions["a"]):
            found += [("x", (edits["x"], 1.0)), ("z", (edits["z"], 0.5))]
        if fires_by_hand(case.lm, prompt, conditions["b"]):
            found += [("y", (case.steer[1], -1.0))]
        acting.append(tuple(name for name, _ in found))
        wanted.append([steer for _, steer in found])
    assert len(set(acting)) > 1
    log, plain = hs.Decisions(), hs.Decisions()
    given = {"strength": [1.0, 0.5, 1.0, 2.0], "prompted": True} | SHORT
    texts = case.steerer.generate(list(PROMPTS), steer=rules, decisions=log, **given)
    assert texts == case.steerer.generate(list(PROMPTS), steer=wanted, **given)
    assert [tuple(check.edits for check in row) for row in log.rows] == [(one,) for one in acting]
    case.steerer.generate(list(PROMPTS), steer=rules, decisions=plain, prompted=False, **SHORT)
    for found, expected in zip(log.rows, plain.rows, strict=True):
        assert found[0]._replace(scores={}) == expected[0]._replace(scores={})
        assert found[0].scores == pytest.approx(expected[0].scores, abs=1e-5)
    pieces = hs.Decisions()
    streamed = case.steerer.stream(
        PROMPTS[1], steer=rules, strength=0.5, prompted=True, decisions=pieces, **SHORT
    )
    assert "".join(streamed) == texts[1]
    assert pieces.rows[0][0].edits == acting[1]
    log.restart(1, {})
    assert log.rows == [[]]


def test_the_words_are_in_the_prompt_where_the_rule_fires(case, conditions, edits):
    rules = hs.rules("if a then x", conditions=conditions, edits=edits)
    say = case.steerer._answerer.decide
    request = as_request(case.lm, list(PROMPTS), rules, 1.0, say=say)
    for row, prompt in enumerate(PROMPTS):
        fires = fires_by_hand(case.lm, prompt, conditions["a"])
        told = f"{edits['x']}, and now {prompt}" if fires else prompt
        said = as_request(case.lm, prompt, edits["x"] if fires else None, 1.0, say=say)
        assert request.prompts[row] == said.prompts[0], told
        assert (request.prompts[row] == case.lm.chat.prompt(prompt)) == (not fires)
        assert request.steer[row] == ([(edits["x"], 1.0)] if fires else [])
        assert request.decided[row].edits == (("x",) if fires else ())
    for strength in (0.0, -1.0):
        unsaid = as_request(case.lm, list(PROMPTS), rules, strength, say=say)
        assert unsaid.prompts == [case.lm.chat.prompt(prompt) for prompt in PROMPTS]


def test_rules_that_wait_or_say_nothing_stay_rules(case, conditions, edits):
    say = case.steerer._answerer.decide
    for text, check in (("if a then x", "token"), ("if a then z", "prompt")):
        rules = hs.rules(text, conditions=conditions, edits=edits, check=check)
        request = as_request(case.lm, list(PROMPTS), rules, 1.0, say=say)
        assert request.steer == [rules] * len(PROMPTS)
        assert not request.decided
    rules = hs.rules("if a then x", conditions=conditions, edits=edits)
    steer = [rules, None, [rules, (edits["z"], 2.0)], edits["x"]]
    request = as_request(case.lm, list(PROMPTS), steer, 1.0, say=say)
    assert set(request.decided) == {0, 2}
    assert request.steer[1] is None
    assert request.steer[2][-1] == (edits["z"], 2.0)
    assert request.steer[3] == edits["x"]


def test_they_are_decided_on_the_prompt_as_given_whatever_it_says_besides(case, conditions, edits):
    rules = hs.rules("if a then z", conditions=conditions, edits=edits)
    steer = [[rules, edits["x"]]] * len(PROMPTS)
    alone, beside = hs.Decisions(), hs.Decisions()
    case.steerer.generate(list(PROMPTS), steer=rules, decisions=alone, prompted=True, **SHORT)
    texts = case.steerer.generate(
        list(PROMPTS), steer=steer, decisions=beside, prompted=True, **SHORT
    )
    acted = set()
    for prompt, text, (found,), (wanted,) in zip(
        PROMPTS, texts, beside.rows, alone.rows, strict=True
    ):
        assert found.scores == pytest.approx(wanted.scores, abs=1e-5)
        assert found.edits == wanted.edits
        acted.add(found.edits)
        acts = [(edits["z"], 1.0)] if found.edits else []
        given = {"steer": [[*acts, edits["x"]]], "prompted": True} | SHORT
        assert case.steerer.generate([prompt], **given) == [text]
    assert acted == {(), ("z",)}


def test_several_sets_of_rules_are_refused(case, conditions, edits):
    two = [hs.rules("if a then x", conditions=conditions, edits=edits) for _ in "ab"]
    with pytest.raises(SteeringError, match="several sets of rules"):
        case.steerer.generate(["Hi"], steer=[two], prompted=True, **SHORT)


def test_an_edit_for_another_base_lm_is_told_before_any_model_work(
    case, conditions, edits, monkeypatch
):
    def decided(*_):
        pytest.fail("the prompts were read")

    monkeypatch.setattr("hypersteer.answering.decide_ahead", decided)
    other = tiny.lm_of("llama" if case.lm.name == "gpt2" else "gpt2")
    wrong = tiny.edit_of(other, case.steerer.card.site)
    rules = hs.rules("if a then x, z", conditions=conditions, edits={**edits, "z": wrong})
    for steer in (rules, [[rules, wrong]]):
        with pytest.raises(SteeringError, match="base LM"):
            case.steerer.generate(["Hi"], steer=steer, prompted=True, **SHORT)
