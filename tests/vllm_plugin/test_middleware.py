"""The field `steering` becomes what vLLM passes on; what cannot steer is answered at once."""

import asyncio
import json

import pytest

from hypersteer.vllm_plugin.middleware import Steering
from hypersteer.vllm_plugin.payload import KEY, decoded
from vllm_plugin.places import STEER, front_of

CHAT = "/v1/chat/completions"
HI = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def front(tmp_path_factory):
    return front_of(tmp_path_factory.mktemp("middleware"))[0]


async def nobody(question):
    raise AssertionError(f"nobody is there to decide {question}")


def sent(front, body, path=CHAT, kind=b"application/json", parts=3, decide=nobody):
    """What the application behind receives, and what the client is answered."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    cut = [
        content[n * len(content) // parts : (n + 1) * len(content) // parts] for n in range(parts)
    ]
    waiting = [
        {"type": "http.request", "body": one, "more_body": n < parts - 1}
        for n, one in enumerate(cut)
    ]
    received, answered = {}, []

    async def app(scope, receive, send):
        message = await receive()
        received.update(body=message["body"], headers=dict(scope["headers"]))
        assert (await receive())["type"] == "http.disconnect"

    async def receive():
        return waiting.pop(0) if waiting else {"type": "http.disconnect"}

    async def send(message):
        answered.append(message)

    headers = [(b"content-type", kind), (b"content-length", str(len(content)).encode())]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
    asyncio.run(Steering(app, lambda: front, decide)(scope, receive, send))
    return received, answered


def test_a_steered_chat(front):
    steering = {"text": STEER[0], "strength": 0.5, "prompted": True}
    asked = {"model": "m", "messages": HI, "steering": steering, "vllm_xargs": {"other": 1}}
    received, answered = sent(front, asked)
    assert not answered
    assert int(received["headers"][b"content-length"]) == len(received["body"])
    found = json.loads(received["body"])
    assert "steering" not in found
    assert found["vllm_xargs"]["other"] == 1
    assert decoded(found["vllm_xargs"][KEY])[0].text == STEER[0]
    assert STEER[0] in found["messages"][-1]["content"]


@pytest.mark.parametrize("steering", [None, {"text": STEER[0], "strength": 0}, []])
def test_what_is_unsteered_reaches_vllm_as_it_was(front, steering):
    asked = {"model": "m", "messages": HI}
    received, _ = sent(front, {**asked, "steering": steering})
    assert json.loads(received["body"]) == asked


@pytest.mark.parametrize(
    "body", [b'{"messages": [], "seed" : 1}', b"{no json, steering", b"[1]", b""]
)
def test_other_bodies_are_passed_on_byte_by_byte(front, body):
    assert sent(front, body, parts=1)[0]["body"] == body


def test_texts_that_go_on(front):
    steering = {"text": STEER[1], "prompted": True}
    received, _ = sent(front, {"prompt": ["a", "b"], "steering": steering}, "/v1/completions")
    assert all(STEER[1] in one for one in json.loads(received["body"])["prompt"])
    _, answered = sent(front, {"prompt": [1, 2], "steering": steering}, "/v1/completions")
    assert "given as ids" in json.loads(answered[1]["body"])["error"]["message"]


@pytest.mark.parametrize(
    ("body", "path", "param"),
    [
        ({"messages": HI, "vllm_xargs": {KEY: "[]"}}, CHAT, f"vllm_xargs.{KEY}"),
        ({"messages": HI, "steering": {"txt": "a"}}, CHAT, "steering.txt"),
        ({"messages": HI, "steering": " "}, CHAT, "steering"),
        ({"input": "Hi", "steering": "a"}, "/v1/responses", "steering"),
        ({"messages": HI, "steering": "a", "use_beam_search": True}, CHAT, "use_beam_search"),
    ],
)
def test_what_cannot_steer_is_answered_as_openai_answers(front, body, path, param):
    received, answered = sent(front, body, path)
    assert not received
    assert answered[0]["status"] == 400
    error = json.loads(answered[1]["body"])["error"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert "\n" not in error["message"]
