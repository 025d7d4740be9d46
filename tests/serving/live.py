"""A real server in a thread of the test's process: real sockets, tiny base LMs."""

import threading
import time
from collections.abc import Mapping
from contextlib import contextmanager
from typing import NamedTuple

import httpx2
import uvicorn

import tiny
from hypersteer.config.serving import ServeConfig
from hypersteer.serving.app import new_app
from hypersteer.serving.metrics import Metrics
from hypersteer.serving.run import _listen
from hypersteer.serving.served import Served, known_of, open_models

TEXTS = ["Hi", "Tell me about your day at the sea, about the ship and the bees.", "Why?", "the day"]
STEER = ["talk like a pirate", "the sea", "be gloomy, and brief", "bees and honey"]


class Live(NamedTuple):
    """Where a server answers, and what it serves."""

    url: str
    served: Mapping[str, Served]

    def client(self, **options):
        return httpx2.Client(base_url=self.url, timeout=60, **options)

    def chat(self, client=None, **asked):
        body = {"model": "tiny", "temperature": 0, "max_tokens": 12, **asked}
        if isinstance(body.get("messages"), str):
            body["messages"] = [{"role": "user", "content": body["messages"]}]
        if client is not None:
            return client.post("/v1/chat/completions", json=body)
        with self.client() as own:
            return own.post("/v1/chat/completions", json=body)


def endless(variant="no-context", family="llama", **options):
    """A steerer whose base LM never ends by itself."""
    return tiny.steerer_of(tiny.ending_with(tiny.lm_of(family)), variant, **options)


@contextmanager
def live(steerers, edits, *, key="", **settings):
    """Serve steerers by name; `edits` is the folder of the stored ones."""
    config = ServeConfig(port=0, edits=str(edits), **{"repetition_penalty": 1.0, **settings})
    metrics, known, listening = Metrics(), known_of(config), _listen(config)
    served = open_models(config, metrics, steerers=steerers)
    app = new_app(config, served, known, metrics, key)
    told = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=5)
    server = uvicorn.Server(told)
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield Live(f"http://127.0.0.1:{listening.getsockname()[1]}", served)
    finally:
        server.should_exit = True
        thread.join(20)
        listening.close()
        assert not thread.is_alive()


def wait_until(true, seconds=20.0):
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.01)


def words(response):
    """The text of a chat's first answer."""
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]["content"]
