"""What the likelihood judge sees of the bundled concepts: AUROC of its concept score, per concept.

A concept's own answers stand against answers that other concepts gave to the same instructions, so
that only the concept can tell them apart.
"""

import random
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import NamedTuple

import torch
from bundled_checks import Bundle, Row

from hypersteer.concepts import Concept
from hypersteer.judges.judge import Answer, Failure, Judgement
from hypersteer.judges.likelihood import LikelihoodJudge
from hypersteer.lm.load import load_lm
from hypersteer.stats import auroc

WORST = 15
SEEN = 0.8
"""AUROC from which a concept counts as seen."""


class Sample(NamedTuple):
    """What the judge reads of one concept."""

    concept: Concept
    own: list[Answer]
    others: list[Answer]


def samples(bundle: Bundle, own: int, others: int) -> list[Sample]:
    """For every concept some of its answers, and others' to the same instructions in turn.

    Args:
        bundle: the set.
        own: answers of a concept, evaluation rows first; fewer where it has fewer.
        others: answers of distinct other concepts, and as many instructions as there are own.
    """
    by_instruction: dict[str, list[Row]] = {}
    for row in bundle.rows:
        by_instruction.setdefault(row.instruction, []).append(row)
    found = []
    for concept in bundle.concepts.values():
        chance = random.Random(concept.id)
        mine = [row for row in bundle.rows if row.concept_id == concept.id]
        mine = sorted(chance.sample(mine, len(mine)), key=lambda row: row.split)[:own]
        taken = {concept.id}
        theirs = []
        for number in range(others):
            asked = by_instruction[mine[number % len(mine)].instruction]
            row = chance.choice([row for row in asked if row.concept_id not in taken])
            taken.add(row.concept_id)
            theirs.append(row)
        answers = [
            [Answer(concept.text, row.instruction, row.response) for row in part]
            for part in (mine, theirs)
        ]
        found.append(Sample(concept, *answers))
    return found


def scores(judged: Sequence[Judgement | Failure]) -> list[float]:
    """The concept scores; the likelihood judge never fails."""
    return [one.concept.score for one in judged if isinstance(one, Judgement)]


def measure(
    judge: LikelihoodJudge, taken: Sequence[Sample], done: Callable[[int], object] | None = None
) -> list[float]:
    """The AUROC of every sample, all of them judged in one go."""
    answers = [answer for sample in taken for answer in [*sample.own, *sample.others]]
    found = iter(scores(judge.judge(answers, done)))
    areas = []
    for sample in taken:
        own, others = ([next(found) for _ in part] for part in (sample.own, sample.others))
        areas.append(float(auroc(torch.tensor(own), torch.tensor(others))))
    return areas


def section(taken: Sequence[Sample], areas: Sequence[float]) -> list[str]:
    """Markdown: AUROC by kind, and the concepts that are seen worst."""
    by_kind: dict[str, list[float]] = {}
    for sample, area in zip(taken, areas, strict=True):
        by_kind.setdefault(sample.concept.kind, []).append(area)
    kinds = sorted(by_kind, key=lambda kind: -fmean(by_kind[kind]))
    table = [
        f"| kind | concepts | mean AUROC | {SEEN} and more | below 0.5 |",
        "|---|---|---|---|---|",
    ]
    for name, part in [*((kind, by_kind[kind]) for kind in kinds), ("**all**", list(areas))]:
        seen, lost = sum(area >= SEEN for area in part), sum(area < 0.5 for area in part)
        table.append(f"| {name} | {len(part)} | {fmean(part):.3f} | {seen} | {lost} |")
    worst = sorted(zip(areas, taken, strict=True), key=lambda pair: pair[0])[:WORST]
    listed = [f"| {s.concept.text} | {s.concept.kind} | {area:.2f} |" for area, s in worst]
    return [*table, "", "| seen worst | kind | AUROC |", "|---|---|---|", *listed]


def seen(
    bundle: Bundle, dtype: str, own: int, others: int, done: Callable[[int], object] | None = None
) -> list[str]:
    """Judge a sample of a set with the default base LM; the section as Markdown."""
    taken = samples(bundle, own, others)
    judge = LikelihoodJudge(load_lm("smollm2-135m-instruct", dtype=dtype))
    return section(taken, measure(judge, taken, done))
