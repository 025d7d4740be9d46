"""A report's contents in their order, before they are laid out as Markdown or HTML."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from hypersteer.evaluation.records import Held, Judged
from hypersteer.evaluation.selection import halves
from hypersteer.report.layout import Table, held_name
from hypersteer.report.measure_tables import skill_table
from hypersteer.report.strength_curves import Panel, panels
from hypersteer.report.summary import Scores, Summary
from hypersteer.report.tables import (
    comparison_table,
    cost_table,
    curve_table,
    detection_table,
    score_table,
    table_1,
)

SHOWN = 5
"""Missing concepts and failures that are listed one by one; the rest is counted."""


class Sample(NamedTuple):
    """An answer, and what it is an example of."""

    kind: str
    row: Judged


class Samples(NamedTuple):
    """Samples of a method on one held set."""

    method: str
    held: Held
    samples: list[Sample]


class Rated(NamedTuple):
    """One score of an answer, and why."""

    name: str
    score: float | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """What a report says.

    Attributes:
        title: heading.
        facts: what was run: names and values.
        notices: what is missing or failed; empty if nothing is.
        tables: in their order.
        panels: strength curves.
        curve_table: their values; None if no method has strengths.
        samples: answers to read.
        config: the resolved configuration, flattened to dotted names.
    """

    title: str
    facts: list[tuple[str, str]]
    notices: list[str]
    tables: list[Table]
    panels: list[Panel]
    curve_table: Table | None
    samples: list[Samples]
    config: list[tuple[str, str]]


def compose(summary: Summary) -> Document:
    """Return the contents of the report."""
    tables = [
        table_1(summary),
        score_table(summary),
        comparison_table(summary),
        skill_table(summary),
        cost_table(summary),
        detection_table(summary),
    ]
    return Document(
        title="Steering evaluation",
        facts=facts(summary),
        notices=notices(summary),
        tables=[table for table in tables if table is not None],
        panels=panels(summary),
        curve_table=curve_table(summary),
        samples=all_samples(summary),
        config=flatten(summary.findings.config),
    )


def facts(summary: Summary) -> list[tuple[str, str]]:
    """Return what was run, in a few lines."""
    rows = summary.findings.rows
    choosing, reporting = halves(rows)
    strengths = sorted({row.strength for row in rows if row.strength is not None})
    concepts = [f"{summary.concepts[held]} {held_name(held).lower()}" for held in summary.held]
    failed = sum(count.failed for count in summary.counts.values())
    total = len(choosing) + len(reporting)
    roles = f"{len(choosing)} choose the strength, {len(reporting)} are reported"
    if not choosing:
        roles = "all are reported, there is one strength"
    lines = [
        *summary.findings.about.items(),
        ("Methods", ", ".join(summary.methods)),
        ("Concepts", ", ".join(concepts)),
        ("Prompts", f"{total} per concept: {roles}"),
    ]
    if strengths:
        lines.append(("Strengths", ", ".join(f"{strength:g}" for strength in strengths)))
    judged = f"of which {len(rows) - failed:,} judged" if failed else "all judged"
    lines.append(("Answers", f"{len(rows):,}, {judged}"))
    return lines


def notices(summary: Summary) -> list[str]:
    """Return what a reader must know before trusting a value."""
    said = []
    judge = summary.findings.about.get("judge", "")
    if judge.startswith("likelihood") or " the steered model" in judge:
        said.append(
            "The judge reads with the steered model itself, which likes what is near to it: "
            "compare methods in this report, and no score with another report's."
        )
    failed = sum(count.failed for count in summary.counts.values())
    if failed:
        causes = [f"{count} \u00d7 {why}" for why, count in summary.failures[:SHOWN]]
        said.append(
            f"{failed:,} of {len(summary.findings.rows):,} answers could not be judged and are in "
            f"no mean: {'; '.join(causes)}{_more(len(summary.failures))}."
        )
    if summary.missing:
        named = [
            f"{key.method}, {held_name(key.held).lower()}, {concept}: {why}"
            for key, concept, why in summary.missing[:SHOWN]
        ]
        said.append(
            f"{len(summary.missing)} concepts of methods are not reported: "
            f"{'; '.join(named)}{_more(len(summary.missing))}."
        )
    unscored = sum(count.unscored for count in summary.counts.values())
    if unscored:
        said.append(
            f"Reported answers without a likelihood (empty ones, for example), which are in no "
            f"perplexity: {unscored:,}."
        )
    return said


def _more(total: int) -> str:
    return f"; and {total - SHOWN} more" if total > SHOWN else ""


def flatten(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return nested settings as dotted names and text values."""
    lines = []
    for name, value in config.items():
        if isinstance(value, Mapping):
            lines += flatten(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            lines.append((f"{prefix}{name}", ", ".join(map(str, value))))
        else:
            lines.append((f"{prefix}{name}", "" if value is None else str(value)))
    return lines


def pick(scores: Scores) -> list[Sample]:
    """Return the reported answers with the best, the median and the worst overall score.

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
    """Return samples of all methods, in the order of the report."""
    return [
        Samples(method, held, pick(summary.scores[method, held]))
        for method in summary.methods
        for held in summary.held
        if (method, held) in summary.scores
    ]


def ratings(row: Judged) -> list[Rated]:
    """Return the three scores of an answer."""
    return [
        Rated("Concept", row.concept_score, row.concept_reason),
        Rated("Instruction", row.instruction_score, row.instruction_reason),
        Rated("Fluency", row.fluency_score, row.fluency_reason),
    ]
