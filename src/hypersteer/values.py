"""Values as they come from outside: whole Unicode, lines, JSON, and numbers of any library."""

import json
import math
import numbers
from typing import Any

from hypersteer.errors import SteeringError, short, shown


def check_text(text: object, what: str) -> str:
    r"""Give a text back unchanged, or refuse what is none, or holds no whole characters.

    Half a surrogate pair comes from JSON (`"\ud800"`), a stray byte (`"\udcff"`) from arguments
    and file names that are not UTF-8; no tokenizer, file or terminal takes either.

    Args:
        text: anything.
        what: what it is, such as `the prompt`; it begins the message.

    Raises:
        SteeringError: naming the text and the place in it.
    """
    if not isinstance(text, str):
        raise SteeringError(f"{what} {shown(text)} is not a text")
    at = _broken(text)
    if at is None:
        return text
    raise SteeringError(
        f"{what} {short(text)} is not valid Unicode: character {at + 1} is {text[at]!r}, a stray "
        "byte or half a character; give text in UTF-8"
    )


def lines_of(text: str) -> list[str]:
    """Return the lines of a text, which end at line feeds and nowhere else.

    So a form feed or U+2028 stays inside its line, which `str.splitlines` would cut. The carriage
    return of a file from Windows goes with its line feed; what follows the last line feed counts
    as a line if there is anything.
    """
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def json_of(text: str) -> Any:
    """Return the value that a JSON text stands for.

    Raises:
        ValueError: with one line that says why, if it is no JSON, is nested too deeply, has a
            number of too many digits, or holds half a character.
    """
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    # Only an escape can bring half a character in, since the text itself was decoded.
    if "\\u" in text or _broken(text) is not None:
        at = _broken(again := json.dumps(value, ensure_ascii=False))
        if at is not None:
            raise ValueError(f"it holds half a character, {again[at]!r}, which is no Unicode")
    return value


def _broken(text: str) -> int | None:
    """Return the place of the first character that is none, if there is one."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None


def as_whole(value: object) -> int | None:
    """Return the value as an int, or None if it is no whole number.

    Takes whole numbers of Python and numpy, and arrays and tensors that hold just one; no booleans,
    and no fractions, even if nothing follows the point.
    """
    value = _held(value)
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    return None


def as_real(value: object) -> float | None:
    """Return the value as a float, or None if it is no real number.

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
    """Return the one number in an array or a tensor without dimensions; else the value itself."""
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        return value.item()
    return value
