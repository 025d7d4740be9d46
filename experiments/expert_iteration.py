"""Expert iteration: a checkpoint learns from its own answers that a judge lets pass, twice.

    python experiments/expert_iteration.py train      # two rounds, and as many steps without them
    python experiments/expert_iteration.py judge      # what passed, beside what was written
    python experiments/expert_iteration.py evaluate   # all of them and prompting, judged

A round samples answers beside the prompt at several strengths, each to an instruction of its own,
keeps the best that pass, and trains on from where the last round ended, on all kept answers so far
and the smallest written set (which has the held-out concepts). The control goes on from the same
start, as many steps as both rounds, on written answers only. The sieve is the likelihood judge,
which reads with the base LM itself; whether anything is gained is for the independent judge and for
readers to say. The same command goes on where it was cut off.
"""

import argparse
import random
from pathlib import Path

from held_out import evaluate_twenty, judged

from hypersteer.cli.concepts import main as concepts_command
from hypersteer.cli.train import main as train_command
from hypersteer.config import JudgeConfig
from hypersteer.data.sources import load_concepts
from hypersteer.judges.choose import make_judge
from hypersteer.judges.judge import DIMENSIONS
from hypersteer.lm.load import load_lm

LISTS = ("bundled:wide", "bundled:more")
"""Concepts that a round samples for, none of them held out."""
CONTROL = ("bundled", "bundled:wide", "bundled:more")
SHARED = [
    "--data.held-in-prompts", "0", "--data.max-response-tokens", "64",
    "--data.max-held-out-rows", "2", "--data.max-validation-rows", "16", "--loss.prompted",
    "--optim.batch-size", "16", "--optim.learning-rate", "2e-4", "--optim.warmup-steps", "5",
    "--validate-every", "1000000", "--checkpoint-every", "20", "--best", "last",
]  # fmt: skip
SAMPLED = [
    "--strengths", "0.8", "1", "1.2", "--tried", "4", "--kept", "2",
    "--repetition-penalty", "1.15", "--judge.kind", "likelihood",
]  # fmt: skip


def train(start: str, sources: list[str], steps: int, seed: int, out: Path) -> str:
    """Train on from a checkpoint; return the new one."""
    train_command([
        "--start", start, "--data.source", *sources, *SHARED, "--optim.steps", str(steps),
        "--seed", str(seed), "--out", str(out),
    ])  # fmt: skip
    return str(out)


def rounds(folder: Path, concepts: int, steps: int) -> None:
    """Sample, sift and train, a round for each list of concepts; then the control."""
    checkpoint, kept = "bundled", []
    for number, names in enumerate(LISTS, start=1):
        data = folder / f"answers-{number}"
        concepts_command([
            "distil", names, "--limit", str(concepts), "--checkpoint", checkpoint, *SAMPLED,
            "--seed", str(number), "--out", str(data),
        ])  # fmt: skip
        kept.append(str(data))
        out = folder / f"round-{number}"
        checkpoint = train(checkpoint, [*kept, "bundled"], steps, number, out)
    train("bundled", list(CONTROL), len(LISTS) * steps, 1, folder / "control")


def judge(folder: Path, count: int) -> None:
    """Let the independent judge score kept answers, and written ones to the same concepts."""
    lm = load_lm("smollm2-135m-instruct")
    judge = make_judge(JudgeConfig(kind="local"), lm)
    for number, names in enumerate(LISTS, start=1):
        if not (folder / f"answers-{number}" / "metadata.jsonl").exists():
            continue
        own = pairs(str(folder / f"answers-{number}"))
        known = {concept for concept, _, _ in own}
        written = [row for row in pairs(names) if row[0] in known]
        for name, rows in (("kept", own), ("written", written)):
            some = random.Random(number).sample(rows, min(count, len(rows)))
            asked, texts = [(row[0], row[1]) for row in some], [row[2] for row in some]
            found = [verdict for _, verdict in judged(judge, asked, texts, [""] * len(some))]
            means = [
                sum(getattr(one, which).score for one in found) / len(found) for which in DIMENSIONS
            ]
            told = ", ".join(f"{k} {v:.3f}" for k, v in zip(DIMENSIONS, means, strict=True))
            overall = sum(one.overall for one in found) / len(found)
            who = f"round {number}, {name}, {len(found)} of {len(rows)}"
            print(f"{who}: overall {overall:.3f}, {told}", flush=True)


def pairs(source: str) -> list[tuple[str, str, str]]:
    """The positive rows of concept data: concept, instruction, answer."""
    data = load_concepts(source)
    texts = {concept.id: concept.text for concept in data.concepts}
    return [
        (texts[row.concept_id], row.prompt, row.response)
        for row in data.examples(range(len(data)))
        if row.concept_id in texts and row.category == "positive"
    ]


def main() -> None:
    """Run what is asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("train", "judge", "evaluate"))
    parser.add_argument("--concepts", type=int, default=400, help="of a round")
    parser.add_argument("--steps", type=int, default=50, help="of a round")
    parser.add_argument("--judged", type=int, default=40, help="answers of a kind")
    parser.add_argument("--out", type=Path, default=Path("runs/expert"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.what == "train":
        rounds(given.out, given.concepts, given.steps)
        return
    if given.what == "judge":
        judge(given.out, given.judged)
        return
    evaluate_twenty(("prompting", "bundled"), given.out)


if __name__ == "__main__":
    main()
