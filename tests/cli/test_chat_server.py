"""`hypersteer chat --server`: the same conversation with a running server."""

import pytest

import hypersteer as hs
from gating import condition_at, fires_by_hand
from hypersteer.cli.options import Sampling
from serving.live import STEER, endless, live

PENALTY = {"repetition_penalty": Sampling().repetition_penalty}
OPTIONS = ("--max-new-tokens", "8")
ASKED = ("Hi", "Tell me about your day at the sea, about the ship and the bees.", "Why?")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    steerer, folder = endless(), tmp_path_factory.mktemp("edits")
    given = (f"half={condition_of(steerer.lm).save(folder / 'half.safetensors')}",)
    with live({"tiny": steerer}, folder / "edits", condition=given) as found:
        yield found


def test_answers_are_those_of_the_library(run, typed, server):
    typed("Hi", "Why?", "/steer", "Hi")
    code, out, err = run(
        "chat", "--server", f"{server.url}/v1", "--steer", STEER[0], "--strength", "0.5", *OPTIONS
    )
    assert code == 0
    steerer = server.served["tiny"].steerer
    options = {"max_new_tokens": 8, **PENALTY}
    turns = [{"role": "user", "content": "Hi"}]
    found = []
    for steer, following in ((STEER[0], "Why?"), (STEER[0], "Hi"), (None, "")):
        found.append(steerer.generate(turns, steer=steer, strength=0.5, **options))
        turns = [
            *turns,
            {"role": "assistant", "content": found[-1]},
            {"role": "user", "content": following},
        ]
    assert out == "".join(f"{text}\n" for text in found)
    assert f"tiny at {server.url}" in err


def test_compare_and_save(run, typed, server, tmp_path):
    file = tmp_path / "pirate.safetensors"
    typed("/compare Hi", f"/save {file}", f"/edit {file}", "Hi")
    code, out, err = run("chat", "--server", server.url, "--steer", STEER[0], *OPTIONS)
    assert code == 0
    assert "unsteered" in out
    assert "steered" in out
    assert hs.load_edit(file).steering_prompt == STEER[0]
    assert "PUT /v1/edits" in err
    with server.client() as client:
        assert client.get("/v1/edits").json()["data"] == []


def test_what_cannot_be_reached(fails, typed, server):
    typed("Hi")
    assert "no address" in fails("chat", "--server", "localhost")
    assert "cannot reach" in fails("chat", "--server", "http://127.0.0.1:9")
    assert "serves no 'other', but tiny" in fails(
        "chat", "--server", server.url, "--checkpoint", "other"
    )


def condition_of(lm):
    """Fires for some of what is asked."""
    return condition_at(lm, 1, prompts=ASKED)


def test_rules_are_decided_by_the_server_and_told(run, typed, server):
    steerer = server.served["tiny"].steerer
    text = f'if half then "{STEER[1]}"'
    condition = condition_of(steerer.lm)
    for question in ASKED[:2]:
        typed(question, "/reset", f"/compare {question}")
        code, out, err = run("chat", "--server", server.url, "--rule", text, *OPTIONS)
        assert code == 0
        fires = fires_by_hand(steerer.lm, question, condition)
        turns = [{"role": "user", "content": question}]
        options = {"max_new_tokens": 8, **PENALTY}
        steered = steerer.generate(turns, steer=STEER[1] if fires else None, **options)
        assert out.startswith(f"{steered}\n")
        acts = STEER[1] if fires else "unsteered"
        told = [line for line in err.splitlines() if line.startswith("half ")]
        assert [line.endswith(f": {acts}") for line in told] == [True, True]
    typed("Hi")
    _, _, err = run("chat", "--server", server.url, "--rule", 'if other then "x"', *OPTIONS)
    assert "unknown condition 'other'" in err
