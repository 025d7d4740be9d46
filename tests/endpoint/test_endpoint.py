"""Requests to a real HTTP server: replies, retries, failures, and what makes a call stop."""

import asyncio
import os
import signal
import socket
import sys
import threading
import time

import pytest

from children import Child
from endpoint.server import Sent, refused, said
from hypersteer.endpoint.endpoint import GIVE_UP
from hypersteer.endpoint.replies import Failed, Reply
from hypersteer.errors import EndpointError


def user(text):
    return [{"role": "user", "content": text}]


def scripted(*answers):
    """Gives these answers in turn, then echoes."""
    return lambda asked: answers[asked.number] if asked.number < len(answers) else said("fine")


def test_replies_come_in_the_order_of_the_requests(server, endpoint):
    asking = endpoint(temperature=0.5, max_tokens=7, seed=40)
    finished = []
    system = [{"role": "system", "content": "be brief"}, *user("b")]
    replies = asking.complete([user("a"), system, user("c")], done=finished.append)
    assert replies == [Reply(f"echo {x}", 10, 5) for x in "abc"]
    assert sum(finished) == 3
    bodies = {asked.text: asked.body for asked in server.asked}
    assert bodies["b"] == {
        "model": "tiny",
        "messages": system,
        "temperature": 0.5,
        "max_tokens": 7,
        "seed": 40,
    }
    assert asking.complete([]) == []


def test_requests_may_draw_with_seeds_of_their_own(server, endpoint):
    asked = [user("a"), user("b"), user("a")]
    for seed in (1, 2):
        endpoint(seed=seed, own_seeds=True).complete(asked, samples=[0, 0, 1])
    seeds = [request.body["seed"] for request in server.asked]
    assert len(set(seeds)) == len(seeds) == 6
    assert all(0 <= seed < 2**31 for seed in seeds)
    endpoint(seed=1, own_seeds=True, cache=False).complete(asked[:1])
    assert server.asked[-1].body["seed"] == seeds[0], "nothing but the request decides"


def test_settings_that_some_servers_want(server, endpoint):
    endpoint(temperature=None, token_limit="max_completion_tokens").complete([user("a")])
    assert sorted(server.asked[0].body) == ["max_completion_tokens", "messages", "model"]


def test_the_key_comes_from_its_variable_and_a_local_server_needs_none(
    server, endpoint, monkeypatch
):
    endpoint().complete([user("a")])
    monkeypatch.setenv("MY_KEY", " secret\n")
    endpoint(api_key_env="MY_KEY").complete([user("b")])
    keys = [asked.headers["authorization"] for asked in server.asked]
    assert keys == ["Bearer none", "Bearer secret"]


def test_equal_requests_are_asked_once_and_samples_make_them_different(server, endpoint):
    asking, finished = endpoint(), []
    replies = asking.complete([user("a"), user("b"), user("a")], done=finished.append)
    assert [reply.text for reply in replies] == ["echo a", "echo b", "echo a"]
    assert sorted(server.texts) == ["a", "b"]
    assert sum(finished) == 3
    server.script = lambda asked: said(f"reply {asked.number}")
    replies = asking.complete([user("a")] * 3, samples=[0, 1, 2])
    assert replies[0].text == "echo a"
    assert {reply.text for reply in replies[1:]} == {"reply 2", "reply 3"}
    assert asking.usage.cache_hits == 2


def test_a_pause_that_the_server_asks_for_is_kept(server, endpoint):
    times = []

    def script(asked):
        times.append(time.monotonic())
        return refused(429, Retry_After="0.3") if asked.number == 0 else said("fine")

    server.script = script
    asking = endpoint()
    assert asking.complete([user("a")])[0].text == "fine"
    assert times[1] - times[0] >= 0.3
    assert (asking.usage.calls, asking.usage.retries, asking.usage.failures) == (2, 1, 0)


PASSING = {
    "408": refused(408),
    "409": refused(409),
    "429": refused(429),
    "500": refused(500),
    "503": Sent(503, "<html>down for now</html>"),
    "dropped": Sent(drop=True),
    "not JSON": Sent(body='{"choices": [{"mess'),
    "HTML": Sent(body="<html>hello</html>"),
    "a list": Sent(body="[]"),
    "no choices": Sent(body='{"choices": []}'),
    "null choices": Sent(body='{"choices": null, "error": {"message": "upstream"}}'),
    "no message": Sent(body='{"choices": [{"finish_reason": "stop"}]}'),
    "null message": Sent(body='{"choices": [{"message": null}]}'),
    "null text": said(None),
    "empty text": said(" \n"),
    "parts": said([{"type": "text"}]),
}


@pytest.mark.parametrize("trouble", PASSING.values(), ids=PASSING)
def test_what_may_pass_is_tried_again(server, endpoint, trouble):
    server.script = scripted(trouble, trouble)
    asking = endpoint(retries=2)
    assert asking.complete([user("a")])[0].text == "fine"
    assert len(server.asked) == 3

    server.asked.clear()
    server.script = lambda asked: trouble
    (failed,) = endpoint(retries=1, cache=False).complete([user("a")])
    assert isinstance(failed, Failed)
    assert "(tried 2 times)" in failed.error
    assert "\n" not in failed.error
    assert len(server.asked) == 2


OWN = {
    "400": (refused(400, "too long"), "too long"),
    "422": (refused(422, "no such field"), "no such field"),
    "cut off": (said("half a", finish="length"), "raise max_tokens (512)"),
    "cut off before a word": (said(None, finish="length"), "raise max_tokens (512)"),
    "filtered": (said("", finish="content_filter"), "content filter"),
    "model refuses": (said(None, refusal="I cannot."), "I cannot."),
}


@pytest.mark.parametrize(("trouble", "message"), OWN.values(), ids=OWN)
def test_what_is_the_requests_own_fault_fails_alone_and_at_once(server, endpoint, trouble, message):
    server.script = lambda asked: trouble if asked.text == "bad" else said("fine")
    requests = [user("bad"), user("good"), user("better")]
    asking = endpoint()
    failed, *replies = asking.complete(requests)
    assert isinstance(failed, Failed)
    assert message in failed.error
    assert [reply.text for reply in replies] == ["fine", "fine"]
    assert sorted(server.texts) == ["bad", "better", "good"]
    assert (asking.usage.failures, asking.usage.retries) == (1, 0)
    # A failure is not kept: it is asked again, and only it.
    endpoint().complete(requests)
    assert server.texts[3:] == ["bad"]


def test_many_failures_of_requests_own_do_not_stop_a_call(server, endpoint):
    server.script = lambda asked: refused(400)
    replies = endpoint().complete([user(str(number)) for number in range(3 * GIVE_UP)])
    assert all(isinstance(reply, Failed) for reply in replies)


def test_a_server_that_is_too_slow(server, endpoint):
    free = threading.Event()

    def script(asked):
        if asked.number == 0:
            free.wait(10)
        return said("fine")

    server.script = script
    asking = endpoint(timeout_s=0.2)
    assert asking.complete([user("a")])[0].text == "fine"
    assert asking.usage.retries == 1

    def stuck(asked):
        free.wait(10)
        return said("late")

    server.script = stuck
    (failed,) = endpoint(timeout_s=0.2, retries=0, cache=False).complete([user("a")])
    free.set()
    assert failed.error == f"no reply from {server.url} in 0.2 s"


HOPELESS = {
    "401": (refused(401, "bad key"), "(401: bad key): OPENAI_API_KEY is not set"),
    "403": (refused(403, "not yours"), "(403: not yours)"),
    "404": (refused(404, "unknown model"), "no model 'tiny' at http://127"),
    "no credit": (refused(429, "pay", "insufficient_quota"), "no credit left at http://127"),
    "a long wait": (refused(429, Retry_After="3600"), "asks to wait 3600 s"),
}


@pytest.mark.parametrize(("trouble", "message"), HOPELESS.values(), ids=HOPELESS)
def test_what_no_request_can_pass_stops_the_call_after_the_first(
    server, endpoint, trouble, message
):
    server.script = lambda asked: trouble
    with pytest.raises(EndpointError) as raised:
        endpoint().complete([user(str(number)) for number in range(20)])
    assert message in str(raised.value)
    assert len(server.asked) == 1


def test_a_wrong_key_is_not_told(server, endpoint, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-12345")
    server.script = lambda asked: refused(401, "Incorrect API key provided: sk-12345")
    with pytest.raises(EndpointError, match="set OPENAI_API_KEY to a valid key") as raised:
        endpoint().complete([user("a")])
    assert "sk-12345" not in str(raised.value)


def test_a_wrong_path(server, endpoint):
    with pytest.raises(EndpointError, match="base_url, which most often ends in /v1"):
        endpoint(base_url=server.url.removesuffix("/v1")).complete([user("a")])


def test_nobody_listens(endpoint):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}/v1"
        with pytest.raises(
            EndpointError, match=r"cannot reach http://127.*see that the server runs"
        ):
            endpoint(base_url=url).complete([user("a"), user("b")])


def test_openai_without_a_key(endpoint):
    with pytest.raises(EndpointError, match="needs a key and NO_KEY_HERE is not set"):
        endpoint(base_url=None, api_key_env="NO_KEY_HERE").complete([user("a")])


def test_a_key_that_cannot_be_one(server, endpoint, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "schlüssel")
    with pytest.raises(EndpointError, match="the key in OPENAI_API_KEY"):
        endpoint().complete([user("a")])


def test_without_the_package(server, endpoint, monkeypatch):
    endpoint().complete([user("a")])
    monkeypatch.setitem(sys.modules, "openai", None)
    assert endpoint().complete([user("a")])[0].text == "echo a", "what is kept needs no package"
    with pytest.raises(EndpointError, match=r'pip install "hypersteer\[endpoint\]"'):
        endpoint().complete([user("b")])


@pytest.mark.parametrize("trouble", [refused(500), refused(401), Sent(drop=True)])
def test_a_server_that_dies_half_way_stops_the_call_and_what_was_paid_for_is_kept(
    server, endpoint, trouble
):
    requests = [user(str(number)) for number in range(40)]
    server.script = lambda asked: said("fine") if asked.number < 15 else trouble
    with pytest.raises(EndpointError, match=f"{GIVE_UP} requests in a row failed"):
        endpoint(retries=0, concurrency=1).complete(requests)
    assert len(server.asked) == 15 + GIVE_UP

    server.asked.clear()
    server.script = lambda asked: said("fine")
    assert all(reply.text == "fine" for reply in endpoint().complete(requests))
    assert len(server.asked) == 40 - 15


def test_a_killed_process_loses_nothing(server, endpoint, cache):
    stuck, free = threading.Event(), threading.Event()

    def script(asked):
        if asked.number == 3:
            stuck.set()
            free.wait(30)
        return said(f"echo {asked.text}")

    server.script = script
    code = (
        "from hypersteer.endpoint.endpoint import Endpoint\n"
        "from hypersteer.endpoint.settings import EndpointConfig\n"
        f"config = EndpointConfig(base_url={server.url!r}, model='tiny', concurrency=1)\n"
        "ask = [[{'role': 'user', 'content': str(n)}] for n in range(6)]\n"
        "Endpoint(config).complete(ask)\n"
    )
    environment = {**os.environ, "HYPERSTEER_CACHE": str(cache)}
    with Child([sys.executable, "-c", code], env=environment) as child:
        assert stuck.wait(60)
        child.send_signal(signal.SIGKILL)
    free.set()
    server.asked.clear()
    replies = endpoint(concurrency=1).complete([user(str(number)) for number in range(6)])
    assert [reply.text for reply in replies] == [f"echo {number}" for number in range(6)]
    assert server.texts == ["3", "4", "5"]


def test_no_more_than_so_many_at_once_and_the_first_alone(server, endpoint):
    meeting = threading.Barrier(3)
    alone = []

    def script(asked):
        if asked.number == 0:
            time.sleep(0.1)
            alone.append(len(server.asked))
        else:
            meeting.wait(20)
        return said("fine")

    server.script = script
    replies = endpoint(concurrency=3).complete([user(str(number)) for number in range(13)])
    assert all(isinstance(reply, Reply) for reply in replies)
    assert alone == [1]
    assert server.most_at_once == 3


def test_inside_a_running_event_loop_and_in_threads(server, endpoint):
    asking = endpoint(cache=False)

    async def notebook():
        return asking.complete([user("a"), user("b")])

    assert [reply.text for reply in asyncio.run(notebook())] == ["echo a", "echo b"]

    replies = {}

    def work(name):
        replies[name] = asking.complete([user(f"{name}{number}") for number in range(5)])

    threads = [threading.Thread(target=work, args=(name,)) for name in "xyz"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in "xyz":
        assert [reply.text for reply in replies[name]] == [f"echo {name}{n}" for n in range(5)]
    assert asking.usage.calls == 17


def test_errors_inside_a_running_event_loop(server, endpoint):
    server.script = lambda asked: refused(401)

    async def notebook():
        endpoint().complete([user("a")])

    with pytest.raises(EndpointError, match="401"):
        asyncio.run(notebook())


def test_tokens_and_cost(server, endpoint):
    answers = {
        "a": said("fine", tokens=(1000, 200)),
        "cut": said("ha", finish="length", tokens=(300, 64)),
        "free": Sent(body='{"choices": [{"message": {"content": "fine"}}], "usage": null}'),
    }
    server.script = lambda asked: answers[asked.text]
    asking = endpoint(input_price=2.0, output_price=10.0)
    for _ in range(2):
        asking.complete([user(text) for text in answers])
    used = asking.usage
    # `cut` failed and so was asked, and paid for, twice.
    assert (used.calls, used.cache_hits, used.failures, used.retries) == (4, 2, 2, 0)
    assert (used.input_tokens, used.output_tokens) == (1000 + 2 * 300, 200 + 2 * 64)
    assert used.cost == pytest.approx(1600 * 2e-6 + 328 * 1e-5)
    assert endpoint().usage.cost is None


def test_half_a_surrogate_pair_is_survived_both_ways(server, endpoint):
    server.script = lambda asked: said("bad \ud83d here")
    assert endpoint().complete([user("a")])[0].text == "bad ? here"
    good, sent = endpoint().complete([user("a"), user("\ud83d")])
    assert good.text == "bad ? here"
    assert isinstance(sent, (Failed, Reply))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>\nHm.\n</think>\n\nAye.", "Aye."),
        ("Hm, pirates.\n</think>\n\nAye.", "Aye."),
        ("</think>Aye.", "Aye."),
        (" Aye. ", " Aye. "),
        ("Write <think> before and </think> after.", "Write <think> before and </think> after."),
    ],
)
def test_an_answer_comes_without_thoughts(server, endpoint, text, answer):
    """Also where the template had opened them; from the server and from the cache."""
    server.script = lambda _: said(text)
    for _ in range(2):
        assert endpoint().complete([user("a")]) == [Reply(answer, 10, 5)]
    assert len(server.asked) == 1


def test_thoughts_without_an_answer_are_no_reply(server, endpoint):
    server.script = lambda asked: said(("<think>Hm", "Hm.</think> ", "Hm</think>Aye")[asked.number])
    assert [reply.text for reply in endpoint(retries=2).complete([user("a")])] == ["Aye"]
    assert len(server.asked) == 3
