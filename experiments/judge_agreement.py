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
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from judge_calibration import SETS, area
from judge_rows import KINDS as KINDS_OF_ROWS
from judge_rows import Row, corrupted, rows_of

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
from hypersteer.judges.lm_signals import SignalReader, Signals
from hypersteer.judges.local import QUESTIONS, background, in_order, question
from hypersteer.judges.local_calibration import (
    SIGNALS,
    AskedScales,
    LocalCalibration,
    MeasuredScales,
)
from hypersteer.judges.yes_no import Asker
from hypersteer.lm.base import BaseLM
from hypersteer.lm.load import has_native_bf16, load_lm

FOLDS = 5
CORRUPTIONS = ("shuffled", "looped", "salad")
RIDGE = 1.0
Scores = dict[str, list[float]]


class Read(NamedTuple):
    """What is known of the labelled answers before any scale.

    Attributes:
        odds: log-odds of Yes by question, of each answer; without those that were not answered.
        states: measuring model -> signals of states and gains of each answer.
        fluency: measuring model -> signals of each answer.
        garbled: measuring model -> signals of corrupted plain answers.
        plain: measuring model -> how likely plain answers are to it.
    """

    odds: list[dict[str, float]]
    states: dict[str, list[Signals]]
    fluency: dict[str, list[FluencySignals]]
    garbled: dict[str, list[FluencySignals]]
    plain: dict[str, Plain]


def measuring_lm(name: str) -> BaseLM:
    """A model that measures fluency, as evaluations load it."""
    return load_lm(name, device="cpu", dtype="bfloat16" if has_native_bf16() else None)


def read(gold: Sequence[GoldAnswer], asker: Asker, measuring: Sequence[BaseLM]) -> Read:
    """Ask and measure all labelled answers."""
    answers = [one.answer for one in gold]
    order = in_order(len(gold))
    replies = asker.ask([question(name, answers[i]) for i, name in order])
    found = Read([{} for _ in gold], {}, {}, {}, {})
    for (i, name), reply in zip(order, replies, strict=True):
        if not isinstance(reply, Failed):
            found.odds[i][name] = reply
    for lm in measuring:
        reader = FluencyReader(lm)
        found.states[lm.name] = SignalReader(lm, background(layers_of(lm))).read(answers)
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
        found += [answer._replace(response=" ".join(made[kind])) for kind in CORRUPTIONS]
    return found


def layers_of(lm: BaseLM) -> tuple[int, int]:
    """The two blocks whose states are compared, as in the likelihood judge."""
    return int(0.3 * (lm.depth - 1)), int(0.43 * (lm.depth - 1))


def fit_fluency(
    signals: Sequence[FluencySignals], labels: Sequence[int], bad: Sequence[FluencySignals]
) -> Scale:
    """The scale of fluency; corrupted answers have a third of all weight."""
    rows = [one.by_name() for one in [*signals, *bad]]
    weights = [1.0] * len(signals) + [len(signals) / 2 / len(bad)] * len(bad)
    targets = [label / 2 for label in labels] + [0.0] * len(bad)
    return fit(
        {name: [row[name] for row in rows] for name in SIGNALS["fluency"]}, targets, weights, RIDGE
    )


def values_of(known: Read, lm: str, i: int) -> dict[str, float]:
    """All that the scales of concept and instruction may read of an answer."""
    return known.states[lm][i].by_name() | known.odds[i]


def fit_scales(
    gold: Sequence[GoldAnswer], known: Read, lm: str, places: Sequence[int]
) -> dict[str, Scale]:
    """Scales by dimension of a measuring model, from those of the answers that it did not write."""
    own = [i for i in places if gold[i].lm != lm and len(known.odds[i]) == len(QUESTIONS)]
    labels = {d: [gold[i].labels[d] for i in own] for d in DIMENSIONS}
    rows = [values_of(known, lm, i) for i in own]
    scales = {
        d: fit(
            {name: [row[name] for row in rows] for name in SIGNALS[d]},
            [label / 2 for label in labels[d]],
            ridge=RIDGE,
        )
        for d in QUESTIONS
    }
    whole = [known.fluency[lm][i] for i in own]
    return scales | {"fluency": fit_fluency(whole, labels["fluency"], known.garbled[lm])}


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
        scales = {lm: fit_scales(gold, known, lm, outside) for lm in known.states}
        for i in inside:
            lm = measured_by(gold[i])
            values = values_of(known, lm, i)
            for name in QUESTIONS:
                scores[name][i] = scales[lm][name].score(values)
            scores["fluency"][i] = scales[lm]["fluency"].score(known.fluency[lm][i].by_name())
    return scores


def by_likelihood(gold: Sequence[GoldAnswer]) -> Scores:
    """The scores of the likelihood judge on its one base LM."""
    judge = LikelihoodJudge(load_lm("smollm2-135m-instruct", dtype="bfloat16"))
    found = [one for one in judge.judge([g.answer for g in gold]) if isinstance(one, Judgement)]
    return {name: [getattr(one, name).score for one in found] for name in DIMENSIONS}


def overall(scores: Scores) -> list[float]:
    """Harmonic means of the three dimensions."""
    return [harmonic_mean(row) for row in zip(*(scores[d] for d in DIMENSIONS), strict=True)]


def means(
    gold: Sequence[GoldAnswer], scores: Sequence[float], key: Callable[[GoldAnswer], Hashable]
) -> list[float]:
    """Mean scores of groups of answers, in the order in which the groups begin."""
    groups: dict[Hashable, list[float]] = {}
    for one, score in zip(gold, scores, strict=True):
        groups.setdefault(key(one), []).append(score)
    return [float(np.mean(group)) for group in groups.values()]


def table_of_methods(gold: Sequence[GoldAnswer], judges: dict[str, Scores]) -> None:
    """Print mean overall scores by base LM and method, and how far their orders agree."""
    readers = overall({d: [float(one.labels[d]) for one in gold] for d in DIMENSIONS})
    columns = {"readers": readers, **{name: overall(scores) for name, scores in judges.items()}}
    places = dict.fromkeys((one.lm, one.method) for one in gold)
    rows = zip(*(means(gold, c, lambda g: (g.lm, g.method)) for c in columns.values()), strict=True)
    print(f"\n| base LM | method | answers | {' | '.join(columns)} |")
    print(f"|---|---|{'---|' * (len(columns) + 1)}")
    for (lm, method), row in zip(places, rows, strict=True):
        count = sum((one.lm, one.method) == (lm, method) for one in gold)
        print(f"| {lm} | {method} | {count} | {' | '.join(f'{mean:.2f}' for mean in row)} |")
    names = (*DIMENSIONS, "overall")
    print(f"\n| order of {len(places)} methods (tau) | {' | '.join(names)} |\n|{'---|' * 5}")
    labels = {d: [float(one.labels[d]) for one in gold] for d in DIMENSIONS} | {"overall": readers}
    for judge, scores in judges.items():
        own = scores | {"overall": columns[judge]}
        pairs = [
            [means(gold, x[d], lambda g: (g.lm, g.method)) for x in (labels, own)] for d in names
        ]
        print(f"| {judge} | {' | '.join(f'{kendall_tau(*pair):.2f}' for pair in pairs)} |")


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


def first_of_each(rows: Sequence[Row], count: int) -> list[Row]:
    """The first rows of every concept and kind."""
    seen: Counter[tuple[int, str]] = Counter()
    found = []
    for row in rows:
        seen[row.concept_id, row.kind] += 1
        if row.kind in KINDS_OF_ROWS and seen[row.concept_id, row.kind] <= count:
            found.append(row)
    return found


def axbench(asker: Asker, lm: BaseLM, scale: Scale, per_kind: int) -> None:
    """Print mean per-concept AUROCs of the concept score on the Concept10 sets."""
    print("\n| set | rows | against negatives | against hard negatives |\n|---|---|---|---|")
    reader = SignalReader(lm, background(layers_of(lm)))
    for name in SETS:
        data = load_concepts(name, split="test")
        some = first_of_each(rows_of(data, data.concepts), per_kind)
        replies = asker.ask([question("concept", row.answer) for row in some])
        states = reader.read([row.answer for row in some])
        areas: dict[str, list[float]] = {"negative": [], "hard negative": []}
        by_kind: dict[tuple[int, str], list[float]] = {}
        for row, reply, signals in zip(some, replies, states, strict=True):
            if not isinstance(reply, Failed):
                value = scale.score(signals.by_name() | {"concept": reply})
                by_kind.setdefault((row.concept_id, row.kind), []).append(value)
        for concept in data.concepts:
            high = by_kind.get((concept.id, "positive"), [])
            for kind, found in areas.items():
                found.append(area(high, by_kind.get((concept.id, kind), [])))
        cells = " | ".join(f"{np.nanmean(found):.3f}" for found in areas.values())
        print(f"| {name} | {len(some)} | {cells} |", flush=True)


def calibration_of(
    gold: Sequence[GoldAnswer], known: Read, asker: Asker, lms: Sequence[BaseLM]
) -> LocalCalibration:
    """The calibration that all answers give."""
    *name, weights = asker.name.split()
    measuring = []
    for lm in lms:
        scales = fit_scales(gold, known, lm.name, range(len(gold)))
        asked = {dimension: scales[dimension] for dimension in QUESTIONS}
        measuring.append(
            MeasuredScales(
                base_lm=lm.name,
                identity=str(lm.identity),
                layers=layers_of(lm),
                plain_likelihood=known.plain[lm.name].likelihood,
                plain_worst=known.plain[lm.name].worst,
                fluency=scales["fluency"],
                asked=(AskedScales(model=" ".join(name), weights=(weights,), **asked),),
            )
        )
    return LocalCalibration(data=f"{len(gold)} labelled answers", measuring=tuple(measuring))


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
    calibration = calibration_of(gold, known, asker, lms)
    if given.fit is not None:
        calibration.save(given.fit)
        print(f"wrote {given.fit}, version {calibration.version}", file=sys.stderr)
    if given.axbench:
        (asked,) = calibration.of(lms[0]).asked
        axbench(asker, lms[0], asked.concept, given.per_kind)


if __name__ == "__main__":
    main()
