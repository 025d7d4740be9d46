"""One row of results: an answer of a method to a prompt, at a strength, and what judges say."""

from dataclasses import asdict, dataclass, fields
from typing import Literal, TypeVar, get_args

import pyarrow as pa

Held = Literal["held_in", "held_out"]
HELD: tuple[Held, ...] = ("held_out", "held_in")
"""Held sets in the order of reports."""
Place = tuple[str, Held]
"""A method on one held set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """An answer.

    Attributes:
        method: name of the method, or `unsteered`.
        held: whether the hypernetworks have seen the concept in training.
        concept_id: the concept's id in its data.
        concept: the concept's text.
        prompt_id: number of the instruction under this concept, from 0.
        instruction: the base prompt.
        strength: multiplies the edit; None for methods that have no strength.
        seed: of this row's sampling.
        given: the prompt that the base LM was given, where the method rewrites it; else "".
        response: what it answered.
        tokens: length of the response.
        nll: mean negative log-likelihood per token of the response after the instruction, in nats,
            under the unsteered base LM; perplexity is its exponential. NaN for an empty response.
    """

    method: str
    held: Held
    concept_id: int
    concept: str
    prompt_id: int
    instruction: str
    strength: float | None
    seed: int
    given: str
    response: str
    tokens: int
    nll: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged(Answered):
    """An answer with its ratings, each in [0, 2]; None and an error where judging failed.

    Attributes:
        concept_score: is the concept in the response.
        instruction_score: does it answer the instruction.
        fluency_score: does it read well.
        overall: harmonic mean of the three.
        concept_reason: why; likewise for the others.
        error: why there are no scores; "" where there are.
    """

    concept_score: float | None = None
    instruction_score: float | None = None
    fluency_score: float | None = None
    overall: float | None = None
    concept_reason: str = ""
    instruction_reason: str = ""
    fluency_reason: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """An answer to a probe: a skill item, or a request that models refuse.

    Attributes:
        method: name of the method, or `unsteered`.
        held: set of the concept it is steered towards, which has nothing to do with the probe.
        concept_id: the concept's id in its data.
        concept: the concept's text.
        strength: the one chosen for the concept; None for methods that have no strength.
        probe_id: the probe's name in its set.
        kind: the part of the set that it belongs to.
        prompt: the probe.
        given: the prompt that the base LM was given, where the method rewrites it; else "".
        response: what it answered.
        counted: whether the response solves the item, or refuses the request.
    """

    method: str
    held: Held
    concept_id: int
    concept: str
    strength: float | None
    probe_id: str
    kind: str
    prompt: str
    given: str
    response: str
    counted: bool


_TYPES = {
    bool: pa.bool_(),
    int: pa.int64(),
    float: pa.float64(),
    float | None: pa.float64(),
}
OPTIONAL = (float | None,)
Row = TypeVar("Row", Answered, Judged, Probed)


def schema(kind: type[Row]) -> pa.Schema:
    """Return the parquet columns of a kind of row."""
    return pa.schema([(f.name, _TYPES.get(f.type, pa.string())) for f in fields(kind)])  # type: ignore[arg-type]


def to_table(rows: list[Row], kind: type[Row]) -> pa.Table:
    """Return rows of one kind as a table."""
    return pa.Table.from_pylist([asdict(row) for row in rows], schema=schema(kind))


def from_table(table: pa.Table, kind: type[Row]) -> list[Row]:
    """Return the rows of a table, which are one at least.

    Raises:
        ValueError: for columns of other types (an `ArrowInvalid`), values that are missing, or no
            rows.
        TypeError: for columns that are missing or unknown.
    """
    wanted = schema(kind)
    known = [name for name in table.column_names if name in wanted.names]
    if unknown := set(table.column_names) - set(known):
        raise TypeError(f"unknown column '{min(unknown)}'")
    if not len(table):
        raise ValueError("it has no rows")
    table = table.cast(pa.schema([wanted.field(name) for name in known]))
    for field in fields(kind):
        optional = field.type in OPTIONAL
        if not optional and field.name in known and table[field.name].null_count:
            raise ValueError(f"{field.name} is missing in a row")
    rows = [kind(**entry) for entry in table.to_pylist()]
    if odd := {row.held for row in rows} - set(get_args(Held)):
        raise ValueError(f"held is {min(odd)!r}")
    return rows
