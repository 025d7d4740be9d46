"""Whether the Hub answers: a real server that gives, refuses, is broken, or says nothing."""

import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants

from hypersteer.errors import ModelError
from hypersteer.lm import hub
from hypersteer.lm.catalogue import find_known
from hypersteer.lm.hub import hub_answers

GEMMA = find_known("gemma-3-270m")
COMMIT = {"X-Repo-Commit": "0" * 40, "ETag": '"x"'}


@contextmanager
def answering(monkeypatch, status, headers, wait=None):
    """A Hub on this machine that says the same to everyone."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append(self.path)
            if wait is not None:
                wait.wait(20)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", url)
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield asked
        if wait is not None:
            wait.set()
        server.shutdown()
        thread.join()


def test_a_hub_that_gives(monkeypatch):
    with answering(monkeypatch, 200, COMMIT) as asked:
        assert hub_answers(GEMMA)
        assert hub_answers(GEMMA, "v1")
    assert asked == [f"/{GEMMA.hub}/resolve/{name}/config.json" for name in ("main", "v1")]


@pytest.mark.parametrize(
    ("status", "headers"), [(500, {}), (503, COMMIT), (403, {}), (407, {}), (200, {}), (404, {})]
)
def test_a_hub_that_is_broken_or_a_proxy_in_its_place(monkeypatch, status, headers):
    with answering(monkeypatch, status, headers) as asked:
        assert not hub_answers(GEMMA)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("status", "code", "told"),
    [
        (403, "GatedRepo", "accept its terms"),
        (404, "RepoNotFound", "it is not there"),
        (404, "RevisionNotFound", "no revision 'v9'"),
    ],
)
def test_a_hub_that_refuses_is_believed(monkeypatch, status, code, told):
    """Its terms are not gone round; who wants the wheels asks for them."""
    with answering(monkeypatch, status, {"X-Error-Code": code}):
        for revision in {"v9", None} if "Revision" not in code else {"v9"}:
            with pytest.raises(ModelError) as caught:
                hub_answers(GEMMA, revision)
            assert GEMMA.hub in str(caught.value)
            assert told in str(caught.value)
            assert ("models get gemma-3-270m" in str(caught.value)) == (revision is None)


def test_a_hub_that_says_nothing_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(hub, "PATIENCE_S", 0.2)
    with answering(monkeypatch, 200, COMMIT, wait=threading.Event()):
        started = time.monotonic()
        assert not hub_answers(GEMMA)
        assert time.monotonic() - started < 2


def test_a_name_that_is_looked_up_for_ever_is_not_waited_for(monkeypatch):
    end = threading.Event()
    monkeypatch.setattr(hub, "PATIENCE_S", 0.2)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.getaddrinfo", lambda *_a, **_k: end.wait(20))
    assert not hub_answers(GEMMA)
    end.set()


def test_offline_means_that_nobody_is_asked(monkeypatch):
    with answering(monkeypatch, 200, COMMIT) as asked:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert not hub_answers(GEMMA)
    assert asked == []
