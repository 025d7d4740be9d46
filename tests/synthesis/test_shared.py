"""Concept data that processes make together: the rows of one process, and nothing asked twice."""

import dataclasses
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from children import talking
from hypersteer.cli.concepts import ConceptsBuild, _confirm
from hypersteer.config import to_dict
from hypersteer.config.synthesis import DistillationConfig
from hypersteer.data.sources import load_concepts
from hypersteer.errors import ConfigError
from hypersteer.synthesis.distillation import distil
from hypersteer.synthesis.folder import BuildFolder
from synthesis.teachers import TOKENS, teach, toml, write_list
from synthesis.test_distillation import Lengths, settings

CHILD = Path(__file__).with_name("shared_child.py")
FILES = ("train_data.parquet", "metadata.jsonl", "provenance.parquet")


def written(folder, name):
    path = Path(folder, name)
    return pq.read_table(path).to_pylist() if path.suffix == ".parquet" else path.read_text()


def started(words, folder, name, **environment):
    """Start a process with a cache of its own: what both asked would not come from there."""
    path = os.pathsep.join([str(CHILD.parents[1]), os.environ.get("PYTHONPATH", "")])
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "HYPERSTEER_CACHE": str(folder / name)}
    environment = {**os.environ, **own, **environment}
    return talking([sys.executable, *words], env=environment)


COUNTS = {"train_positives": 4, "test_positives": 2, "test_negatives": 8, "hard_negatives": 0}
CONCEPTS = 30
REQUESTS = CONCEPTS * sum(COUNTS.values())


@pytest.fixture
def words(server, tmp_path):
    """What builds into a folder: without a base LM, ten concepts or eight of a stage at a time."""
    names = [{"concept": f"mentions of number {n}", "genre": "text"} for n in range(CONCEPTS)]
    listed = write_list(tmp_path / "numbers.jsonl", names)

    def words_for(name, *more):
        changes = {
            "teacher": {"base_url": server.url, "model": "tiny", "concurrency": 1},
            "counts": {**COUNTS, "pool_negatives": 0},
            "base_lm": {"name": "none", "device": "cpu"},
        }
        raw = {"out": str(tmp_path / name), "concepts": str(listed), "instructions": "bundled"}
        path = toml({**raw, "response_tokens": TOKENS, **changes}, tmp_path / f"{name}.toml")
        return ["-m", "hypersteer", "concepts", "build", str(path), *more]

    return words_for


@pytest.mark.slow
def test_two_builds_ask_nothing_twice_and_write_what_one_does(server, words, tmp_path):
    with started(words("alone"), tmp_path, "a") as one:
        one.ended_well()
    assert len(server.asked) == REQUESTS
    server.asked.clear()
    both = threading.Barrier(2)

    def script(asked):
        if asked.number < 2:  # a process asks one thing at a time
            both.wait(60)
        return teach(asked)

    server.script = script
    together = words("data", "--share")
    with started(together, tmp_path, "b") as one, started(together, tmp_path, "c") as other:
        said = [one.ended_well(), other.ended_well()]
    assert len(server.asked) == len(set(server.texts)) == REQUESTS
    assert all(f"dataset: {tmp_path / 'data'}" in text for text in said)
    for name in (*FILES, "latent_eval_data.parquet"):
        assert written(tmp_path / "data", name) == written(tmp_path / "alone", name)
    assert len(list((tmp_path / "data" / "build" / "usage").iterdir())) == 2
    report = json.loads((tmp_path / "data" / "report.json").read_text())
    assert report["usage"]["calls"] == REQUESTS


@pytest.mark.slow
def test_what_a_killed_build_had_is_taken_over(server, words, tmp_path):
    answered, held = 20, threading.Event()

    def script(asked):
        if asked.number == answered:
            held.wait(120)
        return teach(asked)

    def wait_for(count):
        deadline = time.monotonic() + 120
        while len(server.asked) < count:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    server.script = script
    together = words("data", "--share")
    with started(together, tmp_path, "cache") as killed:
        wait_for(answered + 1)
        with started(together, tmp_path, "cache") as other:  # replies that came are in the cache
            wait_for(answered + 5)
            killed.send_signal(signal.SIGKILL)
            held.set()
            other.ended_well()
    again = [text for text, count in Counter(server.texts).items() if count > 1]
    assert again == [server.texts[answered]], "only what was under way is asked again"
    assert len(server.asked) == REQUESTS + 1
    data = load_concepts(str(tmp_path / "data"), split="test")
    assert len(data) == CONCEPTS * (COUNTS["test_positives"] + COUNTS["test_negatives"])


@pytest.mark.slow
def test_two_processes_distil_what_one_does_and_try_nothing_twice(tmp_path, lm, model, silent):
    base_lm = dataclasses.replace(DistillationConfig().base_lm, name=str(model), device="cpu")
    config = settings(tmp_path, base_lm=base_lm, batch_size=4)
    alone, _ = distil(
        dataclasses.replace(config, out=str(tmp_path / "alone")),
        lm=lm,
        judge=Lengths(),
        console=silent,
    )
    file = tmp_path / "settings.json"
    file.write_text(json.dumps(to_dict(config)))
    places = [{"RANK": str(n), "LOCAL_RANK": str(n), "WORLD_SIZE": "2"} for n in range(2)]
    words = [str(CHILD), str(file)]
    with (
        started(words, tmp_path, "a", **places[0]) as one,
        started(words, tmp_path, "b", **places[1]) as other,
    ):
        assert one.ended_well() == other.ended_well() == f"{config.out}\n"
    judged = (tmp_path / "judged").read_text().splitlines()
    assert len(judged) == len(set(judged)) > 6
    for name in FILES[:2]:  # the provenance names the base LM's folder
        assert written(config.out, name) == written(alone, name)


def test_several_processes_do_not_ask_whether_to_begin(monkeypatch, tmp_path):
    class Found:
        calls = 3

        def table(self, name):
            return name

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="add --yes"):
        _confirm(ConceptsBuild())(Found())
    assert _confirm(ConceptsBuild(yes=True))(Found())


def test_settings_that_processes_may_not_differ_in(tmp_path, lm, silent, monkeypatch):
    config = settings(tmp_path, share=True)
    with BuildFolder(config, {}).share():
        again = dataclasses.replace(config, batch_size=3)
        BuildFolder(again, {}).share().__exit__(None, None, None)
        other = dataclasses.replace(config, guidance=0.0)
        with pytest.raises(ConfigError, match="in use by process"):
            BuildFolder(other, {}).share()
