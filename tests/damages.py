"""Ways in which a file may be damaged, for tests of what reads it."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hypersteer.errors import SteeringError

CONTENTS = {
    "nothing": b"",
    "words": b"what is this",
    "zeros": bytes(300),
    "no UTF-8": b"\xff\xfe\x80",
    "a list": b"[]",
    "null": b"null",
    "a number": b"5",
    "a text": b'"x"',
    "an empty object": b"{}",
}
"""What may stand in a file instead; `damaged` cuts it as well."""
DAMAGES = (*CONTENTS, "the first half", "all but a byte")

ODD: list[Any] = [None, [], {}, "x", -1, True, float("nan"), float("inf"), [[]], 10**400]
"""What may stand in place of a value of JSON."""


def damaged(whole: bytes, how: str) -> bytes:
    """The file, damaged."""
    cuts = {"the first half": len(whole) // 2, "all but a byte": len(whole) - 1}
    return whole[: cuts[how]] if how in cuts else CONTENTS[how]


def odd_values(value: Any) -> Iterator[tuple[list[Any], Any]]:
    """Each value in which one part is odd or missing, and where; the first two of a list."""
    for place in _places(value):
        for odd in (*ODD, KeyError):
            changed = copy.deepcopy(value)
            inner = changed
            for key in place[:-1]:
                inner = inner[key]
            if odd is KeyError:
                del inner[place[-1]]
            else:
                inner[place[-1]] = odd
            yield place, changed


def _places(value: Any) -> Iterator[list[Any]]:
    keys = list(value) if isinstance(value, dict) else range(min(2, len(value)))
    for key in keys:
        yield [key]
        if isinstance(value[key], (dict, list)):
            yield from ([key, *rest] for rest in _places(value[key]))


def check_told(error: pytest.ExceptionInfo[SteeringError], file: Path) -> None:
    """One line that names the file."""
    told = str(error.value)
    assert "\n" not in told
    assert file.name in told
