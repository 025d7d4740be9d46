"""Is strength 1 the right one? What steering shows at each strength, concept by concept.

    python experiments/strength_scale.py CHECKPOINT --concepts 20 --prompts 2

Held-out concepts of the bundled data, instructions that no training data have, and the independent
local judge. Prints mean scores at each strength, the share of concepts whose overall score at
strength 1 is within a tenth of their best, and intervals of the steps in concept score.
"""

import argparse
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
from held_out import asked_of, held_out_concepts, judged, load_steerer
from rich.console import Console
from rich.table import Table

from hypersteer.config import JudgeConfig
from hypersteer.judges.choose import make_judge
from hypersteer.judges.judge import DIMENSIONS
from hypersteer.stats import bootstrap

STRENGTHS = [-1.0, 0.0, 0.5, 0.75, 1.0, 1.25, 1.5]


def main() -> None:
    """Answer at every strength, judge, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint")
    parser.add_argument("--concepts", type=int, default=20)
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument("--strengths", type=float, nargs="+", default=STRENGTHS)
    parser.add_argument("--alone", action="store_true", help="do not say the steering prompt")
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("--repetition-penalty", type=float, default=1.15)
    parser.add_argument("--out", default="runs/strength_scale.jsonl")
    given = parser.parse_args()
    steerer = load_steerer(given.checkpoint)
    asked = asked_of(held_out_concepts()[: given.concepts], given.prompts)
    judge = make_judge(JudgeConfig(kind="local"), steerer.lm)
    out = Path(given.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    kept = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    options = {
        "max_new_tokens": given.max_new_tokens,
        "repetition_penalty": given.repetition_penalty,
    }
    prompts = [prompt for _, prompt in asked]
    plain = steerer.generate(prompts, **options)
    for strength in given.strengths:
        if any(row["strength"] == strength for row in kept):
            continue
        texts = steerer.generate(
            prompts,
            steer=[steer for steer, _ in asked],
            strength=strength,
            prompted=False if given.alone else None,
            **options,
        )
        rows = [
            {"strength": strength, "steer": one.concept, "prompt": one.instruction}
            | {"answer": one.response, "overall": found.overall}
            | {name: getattr(found, name).score for name in DIMENSIONS}
            for one, found in judged(judge, asked, texts, plain)
        ]
        with out.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        kept += rows
        print(f"strength {strength:g}: {len(rows)} answers", flush=True)
    show(kept, given.strengths)


def show(rows: list[dict], strengths: list[float]) -> None:
    """Print the tables."""
    names = sorted({row["steer"] for row in rows})

    def means(strength: float, score: str) -> np.ndarray:
        """Each concept's mean score at a strength."""
        found = {name: [] for name in names}
        for row in rows:
            if row["strength"] == strength:
                found[row["steer"]].append(row[score])
        return np.array([np.mean(values) for values in found.values()])

    table = Table("strength", "overall", *DIMENSIONS)
    for strength in strengths:
        scores = [means(strength, name).mean() for name in ("overall", *DIMENSIONS)]
        table.add_row(f"{strength:g}", *(f"{score:.3f}" for score in scores))
    Console().print(table)
    above = [strength for strength in strengths if strength >= 0]
    best = np.max([means(strength, "overall") for strength in above], axis=0)
    if 1.0 in strengths:
        share = float((means(1.0, "overall") >= 0.9 * best).mean())
        print(f"strength 1 within a tenth of the concept's best: {share:.0%} of {len(names)}")
    for low, high in pairwise(strengths):
        steps = means(high, "concept") - means(low, "concept")
        found = bootstrap(steps.tolist())
        told = f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
        print(f"concept, {low:g} to {high:g}: {told}")


if __name__ == "__main__":
    main()
