"""Replies that are read by the probabilities of their first token."""

import json
import math
import sqlite3

import pytest

from endpoint.server import Sent, said, unsure
from hypersteer.endpoint.cache import FILE, cache_key, open_cache
from hypersteer.endpoint.replies import Failed, Reply
from hypersteer.endpoint.settings import EndpointConfig
from hypersteer.errors import ConfigError, EndpointError

ASK = [{"role": "user", "content": "a"}]
SURE = {"Yes": 0.75, "No": 0.2, " yes": 0.04}


def test_probabilities_come_with_the_reply_and_are_kept(server, endpoint):
    server.script = lambda asked: unsure(SURE)
    (reply,) = endpoint(top_logprobs=5, max_tokens=1).complete([ASK])
    assert reply.text == "Yes"
    assert reply.likely == pytest.approx(SURE)
    assert server.asked[0].body["logprobs"] is True
    assert server.asked[0].body["top_logprobs"] == 5
    asking = endpoint(top_logprobs=5, max_tokens=1)
    assert asking.complete([ASK]) == [reply]
    assert asking.usage.calls == 0
    assert len(server.asked) == 1


def test_without_them_nothing_is_asked_for_and_the_keys_are_the_old_ones(server, endpoint):
    endpoint().complete([ASK])
    assert "logprobs" not in server.asked[0].body
    plain, probable = (cache_key(EndpointConfig(top_logprobs=n), ASK, 0) for n in (0, 5))
    assert plain == cache_key(EndpointConfig(), ASK, 0)
    assert plain != probable


def test_tokens_of_one_text_are_added(server, endpoint):
    entries = [{"token": "Yes", "logprob": math.log(0.3)}, {"token": "Yes", "logprob": -math.inf}]
    choice = {"logprobs": {"content": [{"top_logprobs": entries}]}}
    body = json.dumps({"choices": [choice]}).replace("-Infinity", "-1e999")
    server.script = lambda asked: Sent(body=body)
    (reply,) = endpoint(top_logprobs=2).complete([ASK])
    assert reply.likely == pytest.approx({"Yes": 0.3})


def choice_of(top):
    return {"logprobs": {"content": [{"top_logprobs": top}]}}


@pytest.mark.parametrize(
    "choice",
    [
        {"message": {"content": "Yes"}},
        {"logprobs": None},
        {"logprobs": {"content": []}},
        choice_of([]),
        choice_of([{"token": "Yes"}]),
        choice_of([{"token": 7, "logprob": -1.0}]),
        choice_of([{"token": "Yes", "logprob": "-1"}]),
        choice_of([{"token": "Yes", "logprob": 1e6}]),
        choice_of([{"token": "Yes", "logprob": 0.5}]),
        choice_of([{"token": "Yes", "logprob": math.nan}]),
    ],
)
def test_a_server_that_gives_none_or_nonsense_is_told_at_once(server, endpoint, choice):
    server.script = lambda asked: Sent(body=json.dumps({"choices": [choice]}))
    with pytest.raises(EndpointError, match="holds no logprobs: choose a server and a model"):
        endpoint(top_logprobs=5).complete([ASK, [{"role": "user", "content": "b"}]])
    assert len(server.asked) == 1


def test_no_choices_at_all_may_pass(server, endpoint):
    server.script = lambda asked: unsure(SURE) if asked.number else Sent(body='{"choices": []}')
    (reply,) = endpoint(top_logprobs=5).complete([ASK])
    assert isinstance(reply, Reply)
    server.script = lambda asked: Sent(body='{"error": "busy"}')
    (reply,) = endpoint(top_logprobs=5, retries=0, cache=False).complete([ASK])
    assert isinstance(reply, Failed)
    assert "no choices: busy" in reply.error


def test_a_cache_of_an_earlier_version_is_kept_and_extended(server, endpoint, cache):
    cache.mkdir(parents=True)
    key = cache_key(EndpointConfig(model="tiny"), ASK, 0)
    with sqlite3.connect(cache / FILE) as old:
        old.execute(
            "CREATE TABLE replies (key TEXT PRIMARY KEY, text TEXT NOT NULL, input_tokens INTEGER "
            "NOT NULL, output_tokens INTEGER NOT NULL) WITHOUT ROWID"
        )
        old.execute("INSERT INTO replies VALUES (?, 'paid for', 3, 4)", (key,))
    old.close()
    server.script = lambda asked: unsure(SURE)
    assert endpoint().complete([ASK]) == [Reply("paid for", 3, 4, {})]
    endpoint(top_logprobs=5).complete([ASK])
    assert len(server.asked) == 1
    with open_cache(cache) as kept:
        assert kept.get(key) == Reply("paid for", 3, 4, {})


@pytest.mark.parametrize("number", [-1, 21])
def test_how_many_there_can_be(number):
    with pytest.raises(ConfigError, match=f"top_logprobs {number} is not within 0 and 20"):
        EndpointConfig(top_logprobs=number)


def test_a_plain_reply_that_was_cut_off_is_still_none(server, endpoint):
    server.script = lambda asked: said("half a", finish="length")
    (reply,) = endpoint().complete([ASK])
    assert isinstance(reply, Failed)
