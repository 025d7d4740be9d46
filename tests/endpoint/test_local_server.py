"""A real llama.cpp engine with a tiny model: its life, its death, and what it leaves behind."""

import copy
import signal
import sys
import time

import httpx2
import psutil
import pytest
import torch

from children import talking
from gguf_files import write_gguf
from hypersteer.endpoint import local_server
from hypersteer.endpoint.connection import Connection
from hypersteer.endpoint.endpoint import Endpoint
from hypersteer.endpoint.local_server import EngineSettings, LocalServer
from hypersteer.endpoint.replies import Failed
from hypersteer.endpoint.settings import EndpointConfig
from hypersteer.errors import EndpointError
from hypersteer.lm.base import BaseLM

SETTINGS = EngineSettings(parallel=2, context=256, threads=1)
TEXTS = [f"{number}?" for number in range(8)]


@pytest.fixture(scope="module")
def lm(tiny_llama):
    """A tiny model whose likeliest tokens are whole characters: llama.cpp tells no others."""
    model = copy.deepcopy(tiny_llama.model)
    pieces = [tiny_llama.tokenizer.decode([token]) for token in range(model.config.vocab_size)]
    with torch.no_grad():
        for token, piece in enumerate(pieces):
            if not (piece.isascii() and piece.isprintable()):
                model.lm_head.weight[token] = 0
    return BaseLM.of(model, tiny_llama.tokenizer)


@pytest.fixture(scope="module")
def model(lm, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    write_gguf(path, lm.model, lm.tokenizer)
    return path


@pytest.fixture
def engine(model):
    server = LocalServer(model, SETTINGS)
    yield server
    server.stop()


def asking(engine, **settings):
    config = {"model": engine.name, "max_tokens": 1, "top_logprobs": 20, **settings}
    return Endpoint(EndpointConfig(**config), engine)


def question(text):
    return [{"role": "user", "content": text}]


def shares_of(lm, text):
    """The probabilities of the first token after a question, by text."""
    with torch.no_grad():
        logits = lm.model(torch.tensor([lm.chat.prompt(text).ids])).logits[0, -1]
    found = {}
    for token, share in enumerate(logits.softmax(-1).tolist()):
        text = lm.tokenizer.decode([token])
        found[text] = found.get(text, 0.0) + share
    return found


def test_it_answers_with_the_probabilities_of_the_model_itself(engine, lm):
    (reply,) = asking(engine).complete([question(TEXTS[0])])
    own = shares_of(lm, TEXTS[0])
    assert reply.text == max(filter(str.isascii, own), key=own.__getitem__)
    whole = {token: share for token, share in reply.likely.items() if token and token.isascii()}
    assert len(whole) > 3
    assert whole == pytest.approx({token: own[token] for token in whole}, abs=2e-3)


def test_it_starts_when_it_is_first_asked_and_then_stays(engine):
    endpoint = asking(engine)
    assert engine._running is None
    endpoint.complete([question(TEXTS[0])])
    process = engine._running.process
    endpoint.complete([question(TEXTS[1])])
    assert engine._running.process is process
    engine.stop()
    assert process.poll() is not None
    # What it answered is kept, so nothing is loaded for it.
    assert len(asking(engine).complete([question(TEXTS[0])])) == 1
    assert engine._running is None


def test_only_its_owner_may_ask_it_and_only_on_this_machine(engine):
    url, key = engine.start()
    assert url.startswith("http://127.0.0.1:")
    body = {"messages": question("a"), "max_tokens": 1}
    assert httpx2.post(f"{url}/chat/completions", json=body).status_code == 401
    right = {"Authorization": f"Bearer {key}"}
    assert httpx2.post(f"{url}/chat/completions", json=body, headers=right).status_code == 200


def test_one_that_dies_in_the_middle_is_told_and_its_answers_are_kept(engine):
    endpoint = asking(engine, concurrency=1)
    questions = [question(text) for text in TEXTS]
    answered = 0

    def count(more):
        nonlocal answered
        answered += more
        if answered == 3:
            engine._running.process.kill()

    with pytest.raises(
        EndpointError, match=r"engine of 'tiny\.gguf' ended .*signal 9.*run the same"
    ):
        endpoint.complete(questions, done=count)
    again = asking(engine)
    replies = again.complete(questions)
    assert not any(isinstance(reply, Failed) for reply in replies)
    assert again.usage.calls == len(questions) - 3


def test_what_it_answered_last_is_kept_where_it_dies_right_after(engine, monkeypatch):
    real = Connection.ask

    async def ask(self, messages, sample):
        result = await real(self, messages, sample)
        if messages == question(TEXTS[1]):
            engine._running.process.kill()
            engine._running.process.wait()
        return result

    monkeypatch.setattr(Connection, "ask", ask)
    with pytest.raises(EndpointError, match="ended"):
        asking(engine, concurrency=1).complete([question(text) for text in TEXTS[:3]])
    again = asking(engine)
    again.complete([question(text) for text in TEXTS[:2]])
    assert (again.usage.calls, again.usage.cache_hits) == (0, 2)


def test_a_file_that_is_no_model_is_told(tmp_path, model):
    damaged = tmp_path / "cut.gguf"
    damaged.write_bytes(model.read_bytes()[:2000])
    with pytest.raises(
        EndpointError, match=r"cannot load 'cut\.gguf' into llama.cpp \(exit code 1"
    ):
        LocalServer(damaged, SETTINGS).start()


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(EndpointError, match=r"no such file: .*none\.gguf"):
        LocalServer(tmp_path / "none.gguf")


def test_without_the_package(model, monkeypatch):
    monkeypatch.setattr(local_server.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(EndpointError, match=r"pip install \"hypersteer\[local\]\""):
        LocalServer(model)


def test_other_weights_have_another_name(tmp_path, model):
    other = tmp_path / "tiny.gguf"
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    other.write_bytes(content)
    assert LocalServer(other).name != LocalServer(model).name
    assert LocalServer(model).name.startswith("tiny ")


def test_it_ends_with_a_process_that_is_killed(model):
    code = (
        "import sys, time\nfrom pathlib import Path\n"
        "from hypersteer.endpoint.local_server import EngineSettings, LocalServer\n"
        "server = LocalServer(Path(sys.argv[1]), EngineSettings(parallel=1, context=64, threads=1))"
        "\nserver.start()\nprint(server._running.process.pid, flush=True)\ntime.sleep(60)\n"
    )
    with talking([sys.executable, "-c", code, model]) as owner:
        engine = int(owner.stdout.readline())
        owner.send_signal(signal.SIGKILL)
    for _ in range(200):
        if not psutil.pid_exists(engine) or psutil.Process(engine).status() == "zombie":
            return
        time.sleep(0.05)
    pytest.fail("the engine outlives its owner")
