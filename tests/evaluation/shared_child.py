"""An evaluation in a process of its own, for tests that start several or kill one.

    python shared_child.py settings.json [kill N | slow | second | broken]

Every unit of work is a line of the file `calls` beside the settings: who, what, which. `kill N`
kills the process without warning in the N-th answering; `slow` makes each of them take a while, and
begins when another process is there; `second` begins when another has answered; `broken` lets the
judge fail.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from evaluation.test_run import LetterJudge
from hypersteer.config import EvaluateConfig, from_dict
from hypersteer.evaluation import run, work
from hypersteer.methods import diffmean
from hypersteer.report import evaluate as reporting


def main() -> None:
    torch.set_num_threads(1)
    settings, *how = sys.argv[1:]
    file = Path(settings).absolute()
    done = file.with_name("calls")
    log = logger(done)
    judge = LetterJudge()
    judge.broken = "broken" in how
    run.make_judge = lambda _config, _lm: judge
    meet(file.with_name("there"), how, done)
    watch_answers(log, how, done)
    watch_judge(judge, log)
    fit = diffmean.DiffMean.fit

    def fitted(self: object, *args: object, **named: object) -> object:
        log("learned", "diffmean")
        return fit(self, *args, **named)

    diffmean.DiffMean.fit = fitted
    write = reporting.write_report

    def written(*args: object) -> object:
        log("report", "")
        return write(*args)

    reporting.write_report = written
    config = from_dict(EvaluateConfig, json.loads(file.read_text(encoding="utf-8")))
    result = reporting.evaluate(config)
    print(result.rows, result.markdown, result.html, flush=True)


def logger(file: Path) -> Callable[[str, str], None]:
    """Return what appends a line, whole."""

    def log(what: str, which: str) -> None:
        out = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(out, f"{os.getpid()}\t{what}\t{which}\n".encode())
        os.close(out)

    return log


def read(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def meet(there: Path, how: list[str], done: Path) -> None:
    """Have the work begin, and the first unit be claimed, when another process is so far."""
    do = work.Work.do

    def together(self: work.Work) -> object:
        logger(there)("there", "")
        while "slow" in how and read(there).count("there") < 2:
            time.sleep(0.01)
        while "second" in how and "answered" not in read(done):
            time.sleep(0.01)
        return do(self)

    work.Work.do = together


def watch_answers(log: Callable[[str, str], None], how: list[str], done: Path) -> None:
    answer, count = work.answer, 0
    last = int(how[1]) if how[:1] == ["kill"] else None

    def watched(prepared: work.Prepared, questions: list, protocol: object) -> list:
        nonlocal count
        count += 1
        if count == last:
            os.kill(os.getpid(), signal.SIGKILL)
        if "slow" in how:
            time.sleep(0.3)
        rows = answer(prepared, questions, protocol)
        for concept in dict.fromkeys((q.held, q.concept.id) for q in questions):
            log("answered", f"{prepared.name} {concept}")
        return rows

    work.answer = watched


def watch_judge(judge: LetterJudge, log: Callable[[str, str], None]) -> None:
    whole = work.judge_rows

    def watched(judge: object, rows: list, *rest: object) -> list:
        log("judged", f"{rows[0].method} {(rows[0].held, rows[0].concept_id)}")
        return whole(judge, rows, *rest)

    work.judge_rows = watched


if __name__ == "__main__":
    main()
