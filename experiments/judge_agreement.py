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
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from judge_calibration import SETS, area
from judge_rows import KINDS as KINDS_OF_ROWS
from judge_rows import Row, compared_layers, corrupted, rows_of
from judge_tables import Scores, table_of_answers, table_of_methods, table_of_readers

from hypersteer.config import JudgeConfig
from hypersteer.data.sources import load_concepts
from hypersteer.endpoint.replies import Failed
from hypersteer.judges.calibration import Scale, fit
from hypersteer.judges.choose import OTHER, SMALL, open_asker
from hypersteer.judges.fluency import FluencyReader, FluencySignals
from hypersteer.judges.gold import GoldAnswer, gold_answers
from hypersteer.judges.judge import DIMENSIONS, Answer, Judgement
from hypersteer.judges.likelihood import LikelihoodJudge
from hypersteer.judges.lm_signals import SignalReader, Signals
from hypersteer.judges.local import QUESTIONS, background, in_order, question
from hypersteer.judges.local_calibration import (
    SIGNALS,
    WHOLENESS,
    AskedScales,
    LocalCalibration,
    MeasuredScales,
)
from hypersteer.judges.yes_no import Asker
from hypersteer.lm.base import BaseLM
from hypersteer.lm.bfloat16 import bf16_is_faster
from hypersteer.lm.load import load_lm

FOLDS = 5
CORRUPTIONS = ("shuffled", "looped", "salad")
RIDGE = 1.0
Values = dict[str, float]


class Read(NamedTuple):
    """What is known of the labelled answers before any scale.

    Attributes:
        odds: log-odds of Yes by question, of each answer; without those that were not answered.
        states: measuring model -> signals of states and gains of each answer.
        fluency: measuring model -> signals of each answer.
        garbled_odds: log-odds of Yes to the question of fluency, of corrupted plain answers.
        garbled: measuring model -> signals of corrupted plain answers.
        plain: measuring model -> how likely plain answers are to it.
    """

    odds: list[dict[str, float]]
    states: dict[str, list[Signals]]
    fluency: dict[str, list[FluencySignals]]
    garbled_odds: list[float]
    garbled: dict[str, list[FluencySignals]]
    plain: dict[str, float]


def measuring_lm(name: str) -> BaseLM:
    """A model that measures fluency, as evaluations load it."""
    return load_lm(name, device="cpu", dtype="bfloat16" if bf16_is_faster() else None)


def read(gold: Sequence[GoldAnswer], asker: Asker, measuring: Sequence[BaseLM]) -> Read:
    """Ask and measure all labelled answers."""
    answers = [one.answer for one in gold]
    order = in_order(len(gold))
    replies = asker.ask([question(name, answers[i]) for i, name in order])
    bad = garbled(answers)
    said = asker.ask([question("fluency", answer) for answer in bad])
    heard = [reply for reply in said if not isinstance(reply, Failed)]
    if len(heard) < len(bad):
        sys.exit(
            f"{len(bad) - len(heard)} of {len(bad)} questions about broken text have no answer"
        )
    found = Read([{} for _ in gold], {}, {}, heard, {}, {})
    for (i, name), reply in zip(order, replies, strict=True):
        if not isinstance(reply, Failed):
            found.odds[i][name] = reply
    for lm in measuring:
        everyday = background(compared_layers(lm))
        reader = FluencyReader(lm, everyday.texts)
        found.states[lm.name] = SignalReader(lm, everyday, concept_only=True).read(answers)
        found.fluency[lm.name] = reader.read(answers)
        found.garbled[lm.name] = reader.read(bad)
        usual = list(dict.fromkeys((one.instruction, one.plain) for one in answers))
        found.plain[lm.name] = reader.plain([pair[0] for pair in usual], [p[1] for p in usual])
    return found


def garbled(answers: Sequence[Answer]) -> list[Answer]:
    """Every sixth plain answer, corrupted in three ways."""
    chance = random.Random(0)
    pool = [word for answer in answers for word in answer.plain.split()]
    found = []
    for answer in answers[::6]:
        made = corrupted(answer.plain.split(), pool, chance)
        found += [answer._replace(response=" ".join(made[kind])) for kind in CORRUPTIONS]
    return found


def fit_fluency(
    whole: Sequence[Values], labels: Sequence[int], bad: Sequence[Values], names: Sequence[str]
) -> Scale:
    """A scale of fluency that reads some signals; corrupted answers have a third of all weight."""
    rows = [*whole, *bad]
    weights = [1.0] * len(whole) + [len(whole) / 2 / len(bad)] * len(bad)
    targets = [label / 2 for label in labels] + [0.0] * len(bad)
    return fit({name: [row[name] for row in rows] for name in names}, targets, weights, RIDGE)


def values_of(known: Read, lm: str, i: int, dimension: str) -> Values:
    """All that the scale of a dimension may read of an answer."""
    signals = known.fluency[lm][i] if dimension == "fluency" else known.states[lm][i]
    return signals.by_name() | known.odds[i]


def fit_scales(
    gold: Sequence[GoldAnswer], known: Read, lm: str, places: Sequence[int]
) -> dict[str, Scale]:
    """Scales of a measuring model, from those of the answers that it did not write.

    They go by dimension; `unasked` is that of fluency which reads no reply.
    """
    own = [i for i in places if gold[i].lm != lm and len(known.odds[i]) == len(QUESTIONS)]
    labels = {d: [gold[i].labels[d] for i in own] for d in DIMENSIONS}
    scales = {}
    for d in ("concept", "instruction"):
        rows = [values_of(known, lm, i, d) for i in own]
        columns = {name: [row[name] for row in rows] for name in SIGNALS[d]}
        scales[d] = fit(columns, [label / 2 for label in labels[d]], ridge=RIDGE)
    whole = [values_of(known, lm, i, "fluency") for i in own]
    bad = [
        signals.by_name() | {"fluency": odds}
        for signals, odds in zip(known.garbled[lm], known.garbled_odds, strict=True)
    ]
    for name, signals in (("fluency", SIGNALS["fluency"]), ("unasked", WHOLENESS)):
        scales[name] = fit_fluency(whole, labels["fluency"], bad, signals)
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
        scales = {lm: fit_scales(gold, known, lm, outside) for lm in known.states}
        for i in inside:
            lm = measured_by(gold[i])
            for name in DIMENSIONS:
                scores[name][i] = scales[lm][name].score(values_of(known, lm, i, name))
    return scores


def by_likelihood(gold: Sequence[GoldAnswer]) -> Scores:
    """The scores of the likelihood judge on its one base LM."""
    judge = LikelihoodJudge(load_lm("smollm2-135m-instruct", dtype="bfloat16"))
    found = [one for one in judge.judge([g.answer for g in gold]) if isinstance(one, Judgement)]
    return {name: [getattr(one, name).score for one in found] for name in DIMENSIONS}


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
    reader = SignalReader(lm, background(compared_layers(lm)), concept_only=True)
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
        asked = {dimension: scales[dimension] for dimension in DIMENSIONS}
        measuring.append(
            MeasuredScales(
                base_lm=lm.name,
                identity=str(lm.identity),
                layers=compared_layers(lm),
                plain_likelihood=known.plain[lm.name],
                fluency=scales["unasked"],
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
