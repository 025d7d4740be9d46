"""Requests that come, wait, take too long, break or go away do nothing to the others."""

import threading
import time

import httpx2
import pytest
import torch

from hypersteer.hypernet.network import Hypernet
from serving.live import STEER, TEXTS, endless, live, wait_until, words


def expected(server, text, steer, tokens=12):
    steerer = server.served["tiny"].steerer
    return steerer.generate(text, steer=steer, max_new_tokens=tokens)


def test_a_short_answer_does_not_wait_for_a_long_one(server):
    with server.client() as client:
        body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
        long = {**body, "max_tokens": 200, "temperature": 0}
        with client.stream("POST", "/v1/chat/completions", json=long) as stream:
            lines = stream.iter_lines()
            next(lines)
            found = words(server.chat(messages=TEXTS[1], steering=STEER[0]))
            assert found == expected(server, TEXTS[1], STEER[0])
            assert not server.served["tiny"].worker.idle  # the long one still runs


def test_a_client_that_leaves_frees_its_row(server):
    worker = server.served["tiny"].worker
    with server.client() as client:
        body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
        with client.stream(
            "POST", "/v1/chat/completions", json={**body, "max_tokens": 200}
        ) as stream:
            next(stream.iter_lines())
    wait_until(lambda: worker.idle)
    with pytest.raises(httpx2.ReadTimeout), server.client() as client:
        client.post(
            "/v1/chat/completions", json={**body, "stream": False, "max_tokens": 200}, timeout=0.2
        )
    wait_until(lambda: worker.idle)


def test_too_many_are_turned_away_and_told_when_to_come_back(tmp_path):
    limits = {"max_rows": 1, "max_answers": 1, "max_queue": 2}
    with live({"tiny": endless()}, tmp_path, **limits) as server:
        found = []

        def ask():
            found.append(server.chat(messages="Hi", max_tokens=150))

        threads = [threading.Thread(target=ask) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        statuses = [one.status_code for one in found]
        assert set(statuses) == {200, 429}
        assert 1 < statuses.count(200) < 12
        turned = next(one for one in found if one.status_code == 429)
        assert int(turned.headers["retry-after"]) > 0
        assert turned.json()["error"]["type"] == "rate_limit_error"
        texts = {words(one) for one in found if one.status_code == 200}
        assert len(texts) == 1


def test_a_request_that_takes_too_long_ends(tmp_path):
    with live({"tiny": endless()}, tmp_path, max_seconds=0.1) as server:
        response = server.chat(messages="Hi", max_tokens=200)
        assert response.status_code == 504
        assert "0.1 s" in response.json()["error"]["message"]
        assert server.served["tiny"].worker.idle
        with server.client() as client:
            streamed = server.chat(client, messages="Hi", max_tokens=200, stream=True)
        assert '"code": "timeout"' in streamed.text
        assert "[DONE]" not in streamed.text


def test_numbers_that_break_end_their_own_request_only(server):
    """At this strength the tiny model's logits are not finite."""
    found = {}

    def ask(number, part):
        found[number] = server.chat(messages=TEXTS[1], steering=part, max_tokens=40)

    parts = [{"text": STEER[0], "strength": 3e37} if n % 3 == 1 else STEER[n % 4] for n in range(9)]
    threads = [threading.Thread(target=ask, args=one) for one in enumerate(parts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for number, part in enumerate(parts):
        if isinstance(part, str):
            assert words(found[number]) == expected(server, TEXTS[1], part, 40)
        else:
            assert found[number].status_code == 400
            assert "3e+37" in found[number].json()["error"]["message"]


def test_a_fault_in_one_prefill_ends_those_rows_only(server, monkeypatch):
    """The hypernetwork fails on one text, whatever was taken in with it."""
    real = Hypernet.forward

    def failing(self, embeds, mask, *rest, **named):
        if bool((mask.sum(1) > 60).any()):
            raise RuntimeError("out of memory, or so")
        return real(self, embeds, mask, *rest, **named)

    monkeypatch.setattr(Hypernet, "forward", failing)
    found = {}

    def ask(number):
        steer = "a very long text " * 8 if number == 3 else STEER[number % 4]
        found[number] = server.chat(messages=TEXTS[1], steering=steer, max_tokens=20)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    monkeypatch.undo()
    failed = [number for number, one in found.items() if one.status_code != 200]
    assert failed == [3]
    assert found[3].status_code == 500
    for number in set(range(8)) - {3}:
        assert words(found[number]) == expected(server, TEXTS[1], STEER[number % 4], 20)


def test_a_long_prefill_runs_aside_and_changes_nothing(tmp_path):
    with live({"tiny": endless()}, tmp_path, aside_tokens=1) as server:
        found = {}

        def ask(number):
            time.sleep(0.02 * number)
            found[number] = server.chat(
                messages=TEXTS[number % 4] * (1 + number % 3),
                steering=STEER[number % 4],
                max_tokens=60,
            )

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        for number in range(16):
            text = TEXTS[number % 4] * (1 + number % 3)
            assert words(found[number]) == expected(server, text, STEER[number % 4], 60), number
        assert server.served["tiny"].worker.idle


def test_a_fault_of_a_step_ends_what_runs_and_not_the_server(server, monkeypatch):
    worker = server.served["tiny"].worker
    real = type(worker._batch).step
    calls = iter(range(100))

    def failing(self):
        if next(calls) == 3:
            raise RuntimeError("a fault")
        return real(self)

    monkeypatch.setattr(type(worker._batch), "step", failing)
    response = server.chat(messages="Hi", max_tokens=30)
    monkeypatch.undo()
    assert response.status_code == 500
    assert words(server.chat(messages="Hi")) == expected(server, "Hi", None)


def test_stopping_lets_answers_finish(tmp_path):
    found = []
    with live({"tiny": endless()}, tmp_path) as server:
        thread = threading.Thread(
            target=lambda: found.append(server.chat(messages="Hi", max_tokens=200))
        )
        thread.start()
        wait_until(lambda: not server.served["tiny"].worker.idle)
    thread.join(20)
    assert words(found[0]) == expected(server, "Hi", None, 200)
    assert torch.get_num_threads() == 1


def test_a_stop_in_a_long_prefill_tells_its_client(tmp_path, monkeypatch):
    with live({"tiny": endless()}, tmp_path, aside_tokens=1) as server:
        worker, held, found = server.served["tiny"].worker, threading.Event(), {}
        real = worker._prefill

        def slow(*rows):
            held.wait(20)
            real(*rows)

        def ask(number):
            found[number] = server.chat(messages="Hi", max_tokens=200)

        monkeypatch.setattr(worker, "_prefill", slow)
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(2)]
        threads[0].start()
        wait_until(lambda: worker._jobs)
        threads[1].start()
        wait_until(lambda: worker._aside)
        worker.close(0.01)
        for thread in threads:
            thread.join(10)
        held.set()
    assert [found[number].status_code for number in range(2)] == [503, 503]


def test_health_models_and_metrics(server):
    with server.client() as client:
        assert client.get("/health").json() == {"status": "ok", "models": ["tiny", "reading"]}
        listed = client.get("/v1/models").json()["data"]
        assert [one["id"] for one in listed] == ["tiny", "reading"]
        assert client.get("/v1/models/tiny").json() == listed[0]
        words(server.chat(messages="Hi", steering=STEER[0]))
        told = client.get("/metrics").text
    assert 'hypersteer_requests_total{path="/v1/chat/completions",status="200"}' in told
    for name in ("tokens_total", "edits_total", "requests_waiting", "answers_running"):
        assert f"hypersteer_{name}" in told
