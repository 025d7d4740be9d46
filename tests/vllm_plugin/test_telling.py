"""What rules decided stands in an answer where our own server puts it; all else is untouched."""

import asyncio
import json

import pytest

from hypersteer.conditions.rules import Check
from hypersteer.vllm_plugin.telling import Telling

CHECK = Check(0, {"health": 0.25}, ("health",), ("doctor",), {"health": 0.75})
PARTS = [{"strength": 1.0, "rules": "if health then doctor"}]
JSON, EVENTS = b"application/json", b"text/event-stream; charset=utf-8"


def passed(bodies, kind=JSON, status=200):
    """The status, headers and body that a client gets, and how many messages they came in."""
    got = []

    async def send(message):
        got.append(message)

    async def run():
        telling = Telling(send, PARTS, CHECK)
        length = str(sum(map(len, bodies))).encode()
        headers = [(b"content-type", kind), (b"content-length", length), (b"x-own", b"1")]
        await telling({"type": "http.response.start", "status": status, "headers": headers})
        for number, one in enumerate(bodies):
            more = number < len(bodies) - 1
            await telling({"type": "http.response.body", "body": one, "more_body": more})

    asyncio.run(run())
    assert got[0]["type"] == "http.response.start"
    body = b"".join(one["body"] for one in got[1:])
    return dict(got[0]["headers"]), body, got


def cut(content, count):
    return [
        content[n * len(content) // count : (n + 1) * len(content) // count] for n in range(count)
    ]


@pytest.mark.parametrize("count", [1, 3])
def test_a_whole_answer(count):
    answer = {"choices": [{"index": 0, "text": "é"}, {"index": 1, "text": "b"}], "usage": {"n": 1}}
    headers, body, _ = passed(cut(json.dumps(answer).encode(), count))
    found = json.loads(body)
    steering = found.pop("steering")
    assert found == answer
    assert steering["parts"] == PARTS
    assert [one["index"] for one in steering["answers"]] == [0, 1]
    assert all(one["decisions"] == [CHECK.as_dict()] for one in steering["answers"])
    assert headers[b"content-length"] == str(len(body)).encode()
    assert headers[b"x-own"] == b"1"


@pytest.mark.parametrize("count", [1, 2, 7, 50])
def test_a_stream_tells_it_in_the_last_chunk_of_each_answer(count):
    chunks = [
        {"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": None}]},
        {"choices": [{"index": 1, "delta": {"content": "\\n\\n"}, "finish_reason": None}]},
        {"choices": [{"index": 1, "delta": {}, "finish_reason": "stop"}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]},
        {"choices": [], "usage": {"total_tokens": 3}},
    ]
    events = [b"data: " + json.dumps(one).encode() for one in chunks] + [b"data: [DONE]"]
    content = b"".join(one + b"\n\n" for one in events)
    _, body, _ = passed(cut(content, count), EVENTS)
    *found, last = body.split(b"\n\n")
    assert last == b""
    for number in (0, 1, 4, 5):
        assert found[number] == events[number], "byte for byte"
    for number, index in ((2, 1), (3, 0)):
        told = json.loads(found[number].removeprefix(b"data: "))
        steering = told.pop("steering")
        assert told == chunks[number]
        (answer,) = steering["answers"]
        assert (answer["index"], answer["decisions"]) == (index, [CHECK.as_dict()])


def test_a_stream_is_not_held_back():
    chunk = b'data: {"choices":[{"index":0,"finish_reason":null}]}\n\n'
    _, _, got = passed([chunk, chunk[:20], chunk[20:], b"data: [DONE]\n\n"], EVENTS)
    assert [one["body"] for one in got[1:]] == [chunk, chunk, b"data: [DONE]\n\n"]


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b'{"error" : {"message": "no"}}', JSON, 400),
        (b'{"error" : {"message": "no"}}', JSON, 200),
        (b"not json", JSON, 200),
        (b'{"choices": []}', b"text/plain", 200),
        (b'data: {"error": {"finish_reason": 1}}\n\ndata: [DONE]\n\nrest', EVENTS, 200),
        (b"data: finish_reason\n\n", EVENTS, 200),
        (b"", JSON, 200),
    ],
)
def test_all_else_is_untouched(body, kind, status):
    headers, found, _ = passed(cut(body, 2), kind, status)
    assert found == body
    assert headers[b"content-length"] == str(len(body)).encode()
