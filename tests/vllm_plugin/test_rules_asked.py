"""Requests with rules, as they come over HTTP and as vLLM gets them, without vLLM."""

import json

import pytest

from hypersteer.vllm_plugin.payload import KEY
from vllm_plugin.places import STEER
from vllm_plugin.ruled import EDITS, PROMPTS, TWO, Placed
from vllm_plugin.test_middleware import sent


@pytest.fixture(scope="module")
def placed(tmp_path_factory):
    return Placed(tmp_path_factory.mktemp("rules"))


HI = [{"role": "user", "content": PROMPTS[1]}]
FIELD = {"rules": TWO, "edits": EDITS}


def body_of(placed, asked_for, path="/v1/chat/completions"):
    received, answered = sent(placed.front, asked_for, path, decide=placed.llm.decide)
    assert not answered, answered
    return json.loads(received["body"])


def test_a_request_over_http_is_the_same(placed):
    found = body_of(placed, {"messages": HI, "steering": FIELD})
    ids, extra = placed.front.request(PROMPTS[1], FIELD, llm=placed.llm)
    assert found["vllm_xargs"] == extra
    assert placed.front.chat.prompt(found["messages"]).ids == ids


def test_texts_that_go_on_and_ids(placed):
    def go_on(prompt, steering=FIELD):
        return body_of(placed, {"prompt": prompt, "steering": steering}, "/v1/completions")

    lm = placed.steerer.lm
    ids = [*lm.chat.lead, *lm.chat.text(PROMPTS[1])]
    text, one, of_ids = go_on(PROMPTS[1]), go_on([PROMPTS[1]]), go_on(ids)
    name = "turn" if STEER[0] in text["vllm_xargs"][KEY] else "other"
    assert text["prompt"].startswith("Follow this") == (name == "turn")
    assert one["prompt"] == [text["prompt"]]
    assert of_ids["prompt"] == ids, "nothing can be said in it"
    assert text["vllm_xargs"] == one["vllm_xargs"] == of_ids["vllm_xargs"]


@pytest.mark.parametrize(
    ("body", "path", "told"),
    [
        (
            {"prompt": ["a", "b"]},
            "/v1/completions",
            "this request has 2; send one request for each",
        ),
        (
            {"prompt": [[1], [2]]},
            "/v1/completions",
            "this request has 2; send one request for each",
        ),
        ({"prompt": ""}, "/v1/completions", "the prompt is empty"),
        ({"prompt": []}, "/v1/completions", "ids that are none"),
        ({"prompt": [10**9]}, "/v1/completions", "ids that are none"),
        ({"prompt": [True]}, "/v1/completions", "give a text, or ids"),
        ({}, "/v1/completions", "give a text, or ids"),
        ({"prompt": [1], "steering": [FIELD, "a"]}, "/v1/completions", "given as ids"),
        ({"prompt": "a " * 9000}, "/v1/completions", "tokens; at most"),
        ({"messages": []}, "/v1/chat/completions", "a prompt is a text or a list"),
        ({"messages": HI, "use_beam_search": True}, "/v1/chat/completions", "beam search"),
        ({"messages": HI, "steering": {"rules": "if"}}, "/v1/chat/completions", "column 3"),
    ],
)
def test_what_rules_cannot_be_decided_on_is_answered_at_once(placed, body, path, told):
    before = len(placed.llm.calls)
    received, answered = sent(
        placed.front, {"steering": FIELD, **body}, path, decide=placed.llm.decide
    )
    assert not received
    assert answered[0]["status"] == 400
    error = json.loads(answered[1]["body"])["error"]["message"]
    assert told in error
    assert "\n" not in error
    assert len(placed.llm.calls) == before, "no model work"


def test_a_fault_of_the_engine_is_told_as_the_servers(placed):
    async def broken(question):
        raise RuntimeError("the engine\nis dead")

    _, answered = sent(placed.front, {"messages": HI, "steering": FIELD}, decide=broken)
    assert answered[0]["status"] == 500
    assert "\n" not in json.loads(answered[1]["body"])["error"]["message"]

    async def refuses(question):
        return "the condition is about the answer"

    _, answered = sent(placed.front, {"messages": HI, "steering": FIELD}, decide=refuses)
    assert answered[0]["status"] == 400
