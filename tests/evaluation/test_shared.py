"""An evaluation that processes share: the rows of one process, and no unit of work done twice."""

import dataclasses
import json
import os
import re
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest

from children import ran, talking
from evaluation.test_run import (  # noqa: F401  (fixtures)
    HELD_IN,
    HELD_OUT,
    LetterJudge,
    checkpoint,
    config,
    judge,
    rows_of,
    world,
)
from hypersteer.config import to_dict
from hypersteer.errors import ConfigError
from hypersteer.evaluation.run import EvaluateResult
from hypersteer.evaluation.store import ResultsFolder
from hypersteer.evaluation.work import ENGINE, Work
from hypersteer.locks import SHARED
from hypersteer.report.evaluate import evaluate
from hypersteer.sharing import Share
from training.launching import free_port

CHILD = Path(__file__).with_name("shared_child.py")
CONCEPTS = 4 * (HELD_IN + HELD_OUT) + HELD_IN
"""Units of a stage: of four methods that answer all, and one that answers what it has learnt."""


@pytest.fixture
def shared(config):  # noqa: F811
    """Settings of an evaluation with probes, in a folder that processes share."""
    protocol = dataclasses.replace(config.protocol, skill_items=3)
    return dataclasses.replace(config, protocol=protocol, share=True)


@pytest.fixture
def alone(shared, judge, tmp_path):  # noqa: F811
    """The rows of one process, and its report."""
    result = evaluate(dataclasses.replace(shared, out=str(tmp_path / "alone"), share=False))
    return sorted_rows(result), result.markdown.read_text()


def sorted_rows(result):
    rows = rows_of(result)
    return sorted(
        rows, key=lambda r: (r.method, r.held, r.concept_id, r.prompt_id, r.strength or 0)
    )


def result_in(config):  # noqa: F811
    out = Path(config.out)
    return EvaluateResult(out, out / "rows.parquet", out / "report.md", out / "report.html")


def command(config, *how, launcher=()):  # noqa: F811
    """What runs an evaluation in processes of their own, and with what environment."""
    file = Path(config.out).with_name("settings.json")
    file.write_text(json.dumps(to_dict(config)))
    path = os.pathsep.join([str(CHILD.parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    return [sys.executable, *launcher, str(CHILD), str(file), *map(str, how)], environment


def launched(config, *how):  # noqa: F811
    """Run two processes under torchrun."""
    port = ["--master_addr", "127.0.0.1", "--master_port", str(free_port())]
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", *port]
    words, environment = command(config, *how, launcher=launcher)
    return ran(words, env=environment)


def started(config, *how):  # noqa: F811
    """Start a process that nobody launched."""
    words, environment = command(config, *how)
    return talking(words, env=environment)


def calls(config):  # noqa: F811
    """Every unit of work that was done: by which process, and what."""
    lines = Path(config.out).with_name("calls").read_text().splitlines()
    return [tuple(line.split("\t", 1)) for line in lines]


def assert_done_once(config, **times):  # noqa: F811
    counts = Counter(what for _, what in calls(config))
    twice = {what: count for what, count in counts.items() if count > 1}
    assert twice == times
    kinds = Counter(what.split("\t")[0] for what in counts)
    assert kinds == {"learned": 1, "answered": CONCEPTS, "judged": CONCEPTS, "report": 1}


def assert_equal(config, alone):  # noqa: F811
    """The rows and the report of one process, row for row."""
    rows, report = alone
    found = sorted_rows(result_in(config))
    assert [dataclasses.replace(row, nll=0.0) for row in found] == [
        dataclasses.replace(row, nll=0.0) for row in rows
    ]
    nll = [row.nll for row in rows]  # of batches that may differ: not the last digits
    assert [row.nll for row in found] == pytest.approx(nll, nan_ok=True)

    def without_costs(text):
        return re.sub(r"\d+\.\d+(e[+-]\d+)? ?s\b", "", text)

    found = without_costs(Path(config.out, "report.md").read_text())
    assert found.splitlines()[:20] == without_costs(report).splitlines()[:20]


@pytest.mark.slow
def test_two_processes_give_the_rows_of_one_and_do_nothing_twice(shared, alone):
    config = dataclasses.replace(shared, share=False)  # noqa: F811  the launcher says it
    done = launched(config, "slow")
    assert done.returncode == 0, done.stderr[-5000:]
    assert_equal(config, alone)
    assert_done_once(config)
    workers = {who for who, what in calls(config) if what.startswith("answered")}
    assert len(workers) == 2, "one of them did all"
    result = result_in(config)
    named = f"{result.rows} {result.markdown} {result.html}\n"
    assert done.stdout == 2 * named
    assert "answers: 100 %" in done.stderr
    bars = Counter(line for line in done.stderr.splitlines() if line.endswith("100 %"))
    assert set(bars.values()) == {1}  # the other process is silent
    assert {path.name for path in result.folder.iterdir() if path.name.startswith(".")} == {SHARED}


@pytest.mark.slow
def test_the_share_of_a_killed_process_is_taken_over(shared, alone):
    with started(shared, "kill", 3) as killed, started(shared, "slow", "second") as other:
        said = other.ended_well()
        assert killed.wait(60) == -signal.SIGKILL
    assert str(result_in(shared).rows) in said
    assert_equal(shared, alone)
    assert_done_once(shared)
    assert len({who for who, _ in calls(shared)}) == 2


@pytest.mark.slow
def test_the_same_command_goes_on_where_a_launcher_ended_all(shared, alone):
    """A launcher ends all processes when one is killed."""
    done = launched(shared, "kill", 3)
    assert done.returncode != 0
    begun = calls(shared)
    assert begun
    assert not result_in(shared).rows.exists()
    done = launched(shared)
    assert done.returncode == 0, done.stderr[-5000:]
    assert_equal(shared, alone)
    again = Counter(what for _, what in calls(shared)) - Counter(
        {what for _, what in calls(shared)}
    )
    assert set(again) <= last_answered(begun)
    assert_done_once(shared, **{what: count + 1 for what, count in again.items()})


def last_answered(begun):
    """What each process answered last: a launcher may end one before it has kept that."""
    lost = set()
    for process in {who for who, _ in begun}:
        answered = [what for who, what in begun if who == process and what.startswith("answered")]
        method = answered[-1].split(" ")[0] if answered else None
        lost |= {what for what in answered if what.split(" ")[0] == method}
    return lost


@pytest.mark.slow
def test_what_cannot_be_judged_is_tried_once_by_all_together(shared):
    done = launched(shared, "broken", "slow")
    assert done.returncode != 0
    assert "no answer could be judged: the judge is out" in done.stderr
    counts = Counter(what for _, what in calls(shared) if what.startswith("judged"))
    assert len(counts) == CONCEPTS
    assert set(counts.values()) == {1}


def test_other_settings_are_told_while_the_folder_is_shared(shared, judge, monkeypatch):  # noqa: F811
    with ResultsFolder(shared).share(shared):
        same = dataclasses.replace(
            shared, protocol=dataclasses.replace(shared.protocol, batch_size=3)
        )
        ResultsFolder(same).share(same).__exit__(None, None, None)
        for change in ({"methods": ("random",)}, {"share": False}):
            with pytest.raises(ConfigError, match="in use by process"):
                evaluate(dataclasses.replace(shared, compare_to="random", **change))


class EngineJudge(LetterJudge):
    runs_engine = True


@pytest.mark.slow
def test_only_one_process_of_a_machine_judges_by_an_engine_of_ours(shared, world, monkeypatch):  # noqa: F811
    """The other answers meanwhile, and judges when the first is gone."""
    shared = dataclasses.replace(shared, methods=("prompting", "random"))
    with Share(Path(shared.out), "another") as seated:
        assert seated.seat(ENGINE)
        tried = EngineJudge()
        monkeypatch.setattr("hypersteer.evaluation.run.make_judge", lambda _config, _lm: tried)
        monkeypatch.setattr(ResultsFolder, "share", lambda *_: Share(Path(shared.out), "another"))
        prepare, seen = Work._prepare, []

        def watched(self, name, *, wait):
            seen.append((name, len(tried.asked)))
            return prepare(self, name, wait=wait)

        monkeypatch.setattr(Work, "_prepare", watched)
        bar, released = Work._bar, []

        def release(self, text, total):
            if text == "unsteered: judging" and not released:
                released.append(len(tried.asked))
                seated.__exit__(None, None, None)
            return bar(self, text, total)

        monkeypatch.setattr(Work, "_bar", release)
        rows = rows_of(evaluate(shared, world.lm))
    assert released == [0]
    assert [name for name, _ in seen] == ["unsteered", "prompting", "random"]
    assert {count for _, count in seen} == {0}
    assert len(tried.asked) == len(rows)
