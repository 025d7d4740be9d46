"""What the report's tables are made of: text in cells, whatever they are laid out as."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hypersteer.evaluation.metrics import Interval
from hypersteer.report.formatting import NONE, bounds, number


class Cell(NamedTuple):
    """A value, a smaller line under it, and whether it is the best of its column."""

    value: str
    detail: str = ""
    best: bool = False


EMPTY = Cell(NONE)


class Section(NamedTuple):
    """Rows under a common heading; the first cell of a row is its name."""

    heading: str
    rows: list[list[Cell]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table.

    Attributes:
        name: short, unique in the report, for links.
        caption: what it shows.
        note: how to read it.
        groups: headings over several columns, with their numbers of columns; may be empty.
        columns: headings.
        sections: the body.
        published: columns, from this one on, that are published and not ours; None if all are ours.
    """

    name: str
    caption: str
    note: str
    columns: list[str]
    sections: list[Section]
    groups: Sequence[tuple[str, int]] = ()
    published: int | None = None


def measured(interval: Interval | None, *, digits: int = 3, mark: str = "") -> Cell:
    """A mean over its interval; empty for None."""
    if interval is None:
        return EMPTY

    def text(value: float) -> str:
        return number(value, digits)

    return Cell(text(interval.mean) + mark, bounds(interval, text))


def times(interval: Interval | None) -> Cell:
    """A ratio over its interval; empty for None."""
    if interval is None:
        return EMPTY

    def text(value: float) -> str:
        return f"\u00d7{number(value, 2)}"

    return Cell(text(interval.mean), bounds(interval, text))
