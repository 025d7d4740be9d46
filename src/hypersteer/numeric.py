"""Numbers as callers give them: of Python, numpy or torch, told apart from what is none."""

import math
import numbers
from typing import Any


def as_whole(value: object) -> int | None:
    """The value as an int, or None if it is no whole number.

    Takes whole numbers of Python and numpy, and arrays and tensors that hold just one; no booleans,
    and no fractions, even if nothing follows the point.
    """
    value = _held(value)
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    return None


def as_real(value: object) -> float | None:
    """The value as a float, or None if it is no real number.

    Takes what `as_whole` takes, and fractions. What is too large for a float becomes infinite, so
    that one check for finite numbers tells of it.
    """
    value = _held(value)
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if bool(value > 0) else -math.inf  # type: ignore[operator]


def _held(value: Any) -> Any:
    """The one number in an array or a tensor without dimensions; else the value itself."""
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        return value.item()
    return value
