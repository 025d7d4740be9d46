"""What reports are made of, whatever they are laid out as: numbers as text, cells and tables."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hypersteer.evaluation.records import Held
from hypersteer.report.published import Published
from hypersteer.stats import Interval

NONE = "\u2013"
"""Stands where there is no value."""

_MINUS = "\u2212"
_UNITS = ("", "k", "M", "G", "T", "P", "E")


def number(value: float, digits: int = 3) -> str:
    """Write a number with fixed digits, fewer for large values."""
    if math.isinf(value):
        return "\u221e"
    if abs(value) >= 10_000:
        return big_number(value)
    if abs(value) >= 1000:
        digits = 0
    return f"{value:.{digits}f}".replace("-", _MINUS)


def plus(value: float) -> str:
    """Write a number with three digits and a sign."""
    return f"{value:+.3f}".replace("-", _MINUS)


def share(value: float) -> str:
    """Write a share in per cent."""
    return f"{100 * value:.0f} %"


def bounds(interval: Interval, text: Callable[[float], str]) -> str:
    """Return the interval in brackets; empty where it has no width to tell of."""
    if math.isnan(interval.low):
        return ""
    return f"[{text(interval.low)}, {text(interval.high)}]"


def published_value(value: Published) -> str:
    """Return a published value as text."""
    if value is None or isinstance(value, str):
        return value or NONE
    return f"{value:.3f}"


def big_number(value: float) -> str:
    """Write a number with three digits and a unit: 2304, 92.0 M, 666 T."""
    if abs(value) < 10_000:
        return f"{value:.4g}".replace("-", _MINUS)
    value, power = float(f"{value:.3g}"), 0
    while abs(value) >= 1000 and power < len(_UNITS) - 1:
        value, power = value / 1000, power + 1
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f} {_UNITS[power]}".replace("-", _MINUS)


def duration(seconds: float) -> str:
    """Write a duration: 12 ms, 3.4 s, 2 min 5 s, 1 h 12 min."""
    if seconds <= 0:
        return "0 s"
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def held_name(held: Held) -> str:
    """Return a held set as a heading."""
    return {"held_out": "Held out", "held_in": "Held in"}[held]


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
    """Return a mean over its interval; empty for None."""
    if interval is None:
        return EMPTY

    def text(value: float) -> str:
        return number(value, digits)

    return Cell(text(interval.mean) + mark, bounds(interval, text))


def times(interval: Interval | None) -> Cell:
    """Return a ratio over its interval; empty for None."""
    if interval is None:
        return EMPTY

    def text(value: float) -> str:
        return f"\u00d7{number(value, 2)}"

    return Cell(text(interval.mean), bounds(interval, text))
