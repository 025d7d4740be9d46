"""Rules through the plug-in, without vLLM: what is asked, decided, said and passed on."""

import pytest
import torch

import hypersteer as hs
from hypersteer.config.vllm_plugin import PluginConfig
from hypersteer.errors import CheckpointError, ConfigError, SteeringError
from hypersteer.serving.errors import Refused
from hypersteer.vllm_plugin.making import Making
from hypersteer.vllm_plugin.payload import KEY, Steered, decoded, packed, unpacked
from hypersteer.vllm_plugin.questions import Question, answers_of, asked, questions_of, rules_told
from vllm_plugin.places import STEER, front_of
from vllm_plugin.ruled import EDITS, PROMPTS, TWO, Placed


@pytest.fixture(scope="module")
def placed(tmp_path_factory):
    return Placed(tmp_path_factory.mktemp("rules"))


def both(placed):
    """Prompts on which it fires and does not."""
    return placed.front, placed.steerer, placed.llm


def test_what_fires_acts_and_is_said_as_from_python(placed):
    front, steerer, llm = both(placed)
    conditions = {"half": placed.half}
    fired = set()
    for prompt in PROMPTS:
        log, wanted = hs.Decisions(), hs.Decisions()
        field = {"rules": TWO, "edits": EDITS, "strength": 0.5}
        ids, extra = front.request(prompt, field, llm=llm, decisions=log)
        rules = hs.rules(TWO, conditions=conditions, edits=EDITS)
        steerer.generate(prompt, steer=rules, strength=0.5, decisions=wanted, max_new_tokens=1)
        ((found,),), ((expected,),) = log.rows, wanted.rows
        assert found.as_dict() == expected.as_dict()
        (name,) = found.edits
        fired.add(name)
        strength = 0.5 if name == "turn" else -0.5
        assert decoded(extra[KEY]) == [Steered(text=EDITS[name], strength=strength)]
        said = front.request(prompt, {"text": EDITS[name], "strength": strength})
        assert (ids, extra) == said, "one payload, so one prefix in the cache"
    assert fired == {"turn", "other"}


def test_parts_come_behind_rules_and_stored_edits_are_packed(placed):
    front, _, llm = both(placed)
    field = [
        {"text": STEER[2], "strength": 0.25, "scope": "response"},
        {"rules": "if half or not half then ones at 2", "edits": {"ones": "edit:ones"}},
    ]
    _, extra = front.request(PROMPTS[0], field, llm=llm)
    first, second = decoded(extra[KEY])
    assert first == Steered(edit=packed(placed.edit), strength=2.0)
    assert second == Steered(text=STEER[2], scope="response", strength=0.25)
    assert torch.equal(unpacked(first.edit).params["vector"], placed.edit.params["vector"])


def test_nothing_that_acts_is_no_payload(placed):
    front, _, llm = both(placed)
    log = hs.Decisions()
    plain = front.request("Hi", None)
    never = "if half then turn; if not half then turn"
    for field in (
        {"rules": never, "edits": EDITS, "strength": 0},
        {"rules": "if half or not half then turn at 0", "edits": EDITS},
    ):
        assert front.request("Hi", field, llm=llm, decisions=log) == plain
        assert log.rows[0][0].edits == ("turn",)
    assert front.request("Hi", "a", decisions=log)[1]
    assert log.rows == [[]]


def test_a_rule_of_the_server_by_its_name_and_which_tokens_decided(placed):
    front, steerer, llm = both(placed)
    log, wanted = hs.Decisions(), hs.Decisions()
    field = {"rule": "named", "tokens": True}
    front.request(PROMPTS[1], field, llm=llm, decisions=log)
    rules = hs.rules(
        "if half then turn", conditions={"half": placed.half}, edits=EDITS, tokens=True
    )
    steerer.generate(PROMPTS[1], steer=rules, decisions=wanted, max_new_tokens=1)
    assert log.rows[0][0].as_dict() == wanted.rows[0][0].as_dict()
    assert log.rows[0][0].tokens


def test_only_what_is_read_stays(placed):
    assert len(placed.making.lm.blocks) == placed.llm.deciding.blocks == 2


def test_layers_counted_from_the_top_stay_what_they_were(tmp_path):
    placed = Placed(tmp_path, layer=-2)
    lm = placed.steerer.lm
    assert len(placed.making.lm.blocks) == lm.depth - 1
    log, wanted = hs.Decisions(), hs.Decisions()
    placed.front.request("Why?", {"rule": "named"}, llm=placed.llm, decisions=log)
    rules = hs.rules("if half then turn", conditions={"half": placed.half}, edits=EDITS)
    placed.steerer.generate("Why?", steer=rules, decisions=wanted, max_new_tokens=1)
    assert log.rows[0][0].as_dict() == wanted.rows[0][0].as_dict()


def test_questions_are_answered_one_by_one(placed):
    front, steerer, llm = both(placed)
    plan = front.read({"rules": TWO, "edits": EDITS})
    told = rules_told(front.rules(plan))
    prompts = [steerer.lm.chat.prompt(one) for one in PROMPTS]
    prompts.append(steerer.lm.chat.prompt([{"role": "user", "content": "x " * 700}]))
    bad = told._replace(text='if "asks about health" then turn')
    questions = [Question(one, told) for one in prompts]
    questions.insert(2, Question(prompts[0], bad))
    assert questions_of(asked(questions)) == questions
    found = answers_of(llm.deciding.answer(asked(questions)))
    assert "no head that writes conditions from words ships" in found.pop(2)
    alone = [answers_of(llm.deciding.answer(asked([Question(one, told)])))[0] for one in prompts]
    for one, other in zip(found, alone, strict=True):
        assert one.edits == other.edits
        assert one.scores["half"] == pytest.approx(other.scores["half"], abs=1e-5)


@pytest.mark.parametrize("text", [None, 3, "", "[3]", "[[[[1],0,null],[1]]]", "[" * 99_999])
def test_what_no_front_end_asks_is_refused(placed, text):
    with pytest.raises(SteeringError, match="which no front end asks"):
        placed.llm.deciding.answer(text)


@pytest.mark.parametrize(
    ("steering", "told"),
    [
        ({"rules": ""}, "there is no rule"),
        ({"rules": "if half and not half then turn", "edits": EDITS}, "can never fire"),
        ({"rules": 'if "health then turn', "edits": EDITS}, "column 4: this quotation mark has no"),
        ({"rules": "if halv then turn", "edits": EDITS}, "unknown condition 'halv'; did you mean"),
        ({"rules": "if half then tern"}, "unknown edit 'tern'"),
        ({"rules": "if half then a", "edits": {"a": "edit:nowhere"}}, "no edit is stored as"),
        ({"rules": "if half then a", "edits": {"a": "x" * 3000}}, "at most 2,000 are taken"),
        ({"rules": 'if half then "a", "b", "c"'}, "3 edits may act at once, those of the rules"),
        (["a", {"rules": 'if half then "b", "c"'}], "3 edits may act at once"),
        ([{"rule": "named"}, {"rule": "named", "tokens": True}], "several sets of rules"),
        ({"rule": "name"}, "unknown rule 'name'; did you mean 'named"),
    ],
)
def test_what_cannot_be_is_told_before_any_model_work(placed, steering, told):
    with pytest.raises((Refused, SteeringError), match=told) as caught:
        placed.front.read(steering)
    assert "\n" not in str(caught.value)


def test_what_excludes_each_other_is_counted_once(placed):
    text = "if half then turn; if not half then other"
    assert placed.front.read(["a", {"rules": text, "edits": EDITS}]).steer


def test_rules_want_a_worker(placed):
    with pytest.raises(SteeringError, match="give llm="):
        placed.front.request("Hi", {"rule": "named"})
    with pytest.raises(SteeringError, match="unknown rule"):
        placed.front.request("Hi", {"rule": "other"}, llm=placed.llm)
    with pytest.raises(SteeringError, match="no head that writes conditions"):
        placed.front.request("Hi", {"rules": 'if "is short" then turn'}, llm=placed.llm)


def test_rules_that_are_off_are_refused_by_name(tmp_path):
    front, _, _ = front_of(tmp_path)
    with pytest.raises(Refused, match="start it with '\"rules\": true'"):
        front.read({"rules": 'if "a" then "b"'})
    for name in ("condition", "rule", "steer"):
        with pytest.raises(ConfigError, match=f"hypersteer.{name} is for rules, which are off"):
            PluginConfig(**{name: "a=b"})


def test_neither_head_nor_conditions_is_told_at_the_start(tmp_path):
    front, _, model = front_of(tmp_path, settings={"rules": True})
    with pytest.raises(CheckpointError, match="no head that writes conditions from words ships"):
        Making(front, str(model), device="cpu", dtype="float32")
