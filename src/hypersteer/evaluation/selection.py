"""Which strength each concept is reported at, chosen on other prompts than it is reported on.

AxBench's protocol (section 4 of arXiv 2501.17148, as its code has it): per method and concept, the
strength with the best mean overall score on the first half of the prompts; what is reported is the
second half at that strength. A method without strengths is reported on the same second half. Where
no method has more than one strength there is nothing to choose, and all prompts are reported.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hypersteer.errors import DataError
from hypersteer.evaluation.records import Held, Judged
from hypersteer.stats import mean

TIE = 1e-9
"""Mean scores that differ by less are equal: they are sums of the same numbers in another order."""


class Key(NamedTuple):
    """What a strength is chosen for."""

    method: str
    held: Held
    concept_id: int


Strengths = Mapping[Key, float | None]
"""Chosen strengths; None for a method without strengths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A concept as a method is reported on it.

    Attributes:
        key: method, held set and concept.
        concept: the concept's text.
        strength: the chosen one; None for a method without strengths.
        rows: judged rows of the second half at that strength, at least one.
        failed: rows of the second half at that strength that could not be judged.
    """

    key: Key
    concept: str
    strength: float | None
    rows: tuple[Judged, ...]
    failed: int


class Missing(NamedTuple):
    """A concept that cannot be reported, and why; never a score of 0."""

    key: Key
    concept: str
    why: str


class Selection(NamedTuple):
    """All concepts of all methods, reported or missing, in the order of the rows."""

    choices: list[Choice]
    missing: list[Missing]


def is_judged(row: Judged) -> bool:
    """Return whether the row has scores."""
    return not row.error and row.overall is not None


def halves(rows: Sequence[Judged]) -> tuple[frozenset[int], frozenset[int]]:
    """Return prompt ids that choose the strength, and those that are reported on.

    Of n prompt ids in the run, the first ceil(n / 2) choose and the rest report (AxBench: 5 and 5).
    None choose, and all report, if no method has a second strength.

    Raises:
        DataError: there are no rows, or only one prompt per concept where strengths are chosen.
    """
    ids = sorted({row.prompt_id for row in rows})
    if not ids:
        raise DataError("there are no result rows; run the evaluation first")
    if not _several_strengths(rows):
        return frozenset(), frozenset(ids)
    if len(ids) == 1:
        raise DataError(
            "1 prompt per concept cannot both choose the strength and be reported on; "
            "evaluate at least 2 prompts per concept"
        )
    choosing = (len(ids) + 1) // 2
    return frozenset(ids[:choosing]), frozenset(ids[choosing:])


def _several_strengths(rows: Sequence[Judged]) -> bool:
    """Return whether a method was asked at more than one strength."""
    methods: dict[str, set[float]] = {}
    for row in rows:
        if row.strength is not None:
            methods.setdefault(row.method, set()).add(row.strength)
    return any(len(strengths) > 1 for strengths in methods.values())


def select(rows: Sequence[Judged]) -> Selection:
    """Choose the best strength of every method, held set and concept, and the rows to report.

    The best strength has the highest mean overall score over the judged rows of the choosing half;
    ties go to the smallest absolute strength, then to the positive one.

    Raises:
        DataError: no rows, one prompt per concept, the same answer twice, or a method with and
            without strengths.
    """
    choosing, reporting = halves(rows)
    groups: dict[Key, list[Judged]] = {}
    for row in rows:
        groups.setdefault(Key(row.method, row.held, row.concept_id), []).append(row)
    selection = Selection([], [])
    for key, group in groups.items():
        _check(key, group)
        found = _choose(key, group, choosing, reporting)
        if isinstance(found, Choice):
            selection.choices.append(found)
        else:
            selection.missing.append(found)
    return selection


def _choose(
    key: Key, group: list[Judged], choosing: frozenset[int], reporting: frozenset[int]
) -> Choice | Missing:
    concept, strength = group[0].concept, None
    if group[0].strength is not None:
        deciding = choosing or reporting
        strength = best_strength([row for row in group if row.prompt_id in deciding])
        if strength is None:
            return Missing(key, concept, "no judged answer on the prompts that choose the strength")
    reported = [r for r in group if r.prompt_id in reporting and r.strength == strength]
    judged = tuple(filter(is_judged, reported))
    if not judged:
        at = "" if strength is None else f" at strength {strength:g}"
        return Missing(key, concept, f"no judged answer on the prompts that are reported{at}")
    failed = len(reported) - len(judged)
    return Choice(key=key, concept=concept, strength=strength, rows=judged, failed=failed)


def best_strength(rows: Iterable[Judged]) -> float | None:
    """Return the strength with the best mean overall score; None if no such row is judged."""
    scores: dict[float, list[float]] = {}
    for row in rows:
        if row.strength is not None and is_judged(row) and row.overall is not None:
            scores.setdefault(row.strength, []).append(row.overall)
    best, best_score = None, -math.inf
    for strength in sorted(scores, key=lambda s: (abs(s), -s)):
        score = mean(scores[strength])
        if score > best_score + TIE:
            best, best_score = strength, score
    return best


def _check(key: Key, group: list[Judged]) -> None:
    name = f"method '{key.method}', concept {key.concept_id}"
    if len({row.strength is None for row in group}) > 1:
        raise DataError(f"{name}: some answers have a strength and some have none; rerun it")
    seen: set[tuple[int, float | None]] = set()
    for row in group:
        answer = (row.prompt_id, row.strength)
        if answer in seen:
            at = "" if row.strength is None else f" at strength {row.strength:g}"
            raise DataError(
                f"{name}: prompt {row.prompt_id}{at} is there twice; keep one answer of each"
            )
        seen.add(answer)
