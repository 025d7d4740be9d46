"""What conditions cost: fitting one, and decoding behind a gate against ungated steering.

    python benchmarks/conditions.py [--prompts 100] [--batch 1 8] [--new-tokens 32] [--repeats 5]

Fitting reads that many prompts in and off a topic at all layers and searches the point. Decoding
compares processor time per round, in one run and in turns: steering without a gate (the floor),
the same once more (the noise of the measurement), and the same edit behind gates that are open;
then an edit at block 5 behind a condition that is read at block 20, as words are on the checkpoint
that ships: the blocks below run once more without the edit.
Since the noise is larger than what is looked for, what is read and written at the sites is also
timed by itself inside the generations, and set against the time of a step.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal
from unittest.mock import patch

import hypersteer as hs
from hypersteer.conditions.contrasts import read_labelled
from hypersteer.conditions.gate import Gate
from hypersteer.edits.sites import Site
from hypersteer.engine import running
from hypersteer.lm import hooks
from hypersteer.lm.base import BaseLM
from timing import machine, table

TOPIC = Path(hs.__file__).parent / "data" / "topics" / "health.jsonl"
FLOOR = "steered"


def fit(lm: BaseLM, count: int) -> tuple[hs.Condition, hs.Condition]:
    """Fit, print what it took, and give back a condition of low layers and one of block 20."""
    sides = read_labelled(TOPIC)
    positives, negatives = sides.positives[:count], sides.negatives[:count]
    tokens = sum(len(lm.chat.prompt(str(text)).ids) for text in (*positives, *negatives))
    wall, cpu = time.perf_counter(), time.process_time()
    hs.fit_condition(lm, positives, negatives, name="health")
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    table(
        ["prompts", "tokens", "layers", "seconds", "seconds of processor time"],
        [
            [
                f"{len(positives)} + {len(negatives)}",
                f"{tokens:,}",
                str(lm.depth),
                f"{wall:.1f}",
                f"{cpu:.1f}",
            ]
        ],
    )
    low, high = (hs.ConditionConfig(layers=own) for own in ((0, 4, 8, 12), (20,)))
    return (
        hs.fit_condition(lm, positives, negatives, name="health", config=low),
        hs.fit_condition(lm, positives, negatives, name="health", config=high),
    )


def ways(
    condition: hs.Condition, high: hs.Condition, edit: hs.Edit
) -> dict[str, hs.Edit | hs.Rules]:
    """What steers, in every way; the gates are open in all rows."""
    always, above = (replace(one, threshold=-2.0) for one in (condition, high))
    low = replace(edit, site=Site(5))

    def gated(
        check: Literal["prompt", "token"] | int, given: hs.Condition = always, x: hs.Edit = edit
    ) -> hs.Rules:
        conditions = {"health": given}
        return hs.rules("if health then x", conditions=conditions, edits={"x": x}, check=check)

    return {
        FLOOR: edit,
        "steered again": edit,
        "gate, prompt only": gated("prompt"),
        "gate, every 8 tokens": gated(8),
        "gate, every token": gated("token"),
        "read above, prompt only": gated("prompt", above, low),
        "read above, every 8 tokens": gated(8, above, low),
        "read above, every token": gated("token", above, low),
    }


def spent(generate: Callable[[], object], steps: int) -> float:
    """Seconds a step of all that is read and written at sites, timed inside of a generation.

    Timed in a loop of its own the same code takes a tenth of that: caches stay warm there, while
    in a generation the weights have passed through them.
    """
    taken: list[float] = []

    def timed(function: Callable) -> Callable:
        def run(*args):
            start = time.thread_time()
            found = function(*args)
            taken.append(time.thread_time() - start)
            return found

        return run

    def placed(blocks, functions):
        return hooks.at_sites(blocks, [(site, timed(one)) for site, one in functions])

    with (
        patch.object(running, "at_sites", placed),
        patch.object(Gate, "readers", timed(Gate.readers)),
    ):
        generate()
    return sum(taken) / steps


def times(work: dict[str, Callable], repeats: int) -> dict[str, list[float]]:
    """Processor seconds of each job in each round; the jobs take turns, in changing order."""
    taken: dict[str, list[float]] = {name: [] for name in work}
    for job in work.values():
        job()
    names = list(work)
    for number in range(repeats):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            start = time.process_time()
            work[name]()
            taken[name].append(time.process_time() - start)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    lm = hs.load_lm("smollm2-135m-instruct")
    lm.chat.end_of_turn = ()  # nobody stops early, so that all generate the same number
    print(f"{machine()}\n\nfitting\n")
    condition, high = fit(lm, args.prompts)
    edit = hs.VectorEdit(vector=condition.directions[-1], site=lm.site(12))
    print(f"\ndecoding {args.new_tokens} tokens, prompt pass included\n")
    rows = []
    for batch in args.batch:
        prompts = [str(text) for text in read_labelled(TOPIC).positives[:batch]]
        steer = ways(condition, high, edit)
        work = {
            way: lambda e=one, p=prompts: lm.generate(p, edit=e, max_new_tokens=args.new_tokens)
            for way, one in steer.items()
        }
        taken = times(work, args.repeats)
        inside: dict[str, list[float]] = {way: [] for way in work}
        for _ in range(args.repeats):
            for way, job in work.items():
                inside[way].append(spent(job, args.new_tokens))
        own = {way: statistics.median(seconds) for way, seconds in inside.items()}
        step = statistics.median(taken[FLOOR]) / args.new_tokens
        for way, seconds in taken.items():
            ratios = [a / b for a, b in zip(seconds, taken[FLOOR], strict=True)]
            more = own[way] - own[FLOOR]
            rate = batch * args.new_tokens / statistics.median(seconds)
            cells = [f"{rate:.1f}", f"{100 * (statistics.median(ratios) - 1):+.2f} %"]
            cells += [f"{1e6 * more:+.0f}", f"{100 * more / step:+.2f} %"]
            rows.append([str(batch), way, *cells])
    headings = ["batch", "way", "tokens per processor second", "time over the floor"]
    table([*headings, "its own work, microseconds a step", "of a step"], rows)


if __name__ == "__main__":
    main()
