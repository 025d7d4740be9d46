"""Calibrate the likelihood judge on two Concept10 sets, measure it both ways, print the tables.

    export HYPERSTEER_AXBENCH=/path/to/axbench    # holds concept10/prod_2b_l10_v1 and ..._l20_v1
    python experiments/judge_calibration.py --out calibration.json

Signals of all rows are read once. For the tables, the scales are fitted on one set and measured on
the other. The file that is written is fitted on both. For another base LM give `--lm`, and put the
file into `judge.calibration` of the evaluation.
"""

import argparse
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from judge_rows import Row, compared_layers, rows_of

from hypersteer.data.sources import load_concepts
from hypersteer.judges.calibration import Background, Calibration, Scale, fit
from hypersteer.judges.judge import DIMENSIONS, Judgement
from hypersteer.judges.likelihood import judgement
from hypersteer.judges.lm_signals import USED, SignalReader, Signals
from hypersteer.lm.base import BaseLM
from hypersteer.lm.load import load_lm
from hypersteer.stats import auroc

SETS = ("axbench:concept10/2b/l10", "axbench:concept10/2b/l20")
THIRD = "bundled"
PLAN: dict[str, dict[str, tuple[float, float]]] = {
    "concept": {"positive": (1.0, 0.5), "negative": (0.0, 0.3), "hard negative": (0.0, 0.2)},
    "instruction": {
        "positive": (1.0, 0.3),
        "negative": (1.0, 0.3),
        "other instruction": (0.0, 0.35),
        "parroted": (0.0, 0.05),
    },
    "fluency": {
        "positive": (1.0, 0.22),
        "negative": (1.0, 0.22),
        "half shuffled": (0.5, 0.08),
        "half looped": (0.5, 0.08),
        "shuffled": (0.0, 0.12),
        "looped": (0.0, 0.12),
        "salad": (0.0, 0.12),
        "parroted": (0.0, 0.04),
    },
}
"""Dimension -> kind of row -> (expected label, share of all weight)."""

WEIGHT = 400.0
"""Sum of the row weights of a fit, whatever the number of rows; sets what a ridge of 1 means."""


@dataclass(frozen=True)
class Measured:
    """The rows of a set with their signals."""

    name: str
    rows: list[Row]
    signals: list[Signals]


def background(lm: BaseLM) -> Background:
    """The bundled calibration's texts, at the compared blocks of this base LM."""
    return replace(Calibration.load().background, layers=compared_layers(lm))


def fitted(sets: Sequence[Measured]) -> dict[str, Scale]:
    """One scale per dimension, from the rows of one or more sets."""
    rows = [
        (row, s.by_name()) for one in sets for row, s in zip(one.rows, one.signals, strict=True)
    ]
    scales = {}
    for name in DIMENSIONS:
        plan = PLAN[name]
        used = [(row, values) for row, values in rows if row.kind in plan]
        kinds = [row.kind for row, _ in used]
        scales[name] = fit(
            {signal: [values[signal] for _, values in used] for signal in USED[name]},
            [plan[kind][0] for kind in kinds],
            [WEIGHT * plan[kind][1] / kinds.count(kind) for kind in kinds],
        )
    return scales


def area(high: Sequence[float], low: Sequence[float]) -> float:
    """AUROC; NaN if there is no pair."""
    if not len(high) or not len(low):
        return float("nan")
    return float(auroc(torch.tensor(high), torch.tensor(low)))


def matched_auroc(high: list[tuple[float, int]], low: list[tuple[float, int]]) -> float:
    """AUROC over the pairs whose lengths differ by at most a fifth of the longer."""
    won = [
        (a > b) + 0.5 * (a == b)
        for a, length in high
        for b, other in low
        if abs(length - other) <= 0.2 * max(length, other)
    ]
    return float(np.mean(won)) if won else float("nan")


CORRUPTIONS = ("shuffled", "looped", "salad")
FIGURES = ("concept", "length-matched", "hard", "instruction", *CORRUPTIONS)


def figures(rows: Sequence[Row], judged: Sequence[Judgement]) -> dict[str, float]:
    """Mean per-concept AUROC of every comparison; concepts without such rows do not count."""
    table: dict[str, list[float]] = {name: [] for name in FIGURES}
    for concept_id in sorted({row.concept_id for row in rows}):
        mine = [(r, j) for r, j in zip(rows, judged, strict=True) if r.concept_id == concept_id]

        def scores(dimension: str, *kinds: str, only: bool = False, mine: list = mine) -> list:
            return [
                getattr(j, dimension).score for r, j in mine if r.kind in kinds and r.chosen >= only
            ]

        def sized(kind: str, mine: list = mine) -> list:
            return [(j.concept.score, len(r.answer.response)) for r, j in mine if r.kind == kind]

        positive = scores("concept", "positive")
        own = ("positive", "negative")
        table["concept"].append(area(positive, scores("concept", "negative")))
        table["hard"].append(area(positive, scores("concept", "hard negative")))
        table["length-matched"].append(matched_auroc(sized("positive"), sized("negative")))
        right = scores("instruction", *own, only=True)
        table["instruction"].append(area(right, scores("instruction", "other instruction")))
        fluent = scores("fluency", *own, only=True)
        for kind in CORRUPTIONS:
            table[kind].append(area(fluent, scores("fluency", kind)))
    return {name: float(np.nanmean(values)) for name, values in table.items() if _any(values)}


def _any(values: list[float]) -> bool:
    return not np.isnan(values).all()


def judged_with(measured: Measured, calibration: Calibration) -> list[Judgement]:
    """The set's judgements under a calibration."""
    pairs = zip(measured.rows, measured.signals, strict=True)
    return [judgement(row.answer, signals, calibration) for row, signals in pairs]


def line(name: str, values: dict[str, float]) -> str:
    """One row of the table of figures."""
    cells = (f"{values[key]:.3f}" if key in values else "" for key in FIGURES)
    return f"| {name} | {' | '.join(cells)} |"


def show_overall(name: str, measured: Measured, judged: Sequence[Judgement]) -> None:
    """Mean scores of every kind of row."""
    for kind in dict.fromkeys(row.kind for row in measured.rows):
        mine = [j for row, j in zip(measured.rows, judged, strict=True) if row.kind == kind]
        means = [np.mean([getattr(j, d).score for j in mine]) for d in DIMENSIONS]
        overall = [j.overall for j in mine]
        cells = " | ".join(f"{mean:.2f}" for mean in [*means, np.mean(overall), np.max(overall)])
        print(f"| {name} | {kind} | {len(mine)} | {cells} |")


def measured(name: str, reader: SignalReader) -> Measured:
    """Read the signals of all rows of a Concept10 set, or of every 12th bundled concept."""
    third = name == THIRD
    data = load_concepts(name, split="train" if third else "test")
    rows = rows_of(data, data.concepts[:: 12 if third else 1], drawn=8 if third else 0)
    print(f"{name}: {len(rows)} rows", file=sys.stderr, flush=True)
    return Measured(name, rows, reader.read([row.answer for row in rows]))


def report(sets: Sequence[Measured], other: Measured, calibrations: dict[str, Calibration]) -> None:
    """Print the tables: both ways, the third set by kind of concept, mean scores by kind of row.

    Args:
        sets: the two calibration sets.
        other: the third set, of which nothing was fitted.
        calibrations: by the name of the set they were fitted on; `both` for the final one.
    """
    print(f"| measured on, calibrated on | {' | '.join(FIGURES)} |")
    print(f"|---|{'---|' * len(FIGURES)}")
    for one, from_ in (sets, sets[::-1]):
        judged = judged_with(one, calibrations[from_.name])
        print(line(f"{one.name}, {from_.name}", figures(one.rows, judged)))
    judged = judged_with(other, calibrations["both"])
    print(line(f"{other.name}, both", figures(other.rows, judged)))
    kinds = {c.id: c.kind for c in load_concepts(other.name).concepts}
    for kind in dict.fromkeys(kinds.values()):
        part = [i for i, row in enumerate(other.rows) if kinds[row.concept_id] == kind]
        rows, mine = [other.rows[i] for i in part], [judged[i] for i in part]
        print(line(f"{other.name} ({kind}), both", figures(rows, mine)))
    print("\n| measured on | concept | negatives | hard | hard negatives |\n|---|---|---|---|---|")
    for one, from_ in (sets, sets[::-1]):
        show_concepts(one, judged_with(one, calibrations[from_.name]))
    print("\n| set | kind of row | rows | concept | instruction | fluency | overall | highest |")
    print(f"|{'---|' * 8}")
    for one, from_ in (sets, sets[::-1]):
        show_overall(one.name, one, judged_with(one, calibrations[from_.name]))
    show_overall(other.name, other, judged)


def show_concepts(measured: Measured, judged: Sequence[Judgement]) -> None:
    """Concept AUROC of every concept by itself."""
    for concept_id in sorted({row.concept_id for row in measured.rows}):
        part = [i for i, row in enumerate(measured.rows) if row.concept_id == concept_id]
        rows, mine = [measured.rows[i] for i in part], [judged[i] for i in part]
        found, count = figures(rows, mine), sum(row.kind == "hard negative" for row in rows)
        cells = " | ".join(f"{found[key]:.2f}" if key in found else "" for key in FIGURES[:3:2])
        print(f"| {measured.name} | {rows[0].answer.concept} | {cells} | {count} |")


def show_texts(measured: Measured, judged: Sequence[Judgement], count: int) -> None:
    """Print some judged texts, of every kind in turn."""
    chance = random.Random(0)
    kinds = list(dict.fromkeys(row.kind for row in measured.rows))
    for number in range(count):
        kind = kinds[number % len(kinds)]
        index = chance.choice([i for i, row in enumerate(measured.rows) if row.kind == kind])
        answer, found = measured.rows[index].answer, judged[index]
        print(f"\n{number + 1}. {kind}; concept *{answer.concept}*; {answer.instruction}")
        print(f"   > {' '.join(answer.response.split()[:24])}")
        print(f"   Overall {found.overall:.2f}.")
        for dimension in DIMENSIONS:
            print(f"   {dimension}: {getattr(found, dimension).reason}")


def main() -> None:
    """Read signals, fit, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lm", default="smollm2-135m-instruct")
    parser.add_argument("--dtype", default=None, help="bfloat16 is faster where it is native")
    parser.add_argument("--out", type=Path, default=Path("calibration.json"))
    parser.add_argument("--judged", type=int, default=0, help="judged texts to print")
    options = parser.parse_args()
    lm = load_lm(options.lm, dtype=options.dtype)
    behind = background(lm)
    reader = SignalReader(lm, behind)
    sets = [measured(name, reader) for name in SETS]
    other = measured(THIRD, reader)

    def calibration(fit_on: Sequence[Measured]) -> Calibration:
        return Calibration(
            base_lm=lm.name,
            fingerprint=lm.fingerprint,
            identity=str(lm.identity),
            data=" and ".join(one.name for one in fit_on),
            background=behind,
            scales=fitted(fit_on),
        )

    final = calibration(sets)
    final.save(options.out)
    report(sets, other, {"both": final, **{one.name: calibration([one]) for one in sets}})
    show_texts(sets[0], judged_with(sets[0], final), options.judged)
    print(f"wrote {options.out}, version {final.version}", file=sys.stderr)


if __name__ == "__main__":
    main()
