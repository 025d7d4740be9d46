"""What is measured on chosen strengths: scores, perplexity, win rates, side effects, curves.

Everything is a mean over concepts of means over rows, with percentile bootstrap intervals over
concepts. Perplexity has one definition for all methods: the exponential of a mean of `nll`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hypersteer.errors import DataError
from hypersteer.evaluation.records import Judged
from hypersteer.evaluation.selection import Choice, is_judged
from hypersteer.stats import Interval, bootstrap, mean

TOLERANCE = 1e-6
"""Overall scores that differ by no more are a tie."""


class ConceptMeans(NamedTuple):
    """Means over the judged rows of one concept.

    Attributes:
        overall: of the harmonic means, 0 to 2; likewise the three scores behind it.
        nll: nats per token; None if no row has a finite one.
        rows: judged rows.
        unscored: rows among them without a finite nll, such as empty responses.
    """

    overall: float
    concept: float
    instruction: float
    fluency: float
    nll: float | None
    rows: int
    unscored: int

    @property
    def perplexity(self) -> float | None:
        """Exponential of `nll`."""
        return None if self.nll is None else exp(self.nll)


def concept_means(rows: Iterable[Judged]) -> ConceptMeans:
    """Return means over the judged rows among these.

    Raises:
        DataError: none is judged.
    """
    judged = [row for row in rows if is_judged(row)]
    likelihoods = [row.nll for row in judged if math.isfinite(row.nll)]
    return ConceptMeans(
        overall=mean(_scores(judged, "overall")),
        concept=mean(_scores(judged, "concept_score")),
        instruction=mean(_scores(judged, "instruction_score")),
        fluency=mean(_scores(judged, "fluency_score")),
        nll=mean(likelihoods) if likelihoods else None,
        rows=len(judged),
        unscored=len(judged) - len(likelihoods),
    )


def _scores(rows: Iterable[Judged], name: str) -> list[float]:
    return [score for row in rows if (score := getattr(row, name)) is not None]


def perplexity(means: Iterable[ConceptMeans]) -> Interval | None:
    """Return the exponential of the mean `nll` over concepts; None if no concept has one.

    It is the geometric mean of the concepts' perplexities, so one looping answer cannot rule it.
    """
    known = [m.nll for m in means if m.nll is not None]
    return exponential(bootstrap(known)) if known else None


def exponential(interval: Interval) -> Interval:
    """Return exponentials of a mean and of its bounds."""
    return interval._replace(
        mean=exp(interval.mean), low=exp(interval.low), high=exp(interval.high)
    )


def exp(value: float) -> float:
    """Return exponential, infinite where a float ends."""
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Interval:
    """Return ours minus theirs on the concepts that both have, resampled in pairs.

    Raises:
        DataError: they have no concept in common.
    """
    return bootstrap([ours[concept] - theirs[concept] for concept in _shared(ours, theirs)])


def win_rate(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Interval:
    """Return the share of concepts on which ours is better; a tie counts half (AxBench).

    Args:
        ours: concept id -> overall score after selection.
        theirs: the same of the method compared with.

    Raises:
        DataError: they have no concept in common.
    """
    differences = [ours[concept] - theirs[concept] for concept in _shared(ours, theirs)]
    return bootstrap([0.5 if abs(d) <= TOLERANCE else float(d > 0) for d in differences])


def _shared(ours: Mapping[int, float], theirs: Mapping[int, float]) -> list[int]:
    shared = [concept for concept in ours if concept in theirs]
    if not shared:
        raise DataError("two methods without a common concept cannot be compared; evaluate both")
    return shared


class SideEffects(NamedTuple):
    """What steering does to the unsteered task, on the same concepts and prompts.

    Attributes:
        instruction: instruction score, steered minus unsteered.
        perplexity: steered over unsteered; None if no pair of rows has an nll.
        pairs: pairs of rows compared.
    """

    instruction: Interval
    perplexity: Interval | None
    pairs: int


def side_effects(steered: Sequence[Choice], unsteered: Sequence[Choice]) -> SideEffects | None:
    """Compare reported rows with the unsteered answers to the same prompts under the same concepts.

    Args:
        steered: a method's concepts, of one or both held sets.
        unsteered: those of method `unsteered`.

    Returns:
        None if no reported row has an unsteered partner.
    """
    plain = {_place(row): row for choice in unsteered for row in choice.rows}
    instructions, likelihoods, count = [], [], 0
    for choice in steered:
        pairs = [(row, plain[_place(row)]) for row in choice.rows if _place(row) in plain]
        if not pairs:
            continue
        count += len(pairs)
        before = concept_means(old for _, old in pairs).instruction
        instructions.append(concept_means(new for new, _ in pairs).instruction - before)
        changes = [new.nll - old.nll for new, old in pairs if math.isfinite(new.nll - old.nll)]
        if changes:
            likelihoods.append(mean(changes))
    if not instructions:
        return None
    ratio = exponential(bootstrap(likelihoods)) if likelihoods else None
    return SideEffects(bootstrap(instructions), ratio, count)


def _place(row: Judged) -> tuple[str, int, int]:
    return row.held, row.concept_id, row.prompt_id


@dataclass(frozen=True, slots=True)
class Point:
    """A method at one strength, over all prompts.

    Attributes:
        strength: the edit's multiplier.
        overall: mean over concepts, 0 to 2; likewise the three scores behind it.
        perplexity: exponential of the mean nll over concepts; None if there is none.
        concepts: how many have a judged row here.
    """

    strength: float
    overall: float
    concept: float
    instruction: float
    fluency: float
    perplexity: float | None
    concepts: int


def strength_curve(rows: Iterable[Judged]) -> list[Point]:
    """Return means at every strength, over all prompts, in ascending order.

    Args:
        rows: of one method and held set. Rows that are not judged, or have no strength, are left
            out; a strength with no other rows has no point.
    """
    grouped: dict[float, dict[int, list[Judged]]] = {}
    for row in rows:
        if row.strength is not None and is_judged(row):
            grouped.setdefault(row.strength, {}).setdefault(row.concept_id, []).append(row)
    return [_point(strength, grouped[strength].values()) for strength in sorted(grouped)]


def _point(strength: float, concepts: Iterable[list[Judged]]) -> Point:
    means = [concept_means(rows) for rows in concepts]
    known = [m.nll for m in means if m.nll is not None]
    return Point(
        strength=strength,
        overall=mean(m.overall for m in means),
        concept=mean(m.concept for m in means),
        instruction=mean(m.instruction for m in means),
        fluency=mean(m.fluency for m in means),
        perplexity=exp(mean(known)) if known else None,
        concepts=len(means),
    )
