"""Rules on a checkpoint that wants its steering prompt in the prompt as well."""

import pytest

import hypersteer as hs
from gating import condition_at
from hypersteer.lm.messages import prompted
from serving.live import STEER, endless, live, words
from serving.test_looks import with_card

PROMPTS = ["Hi", "Tell me about your day at the sea, about the ship and the bees.", "Why?"]


@pytest.fixture(scope="module")
def steerer():
    return with_card(endless("cross-attention"), training={"loss": {"prompted": True}})


@pytest.fixture(scope="module")
def server(steerer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rules")
    given = []
    for name, condition in conditions(steerer.lm).items():
        given.append(f"{name}={condition.save(folder / f'{name}.safetensors')}")
    quiet = with_card(endless("cross-attention"), training={"loss": {"prompted": False}})
    with live({"tiny": steerer, "quiet": quiet}, folder / "edits", condition=tuple(given)) as found:
        yield found


def conditions(lm):
    """One below the edits, and one above them that looks at the newest token."""
    above = condition_at(lm, 3, 5, "last", PROMPTS)
    return {"half": condition_at(lm, 1, prompts=PROMPTS), "now": above}


TEXT = "if half then turn; if not half then other at -1"
EDITS = {"turn": STEER[0], "other": STEER[1]}


def test_a_chat_is_answered_as_from_python(steerer, server):
    acted = set()
    for prompt in PROMPTS:
        answer = server.chat(
            messages=prompt, steering={"rules": TEXT, "edits": EDITS, "strength": 0.5}
        )
        (told,) = answer.json()["steering"]["answers"]
        (check,) = told["decisions"]
        acted.add(tuple(check["edits"]))
        fires = check["conditions"] == ["half"]
        steer = [(STEER[0], 0.5)] if fires else [(STEER[1], -0.5)]
        said = prompted(prompt, STEER[0]) if fires else prompt
        expected = steerer.generate([said], steer=[steer], prompted=False, max_new_tokens=12)
        assert words(answer) == expected[0]
    assert acted == {("turn",), ("other",)}


def test_what_fires_is_said_in_the_same_order_as_from_python(steerer, server):
    given = condition_at(steerer.lm, 1, prompts=PROMPTS)
    rules = hs.rules("if half then turn", conditions={"half": given}, edits={"turn": STEER[0]})
    parts = [{"text": STEER[1], "strength": 0.5}, {"rules": str(rules), "edits": EDITS}]
    log = hs.Decisions()
    for prompt in PROMPTS:
        expected = steerer.generate(
            prompt, edits=[(STEER[1], 0.5), rules], decisions=log, max_new_tokens=12
        )
        assert words(server.chat(messages=prompt, steering=parts)) == expected
        if log.rows[0][0].edits:
            break
    else:
        pytest.fail("it never fired")


def test_a_text_that_is_said_besides_is_not_what_rules_are_decided_on(server):
    rules = {"rules": "if half then turn", "edits": {"turn": STEER[0]}}
    text = {"text": STEER[1], "prompted": True}
    for model in ("tiny", "quiet"):
        for prompt in PROMPTS:
            found = [
                server.chat(model=model, messages=prompt, steering=steering).json()
                for steering in ([rules], [rules, text])
            ]
            alone, beside = (one["steering"]["answers"][0]["decisions"][0] for one in found)
            assert beside["scores"] == pytest.approx(alone["scores"], abs=1e-5)
            assert beside["edits"] == alone["edits"]
            assert found[0]["usage"]["prompt_tokens"] < found[1]["usage"]["prompt_tokens"]


@pytest.mark.parametrize("check", ["token", 3])
def test_rules_are_checked_in_the_answer_as_from_python(steerer, server, check):
    text, edits = "if now then turn; if half then other", EDITS
    rules = hs.rules(text, conditions=conditions(steerer.lm), edits=edits, check=check)
    changes = 0
    for prompt in PROMPTS:
        log = hs.Decisions()
        expected = steerer.generate(prompt, steer=rules, decisions=log, max_new_tokens=12)
        field = {"rules": text, "edits": edits, "check": check}
        answer = server.chat(messages=prompt, steering=field)
        assert words(answer) == expected
        (told,) = answer.json()["steering"]["answers"]
        assert told["decisions"] == [one.as_dict() for one in log.rows[0]]
        changes += len({one.edits for one in log.rows[0]}) - 1
    assert changes


def test_completions_say_it_too_and_ids_are_gated_only(steerer, server):
    lm = steerer.lm
    with server.client() as client:
        body = {
            "model": "tiny",
            "prompt": PROMPTS,
            "max_tokens": 6,
            "temperature": 0,
            "steering": {"rules": "if half then turn", "edits": {"turn": STEER[0]}},
        }
        together = client.post("/v1/completions", json=body).json()
        decided = [row["decisions"][0]["edits"] for row in together["steering"]["answers"]]
        for prompt, edits, choice in zip(PROMPTS, decided, together["choices"], strict=True):
            said = prompted(prompt, STEER[0]) if edits else prompt
            plain = body | {"prompt": said, "steering": None}
            if edits:
                plain["steering"] = {"text": STEER[0], "prompted": False}
            alone = client.post("/v1/completions", json=plain).json()
            assert choice["text"] == alone["choices"][0]["text"]
        ids = [*lm.chat.lead, *lm.chat.text(PROMPTS[1])]
        of_ids = client.post("/v1/completions", json=body | {"prompt": ids})
        assert of_ids.status_code == 200
        (row,) = of_ids.json()["steering"]["answers"]
        assert row["decisions"]
        assert of_ids.json()["usage"]["prompt_tokens"] == len(ids)
