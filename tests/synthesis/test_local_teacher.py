"""A teacher on this machine: a real llama.cpp engine with a tiny model, from the command line."""

import json
import os
from collections import Counter
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from gguf_files import write_talker
from hypersteer.cli.main import main
from hypersteer.config.synthesis import TeacherConfig
from hypersteer.data.sources import load_concepts
from hypersteer.endpoint import connection, local_server
from hypersteer.endpoint.local_server import LocalServer
from hypersteer.endpoint.replies import Reply
from hypersteer.errors import ConfigError, EndpointError, ModelError
from hypersteer.synthesis import served
from hypersteer.synthesis.build import build
from hypersteer.synthesis.examples import HARD_NEGATIVES, NEGATIVES, POSITIVES
from hypersteer.synthesis.filters import why_dropped, words
from hypersteer.synthesis.requests import Requests
from hypersteer.synthesis.served import (
    check_teacher,
    context_for,
    judges_positives,
    most_tokens,
    on_this_machine,
    open_engine,
)
from synthesis.teachers import settings

ALIAS = "qwen2.5-coder-1.5b-instruct"
COUNTS = {"train_positives": 5, "test_positives": 2, "test_negatives": 2}
ROWS = 2 * sum(COUNTS.values())


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    return write_talker(tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture
def command(gguf, tmp_path, monkeypatch):
    """A build with that model; no key is set, and none is asked for."""
    monkeypatch.setenv("COLUMNS", "200")
    listed = tmp_path / "list.jsonl"
    concepts = ("talk like a pirate", "terms about boats")
    listed.write_text("".join(json.dumps({"concept": c, "genre": "text"}) + "\n" for c in concepts))
    counts = {**COUNTS, "hard_negatives": 0, "pool_negatives": 0}
    return [
        *("concepts", "build", str(listed), "--out", str(tmp_path / "data")),
        *("--instructions", "bundled", "--base-lm.name", "none", "--filters.min-words", "0"),
        *("--teacher.model", str(gguf), "--teacher.threads", "1", "--teacher.examples", "0"),
        *("--teacher.backoff-s", "0.001"),
        *(w for name, n in counts.items() for w in (f"--counts.{name.replace('_', '-')}", str(n))),
    ]


@pytest.fixture
def answered(monkeypatch):
    """Notes every request that a server answered; `answered.then` is called after each."""
    real = connection.Connection.ask

    class Answered(list):
        def then(self):
            pass

    found = Answered()

    async def ask(self, messages, sample):
        result = await real(self, messages, sample)
        if isinstance(result, Reply):
            found.append(json.dumps([messages, sample]))
            found.then()
        return result

    monkeypatch.setattr(connection.Connection, "ask", ask)
    return found


def engines():
    return [
        child
        for child in psutil.Process(os.getpid()).children()
        if "hypersteer.endpoint.llama_process" in child.cmdline()
    ]


def test_a_whole_build_against_an_engine_of_ours(command, answered, capsys, tmp_path, gguf):
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert f"to ask of {Path(gguf).name}: {ROWS} calls" in " ".join(err.split())
    assert "begin?" not in err
    assert "$" not in out + err, "it costs nothing"
    assert not engines(), "it ends with the build"
    data = load_concepts(str(tmp_path / "data"))
    assert [concept.text for concept in data.concepts] == [
        "talk like a pirate",
        "terms about boats",
    ]
    teachers = {
        r["teacher"] for r in pq.read_table(tmp_path / "data/provenance.parquet").to_pylist()
    }
    assert teachers == {LocalServer(gguf).name}, "the weights are named"
    rows = pq.read_table(tmp_path / "data/train_data.parquet").to_pylist()
    assert len({row["output"] for row in rows}) == len(rows), "each request draws for itself"
    assert len(answered) >= ROWS
    # The same again asks nothing, and loads nothing.
    count = len(answered)
    assert main(command) == 0
    assert "this run: 0 calls" in capsys.readouterr().out
    assert len(answered) == count


def test_an_engine_that_dies_is_told_and_nothing_is_asked_twice(command, answered, capsys):
    def kill():
        if len(answered) == ROWS // 2:
            for engine in engines():
                engine.kill()

    answered.then = kill
    assert main(command) == 2
    err = capsys.readouterr().err
    told = err[err.index("error: ") :]
    assert told.count("\n") == 1
    assert "engine of 'tiny.gguf' ended (signal 9" in told
    assert "run the same again" in told
    before = len(answered)
    assert ROWS // 2 <= before < ROWS
    assert main(command) == 0
    assert len(answered) >= ROWS
    assert max(Counter(answered).values()) == 1


@pytest.mark.parametrize("package", ["xllamacpp", "openai"])
def test_a_missing_package_is_told_before_anything_is_done(
    command, capsys, monkeypatch, tmp_path, package
):
    real = served.importlib.util.find_spec
    monkeypatch.setattr(
        local_server.importlib.util,
        "find_spec",
        lambda name: None if name == package else real(name),
    )
    assert main(command) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"needs the package {package}: pip install" in err
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("model", "error", "told"),
    [
        ("none.gguf", ModelError, r"no such file: 'none\.gguf'"),
        ("gemma-2-2b-it", ConfigError, rf"has no GGUF file .*{ALIAS}.*teacher\.base_url"),
        (
            ALIAS.replace("instruct", "instrct"),
            ConfigError,
            rf"is no alias; did you mean '{ALIAS}'",
        ),
    ],
)
def test_a_model_that_cannot_be_run_is_told(model, error, told, tmp_path):
    config = settings(tmp_path / "d", theme="x", teacher={"model": model})
    with pytest.raises(error, match=told):
        check_teacher(config)


def test_the_name_decides_where_a_teacher_answers():
    assert on_this_machine(TeacherConfig(model=ALIAS))
    assert on_this_machine(TeacherConfig(model="some/where.gguf"))
    assert not on_this_machine(TeacherConfig())
    assert not on_this_machine(TeacherConfig(model=ALIAS, base_url="http://localhost:1/v1"))
    assert not on_this_machine(TeacherConfig(model=ALIAS, kind="local"))


def test_the_engine_has_as_many_slots_as_requests_and_room_for_the_longest(gguf, tmp_path):
    longest = [{"role": "user", "content": "x" * 4000}]
    for wanted, slots in (({}, 4), ({"concurrency": 2}, 2)):
        teacher = {"model": str(gguf), "threads": 1, "concurrency": None, **wanted}
        config = settings(tmp_path / "d", theme="x", teacher=teacher)
        engine = open_engine(config, longest)
        assert (engine.settings.parallel, engine.settings.threads) == (slots, 1)
        assert engine.settings.context >= 4000 // 2 + most_tokens(config) > 2300


def test_replies_of_small_models_are_ended_sooner(tmp_path):
    def most(tokens=128, **teacher):
        config = settings(tmp_path / "d", theme="x", response_tokens=tokens, teacher=teacher)
        return most_tokens(config)

    assert most(model="gpt-4o-mini") == 1024
    assert most(model=ALIAS) == 384
    assert most(200, model=ALIAS) == 600
    assert most(800, model=ALIAS) == 1024
    assert most(model=ALIAS, max_tokens=50) == 50


def test_the_longest_request_is_at_least_as_long_as_any(tmp_path):
    config = settings(tmp_path / "d", theme="x", teacher={"model": ALIAS})
    asks = Requests(config)
    concepts, instructions = ["short", "a concept of many words " * 40], ["a?", "why " * 100]
    longest = context_for(asks.longest(concepts, instructions, 25, 100), 64)
    for concept in concepts:
        for text in instructions:
            for made in (
                asks.positive(text, concept),
                asks.negative(text, concept),
                asks.hard_negative(text, concept, "word", "What else it means."),
            ):
                assert context_for(made, 64) <= longest
    assert context_for(asks.longest(None, instructions, 25, 100), 64) > 64 + 25


def test_examples_are_shown_to_models_on_this_machine_only(tmp_path):
    def shown(**teacher):
        asked = Requests(settings(tmp_path / "d", theme="x", teacher=teacher)).positive("Why?", "c")
        assert asked[-1]["role"] == "user"
        assert "Why?" in asked[-1]["content"]
        roles = [message["role"] for message in asked[:-1]]
        assert roles == (["system"] if roles else []) + ["user", "assistant"] * (len(roles) // 2)
        return len(roles) // 2

    assert shown(model=ALIAS) == 3
    assert shown(model=ALIAS, examples=1) == 1
    assert shown(model=ALIAS, examples=0) == 0
    assert shown(model="gpt-4o-mini") == 0
    assert shown(model="qwen3:8b", base_url="http://localhost:1/v1", examples=2) == 2


def test_examples_are_no_longer_than_a_response_may_be(tmp_path):
    def shown(tokens):
        config = settings(
            tmp_path / "d", theme="x", response_tokens=tokens, teacher={"model": ALIAS}
        )
        made = Requests(config).positive("Why?", "c")
        return [m["content"] for m in made if m["role"] == "assistant"]

    whole = [example.response for example in POSITIVES]
    assert shown(128) == whole
    for text, full in zip(shown(48), whole, strict=True):
        assert full.startswith(text)
        assert text[-1] in ".?"
        assert len(words(text)) <= 48, "a word is a token where there is no base LM"
    assert all(shown(1)), "at least one sentence"


@pytest.mark.parametrize("example", [*POSITIVES, *NEGATIVES, *HARD_NEGATIVES])
def test_an_example_would_pass_its_own_filters(example, tmp_path):
    reason = why_dropped(
        example.response,
        concept=example.concept,
        instruction=example.instruction,
        positive=example in POSITIVES,
        word=example.word,
        earlier=[],
        config=settings(tmp_path / "d", theme="x").filters,
    )
    assert reason is None


def test_a_judge_is_asked_by_default_where_the_teacher_is_on_this_machine(tmp_path):
    def judged(lm="some-lm", judging="auto", **teacher):
        return judges_positives(
            settings(tmp_path / "d", lm=lm, theme="x", judging=judging, teacher=teacher)
        )

    assert judged(model=ALIAS)
    assert not judged(model=ALIAS, judging="off")
    assert not judged(model="gpt-4o-mini")
    assert judged(model="gpt-4o-mini", judging="on")
    assert not judged(model=ALIAS, lm="none")
    with pytest.raises(ConfigError, match="judging 'on' needs a base LM"):
        judged(model=ALIAS, lm="none", judging="on")


def test_an_engine_that_cannot_load_its_model_is_told(tmp_path, gguf, silent, listed):
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(gguf.read_bytes()[:2000])
    config = settings(tmp_path / "d", concepts=listed, teacher={"model": str(cut)})
    with pytest.raises(EndpointError, match=r"cannot load 'cut\.gguf'"):
        build(config, console=silent)
