"""All values of a report, computed from judged rows before a word of it is written."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from hypersteer.errors import ConfigError, nearest
from hypersteer.evaluation.findings import Findings
from hypersteer.evaluation.metrics import (
    ConceptMeans,
    Point,
    SideEffects,
    concept_means,
    paired,
    perplexity,
    side_effects,
    strength_curve,
    win_rate,
)
from hypersteer.evaluation.records import HELD, Held, Judged, Place
from hypersteer.evaluation.selection import Choice, Missing, Selection, is_judged, select
from hypersteer.methods.registry import UNSTEERED
from hypersteer.stats import Interval, bootstrap


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """A method on one held set, after the choice of strengths; means over its concepts.

    Attributes:
        choices: one per reported concept.
        overall: harmonic mean of the three scores, 0 to 2.
        concept: whether the concept is there, 0 to 2.
        instruction: whether the instruction is answered, 0 to 2.
        fluency: whether it reads well, 0 to 2.
        perplexity: of the answers under the unsteered base LM; None if nothing has a likelihood.
        difference: overall score minus that of the method compared with; None for that method
            itself and where they share no concept.
        wins: share of concepts won against it; None likewise.
        side: against the unsteered answers; None for `unsteered` and where there are none.
    """

    choices: list[Choice]
    overall: Interval
    concept: Interval
    instruction: Interval
    fluency: Interval
    perplexity: Interval | None
    difference: Interval | None
    wins: Interval | None
    side: SideEffects | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """How many answers of a method there are on one held set.

    Attributes:
        answers: all of them.
        failed: that could not be judged.
        unscored: reported ones that were judged but have no likelihood, such as empty responses.
    """

    answers: int
    failed: int
    unscored: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The values of a report.

    Attributes:
        findings: where they come from.
        methods: in the order of the report.
        held: held sets that have rows, held out first.
        concepts: number of concepts per held set.
        scores: what was reported; a method may lack a held set.
        curves: means per strength, for methods that have strengths.
        counts: answers per method and held set.
        missing: concepts that could not be reported.
        failures: why judging failed -> how often, most frequent first.
    """

    findings: Findings
    methods: list[str]
    held: list[Held]
    concepts: dict[Held, int]
    scores: dict[Place, Scores]
    curves: dict[Place, list[Point]]
    counts: dict[Place, Count]
    missing: list[Missing]
    failures: list[tuple[str, int]]


def summarise(findings: Findings) -> Summary:
    """Choose strengths and compute all values.

    Raises:
        ConfigError: the method to compare with has no rows.
        DataError: there are no rows, one prompt per concept, or rows that contradict each other.
    """
    rows = findings.rows
    selection = select(rows)
    methods = list(dict.fromkeys([*findings.methods, *(row.method for row in rows)]))
    grouped: dict[Place, list[Judged]] = {}
    for row in rows:
        grouped.setdefault((row.method, row.held), []).append(row)
    if findings.compare_to not in {method for method, _ in grouped}:
        known = nearest(findings.compare_to, {method for method, _ in grouped})
        raise ConfigError(f"cannot compare with '{findings.compare_to}', which has no rows{known}")
    held = [held for held in HELD if any(place[1] == held for place in grouped)]
    scores = _scores(selection, findings.compare_to)
    return Summary(
        findings=findings,
        methods=methods,
        held=held,
        concepts={h: len({r.concept_id for r in rows if r.held == h}) for h in held},
        scores=scores,
        curves={place: curve for place, g in grouped.items() if (curve := strength_curve(g))},
        counts={place: _count(group, scores.get(place)) for place, group in grouped.items()},
        missing=selection.missing,
        failures=Counter(_failure(row) for row in rows if not is_judged(row)).most_common(),
    )


def _scores(selection: Selection, compare_to: str) -> dict[Place, Scores]:
    chosen: dict[Place, list[Choice]] = {}
    for choice in selection.choices:
        chosen.setdefault((choice.key.method, choice.key.held), []).append(choice)
    means = {
        place: {choice.key.concept_id: concept_means(choice.rows) for choice in choices}
        for place, choices in chosen.items()
    }
    scores = {}
    for (method, held), choices in chosen.items():
        ours = means[method, held]
        rival = means.get((compare_to, held), {}) if method != compare_to else {}
        plain = chosen.get((UNSTEERED, held), []) if method != UNSTEERED else []
        scores[method, held] = _scores_of(choices, ours, rival, plain)
    return scores


def _scores_of(
    choices: list[Choice],
    ours: Mapping[int, ConceptMeans],
    rival: Mapping[int, ConceptMeans],
    plain: list[Choice],
) -> Scores:
    overall = {concept: m.overall for concept, m in ours.items()}
    theirs = {concept: m.overall for concept, m in rival.items()}
    comparable = not overall.keys().isdisjoint(theirs)
    return Scores(
        choices=choices,
        overall=bootstrap(list(overall.values())),
        concept=bootstrap([m.concept for m in ours.values()]),
        instruction=bootstrap([m.instruction for m in ours.values()]),
        fluency=bootstrap([m.fluency for m in ours.values()]),
        perplexity=perplexity(ours.values()),
        difference=paired(overall, theirs) if comparable else None,
        wins=win_rate(overall, theirs) if comparable else None,
        side=side_effects(choices, plain),
    )


def _count(rows: list[Judged], scores: Scores | None) -> Count:
    reported = scores.choices if scores else []
    return Count(
        answers=len(rows),
        failed=sum(not is_judged(row) for row in rows),
        unscored=sum(concept_means(choice.rows).unscored for choice in reported),
    )


def _failure(row: Judged) -> str:
    return row.error or "not judged"
