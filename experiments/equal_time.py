"""Kinds of edits, objectives, sites and a rival, each trained for the same processor time.

    python experiments/equal_time.py time                # seconds of a step, on an idle machine
    python experiments/equal_time.py train --minutes 3   # each for so long; again, it goes on
    python experiments/equal_time.py evaluate            # all of them and prompting, judged

A step is timed as the difference of two short runs, so that loading and validating are not in it;
what an objective prepares (the base LM's own answers) is counted. Learning rates are one and the
same but FLAS's, whose published 5e-5 is tried beside it: the comparison is of first attempts, not
of tuned recipes.
"""

import argparse
import json
import time
from pathlib import Path

from held_out import evaluate_twenty

from hypersteer.cli.train import main as train_command

BASE = "experiments/equal_time_cpu.toml"
ALONE = ["--loss.no-prompted"]
ONE_SITE = ["--site.layer", "15", "--hypernet.more-layers"]
FLAS = [
    *ONE_SITE, "--hypernet.edit", "per-token", "--hypernet.self-attention",
    "--loss.strengths", "0.5", "2", "--loss.diversity", "0.1",
]  # fmt: skip
FEW = ["--data.max-concepts", "150"]
SETTINGS: dict[str, list[str]] = {
    "gated": [],
    "vector": ["--hypernet.edit", "vector"],
    "prosv": [
        "--hypernet.edit", "vector", "--hypernet.learned-strength", "--site.scope", "prompt_ends",
    ],
    "low-rank": ["--hypernet.edit", "low-rank"],
    "per-token": [
        "--hypernet.edit", "per-token", "--site.layer", "9", "--hypernet.more-layers", "15", "21",
    ],
    "flas-twin": [*FLAS, *ALONE],
    "flas-twin-slow": [*FLAS, *ALONE, "--optim.learning-rate", "5e-5"],
    "flas-beside": FLAS,
    "contrast": ["--loss.contrast", "1", "--loss.contrast-share", "0.3"],
    "preference": ["--loss.objective", "preference", *FEW],
    "activations": ["--loss.objective", "activations", "--loss.guidance", "1", *ALONE],
    "alone": ALONE,
    "cross-attention": ["--hypernet.variant", "cross-attention"],
    "attention-site": ["--site.kind", "attention"],
    "mlp-site": ["--site.kind", "mlp"],
    "last-token": ["--site.scope", "last_prompt"],
}  # fmt: skip
SHORT, LONG = 2, 7
OTHERS = ("prompting", "prompting-few-shot", "actadd")


def train(options: list[str], steps: int, out: Path) -> float:
    """Train so many steps; return the seconds that it took."""
    begun = time.monotonic()
    train_command([BASE, *options, "--optim.steps", str(steps), "--out", str(out)])
    return time.monotonic() - begun


def read(path: Path) -> dict[str, list[float]]:
    """What was timed before: of each setting what it prepares, and a step, in seconds."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def time_all(folder: Path, chosen: list[str]) -> None:
    """Time what is not timed yet."""
    path = folder / "seconds.json"
    train([], 1, folder / "timing" / "first")  # whatever only a first run costs
    for name in chosen:
        found = read(path)
        if name in found:
            continue
        options = [*SETTINGS[name], "--data.max-validation-rows", "2"]
        short = train(options, SHORT, folder / "timing" / f"{name}-{SHORT}")
        long = train(options, LONG, folder / "timing" / f"{name}-{LONG}")
        step = (long - short) / (LONG - SHORT)
        found[name] = [max(0.0, short - SHORT * step), step]
        path.write_text(json.dumps(found, indent=1), encoding="utf-8")
        print(name, *(f"{value:.2f}" for value in found[name]), flush=True)


def train_all(folder: Path, chosen: list[str], minutes: float) -> None:
    """Train each for so long; what is trained already is left."""
    seconds = read(folder / "seconds.json")
    plain = min(start for start, _ in seconds.values())  # loading, validating: nobody's
    for name in chosen:
        before, step = seconds[name]
        steps = max(2, round((60 * minutes - (before - plain)) / step))
        print(f"{name}: {steps} steps of {step:.2f} s", flush=True)
        train(SETTINGS[name], steps, folder / f"{name}-{minutes:g}")


def main() -> None:
    """Run what is asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("time", "train", "evaluate"))
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--out", type=Path, default=Path("runs/equal"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.what == "time":
        time_all(given.out, given.settings)
    elif given.what == "train":
        train_all(given.out, given.settings, given.minutes)
    else:
        evaluate_twenty(OTHERS, given.out)


if __name__ == "__main__":
    main()
