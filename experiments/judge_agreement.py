"""Hold judges to the labelled answers, and fit the scales of the local judge to them.

    python experiments/judge_agreement.py                      # tables: local and likelihood judge
    python experiments/judge_agreement.py --fit calibration.json
    python experiments/judge_agreement.py --axbench            # and AUROCs on two Concept10 sets

Everything that a model is asked is kept on disk, so that an interrupted run repeats nothing. The
local judge's figures are cross-fitted: the answers to a fifth of the concepts are scored by scales
that were fitted on the others. The file that `--fit` writes is fitted on all.

Fluency is fitted on the labels and on corrupted plain answers (shuffled, looped, salad), which are
labelled 0.
"""

import argparse
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from judge_calibration import SETS, area
from judge_rows import corrupted, rows_of

from hypersteer.config import JudgeConfig
from hypersteer.data.sources import load_concepts
from hypersteer.endpoint.replies import Failed
from hypersteer.judges.agreement import kendall_tau, spearman, weighted_kappa
from hypersteer.judges.calibration import Scale, fit
from hypersteer.judges.choose import OTHER, SMALL, open_asker
from hypersteer.judges.fluency import FluencyReader, FluencySignals, Plain
from hypersteer.judges.gold import GoldAnswer, gold_answers
from hypersteer.judges.judge import DIMENSIONS, Answer, Judgement, harmonic_mean
from hypersteer.judges.likelihood import LikelihoodJudge
from hypersteer.judges.local import ASKED, question
from hypersteer.judges.local_calibration import (
    SIGNALS,
    AskedScales,
    FluencyScale,
    LocalCalibration,
)
from hypersteer.judges.yes_no import Asker
from hypersteer.lm.base import BaseLM
from hypersteer.lm.load import has_native_bf16, load_lm

FOLDS = 5
KINDS = ("shuffled", "looped", "salad")
RIDGE = 1.0
Scores = dict[str, list[float]]


class Read(NamedTuple):
    """What is known of the labelled answers before any scale.

    Attributes:
        odds: dimension -> log-odds of Yes, of each answer; NaN where the judge gave none.
        fluency: measuring model -> signals of each answer.
        garbled: measuring model -> signals of corrupted plain answers.
        plain: measuring model -> how likely plain answers are to it.
    """

    odds: dict[str, list[float]]
    fluency: dict[str, list[FluencySignals]]
    garbled: dict[str, list[FluencySignals]]
    plain: dict[str, Plain]


def measuring_lm(name: str) -> BaseLM:
    """A model that measures fluency, as evaluations load it."""
    return load_lm(name, device="cpu", dtype="bfloat16" if has_native_bf16() else None)


def read(gold: Sequence[GoldAnswer], asker: Asker, measuring: Sequence[BaseLM]) -> Read:
    """Ask and measure all labelled answers."""
    answers = [one.answer for one in gold]
    odds: dict[str, list[float]] = {}
    for name in ASKED:
        replies = asker.ask([question(name, answer) for answer in answers])
        odds[name] = [float("nan") if isinstance(r, Failed) else r for r in replies]
    found = Read(odds, {}, {}, {})
    for lm in measuring:
        reader = FluencyReader(lm)
        found.fluency[lm.name] = reader.read(answers)
        found.garbled[lm.name] = reader.read(garbled(answers))
        usual = list(dict.fromkeys((one.instruction, one.plain) for one in answers))
        found.plain[lm.name] = reader.plain([pair[0] for pair in usual], [p[1] for p in usual])
    return found


def garbled(answers: Sequence[Answer]) -> list[Answer]:
    """Every third plain answer, corrupted in three ways."""
    chance = random.Random(0)
    pool = [word for answer in answers for word in answer.plain.split()]
    found = []
    for answer in answers[::3]:
        made = corrupted(answer.plain.split(), pool, chance)
        found += [answer._replace(response=" ".join(made[kind])) for kind in KINDS]
    return found


def fit_asked(odds: Sequence[float], labels: Sequence[int]) -> Scale:
    """The scale of a question: from log-odds to a reader's label."""
    known = [(o, label) for o, label in zip(odds, labels, strict=True) if np.isfinite(o)]
    return fit({"log_odds": [o for o, _ in known]}, [label / 2 for _, label in known], ridge=RIDGE)


def fit_fluency(
    signals: Sequence[FluencySignals], labels: Sequence[int], bad: Sequence[FluencySignals]
) -> Scale:
    """The scale of fluency; corrupted answers have a third of all weight."""
    rows = [one.by_name() for one in [*signals, *bad]]
    weights = [1.0] * len(signals) + [len(signals) / 2 / len(bad)] * len(bad)
    targets = [label / 2 for label in labels] + [0.0] * len(bad)
    return fit({name: [row[name] for row in rows] for name in SIGNALS}, targets, weights, RIDGE)


def fit_scales(gold: Sequence[GoldAnswer], known: Read, places: Sequence[int]) -> dict[str, Scale]:
    """Scales by dimension, and by measuring model, from some of the answers."""
    scales = {
        name: fit_asked(
            [known.odds[name][i] for i in places], [gold[i].labels[name] for i in places]
        )
        for name in ASKED
    }
    for lm, signals in known.fluency.items():
        labels = [gold[i].labels["fluency"] for i in places]
        scales[lm] = fit_fluency([signals[i] for i in places], labels, known.garbled[lm])
    return scales


def measured_by(gold: GoldAnswer) -> str:
    """Which model measures an answer: never the one that wrote it."""
    return OTHER if gold.lm == SMALL else SMALL


def cross_fitted(gold: Sequence[GoldAnswer], known: Read) -> Scores:
    """The local judge's scores, each by scales that were fitted on other concepts."""
    concepts = list(dict.fromkeys(one.answer.concept for one in gold))
    fold = {concept: place % FOLDS for place, concept in enumerate(concepts)}
    scores: Scores = {name: [0.0] * len(gold) for name in DIMENSIONS}
    for number in range(FOLDS):
        inside = [i for i, one in enumerate(gold) if fold[one.answer.concept] == number]
        outside = [i for i in range(len(gold)) if i not in set(inside)]
        scales = fit_scales(gold, known, outside)
        for i in inside:
            for name in ASKED:
                odds = known.odds[name][i]
                scores[name][i] = scales[name].score({"log_odds": odds}) if odds == odds else 1.0
            lm = measured_by(gold[i])
            scores["fluency"][i] = scales[lm].score(known.fluency[lm][i].by_name())
    return scores


def by_likelihood(gold: Sequence[GoldAnswer]) -> Scores:
    """The scores of the likelihood judge on its one base LM."""
    judge = LikelihoodJudge(load_lm("smollm2-135m-instruct", dtype="bfloat16"))
    found = [one for one in judge.judge([g.answer for g in gold]) if isinstance(one, Judgement)]
    return {name: [getattr(one, name).score for one in found] for name in DIMENSIONS}


def overall(scores: Scores) -> list[float]:
    """Harmonic means of the three dimensions."""
    return [harmonic_mean(row) for row in zip(*(scores[d] for d in DIMENSIONS), strict=True)]


def table_of_methods(gold: Sequence[GoldAnswer], judges: dict[str, Scores]) -> None:
    """Print mean overall scores by base LM and method, and how far their orders agree."""
    groups: dict[tuple[str, str], list[int]] = {}
    for i, one in enumerate(gold):
        groups.setdefault((one.lm, one.method), []).append(i)
    readers = overall({d: [float(one.labels[d]) for one in gold] for d in DIMENSIONS})
    columns = {"readers": readers, **{name: overall(scores) for name, scores in judges.items()}}
    means = {
        name: [np.mean([all_[i] for i in g]) for g in groups.values()]
        for name, all_ in columns.items()
    }
    print(f"\n| base LM | method | answers | {' | '.join(columns)} |")
    print(f"|---|---|{'---|' * (len(columns) + 1)}")
    for row, ((lm, method), places) in enumerate(groups.items()):
        cells = " | ".join(f"{means[name][row]:.2f}" for name in columns)
        print(f"| {lm} | {method} | {len(places)} | {cells} |")
    print(
        "\n| judge | order of methods (tau), "
        + ", ".join(dict.fromkeys(lm for lm, _ in groups))
        + ", pooled over base LMs |\n|---|---|"
    )
    names = [method for _, method in groups]
    for name in judges:
        taus = []
        for lm in dict.fromkeys(lm for lm, _ in groups):
            own = [i for i, (which, _) in enumerate(groups) if which == lm]
            taus.append(
                kendall_tau([means["readers"][i] for i in own], [means[name][i] for i in own])
            )
        pooled = {
            column: [
                np.mean(
                    [
                        columns[column][i]
                        for (_, method), g in groups.items()
                        if method == m
                        for i in g
                    ]
                )
                for m in dict.fromkeys(names)
            ]
            for column in ("readers", name)
        }
        taus.append(kendall_tau(pooled["readers"], pooled[name]))
        print(f"| {name} | {', '.join(f'{tau:.2f}' for tau in taus)} |")


def table_of_answers(gold: Sequence[GoldAnswer], judges: dict[str, Scores]) -> None:
    """Print the rank correlations with the labels, and what tells whole text from broken."""
    apart = " | ".join(f"{name}: 2 from 0" for name in ("concept", "fluency"))
    print(f"\n| judge | {' | '.join(DIMENSIONS)} | overall | {apart} |\n|{'---|' * 7}")
    labels = {d: [float(one.labels[d]) for one in gold] for d in DIMENSIONS}
    for name, scores in judges.items():
        found = [spearman(labels[d], scores[d]) for d in DIMENSIONS]
        found.append(spearman(overall(labels), overall(scores)))
        for d in ("concept", "fluency"):
            apart = [
                [s for s, x in zip(scores[d], labels[d], strict=True) if x == want]
                for want in (2, 0)
            ]
            found.append(area(*apart))
        print(f"| {name} | {' | '.join(f'{one:.3f}' for one in found)} |")


def table_of_readers(gold: Sequence[GoldAnswer]) -> None:
    """Print how far two readings agree."""
    twice = [(one.labels, one.second) for one in gold if one.second is not None]
    print(f"\n| {len(twice)} answers read twice | weighted kappa | same label |\n|---|---|---|")
    for d in DIMENSIONS:
        first, second = [a[d] for a, _ in twice], [b[d] for _, b in twice]
        same = np.mean([a == b for a, b in zip(first, second, strict=True)])
        print(f"| {d} | {weighted_kappa(first, second):.2f} | {same:.0%} |")


def axbench(asker: Asker, per_kind: int) -> None:
    """Print mean per-concept AUROCs of the concept question on the Concept10 sets."""
    print("\n| set | rows | against negatives | against hard negatives |\n|---|---|---|---|")
    for name in SETS:
        data = load_concepts(name, split="test")
        rows = [
            row
            for row in rows_of(data, data.concepts)
            if row.kind in ("positive", "negative", "hard negative")
        ]
        counts: dict[tuple[int, str], int] = {}
        some = []
        for row in rows:
            key = (row.concept_id, row.kind)
            counts[key] = counts.get(key, 0) + 1
            if counts[key] <= per_kind:
                some.append(row)
        odds = asker.ask([question("concept", row.answer) for row in some])
        areas: dict[str, list[float]] = {"negative": [], "hard negative": []}
        for concept in data.concepts:
            by_kind = {
                kind: [
                    o
                    for row, o in zip(some, odds, strict=True)
                    if row.concept_id == concept.id
                    and row.kind == kind
                    and not isinstance(o, Failed)
                ]
                for kind in ("positive", "negative", "hard negative")
            }
            for kind, found in areas.items():
                found.append(area(by_kind["positive"], by_kind[kind]))
        cells = " | ".join(f"{np.nanmean(found):.3f}" for found in areas.values())
        print(f"| {name} | {len(some)} | {cells} |", flush=True)


def main() -> None:
    """Read, fit, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=None, help="who is asked; see judge.model")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--fit", type=Path, default=None, help="file to write")
    parser.add_argument("--axbench", action="store_true")
    parser.add_argument(
        "--per-kind", type=int, default=12, help="AxBench rows per concept and kind"
    )
    given = parser.parse_args()
    gold = gold_answers()
    asker = open_asker(JudgeConfig(kind="local", model=given.model, threads=given.threads))
    lms = [measuring_lm(name) for name in (SMALL, OTHER)]
    began = time.monotonic()
    known = read(gold, asker, lms)
    print(f"read in {(time.monotonic() - began) / len(gold):.2f} s an answer", file=sys.stderr)
    judges = {"local": cross_fitted(gold, known), "likelihood": by_likelihood(gold)}
    table_of_readers(gold)
    table_of_answers(gold, judges)
    table_of_methods(gold, judges)
    if given.fit is not None:
        scales = fit_scales(gold, known, range(len(gold)))
        calibration = LocalCalibration(
            data=f"{len(gold)} labelled answers of data/gold",
            models=(
                AskedScales(
                    model=" ".join(asker.name.split()[:-1]) or asker.name,
                    weights=(asker.name.split()[-1],),
                    concept=scales["concept"],
                    instruction=scales["instruction"],
                ),
            ),
            fluency=tuple(
                FluencyScale(
                    base_lm=lm.name,
                    identity=str(lm.identity),
                    plain_likelihood=known.plain[lm.name].likelihood,
                    plain_worst=known.plain[lm.name].worst,
                    scale=scales[lm.name],
                )
                for lm in lms
            ),
        )
        calibration.save(given.fit)
        print(f"wrote {given.fit}, version {calibration.version}", file=sys.stderr)
    if given.axbench:
        axbench(asker, given.per_kind)


if __name__ == "__main__":
    main()
