"""Answers to read: the best, the middle and the worst of each method."""

from typing import NamedTuple

from hypersteer.evaluation.records import Held, Judged
from hypersteer.report.summary import Scores, Summary


class Sample(NamedTuple):
    """An answer, and what it is an example of."""

    kind: str
    row: Judged


class Samples(NamedTuple):
    """Samples of a method on one held set."""

    method: str
    held: Held
    samples: list[Sample]


def pick(scores: Scores) -> list[Sample]:
    """The answers with the best, the median and the worst overall score, among those reported.

    Ties go to the earlier concept and prompt. With fewer than three answers there are fewer
    samples; no answer is shown twice.
    """
    rows = [row for choice in scores.choices for row in choice.rows]
    rows.sort(key=lambda r: (-(r.overall or 0.0), r.concept_id, r.prompt_id))
    kinds = {0: "best", len(rows) - 1: "worst", (len(rows) - 1) // 2: "median"}
    if len(rows) < 3:
        kinds = dict(zip(range(len(rows)), ("best", "worst"), strict=False))
    return [Sample(kinds[index], rows[index]) for index in sorted(kinds)]


def all_samples(summary: Summary) -> list[Samples]:
    """Samples of all methods, in the order of the report."""
    return [
        Samples(method, held, pick(summary.scores[method, held]))
        for method in summary.methods
        for held in summary.held
        if (method, held) in summary.scores
    ]


class Rated(NamedTuple):
    """One score of an answer, and why."""

    name: str
    score: float | None
    reason: str


def ratings(row: Judged) -> list[Rated]:
    """The three scores of an answer."""
    return [
        Rated("Concept", row.concept_score, row.concept_reason),
        Rated("Instruction", row.instruction_score, row.instruction_reason),
        Rated("Fluency", row.fluency_score, row.fluency_reason),
    ]
