"""Numbers in a text, in digits or in English words up to a hundred."""

import re
from typing import NamedTuple

_BELOW_TWENTY = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
sixteen seventeen eighteen nineteen
"""
_TENFOLD = "twenty thirty forty fifty sixty seventy eighty ninety"

_UNITS = _BELOW_TWENTY.split()
_TENS = _TENFOLD.split()
_WORDS = {
    **{word: value for value, word in enumerate(_UNITS)},
    **{word: 10 * value for value, word in enumerate(_TENS, 2)},
    **{
        f"{ten}-{unit}": 10 * tens + units
        for tens, ten in enumerate(_TENS, 2)
        for units, unit in enumerate(_UNITS[1:10], 1)
    },
    "hundred": 100,
    "one hundred": 100,
}
_LONGEST_FIRST = "|".join(sorted(map(re.escape, _WORDS), key=len, reverse=True))
_NUMBER = re.compile(
    rf"(?<![\w.])(?:(?<!\w)-)?(?:\d+(?:,\d{{3}})*(?:\.\d+)?|{_LONGEST_FIRST})(?!\w)"
)


class Number(NamedTuple):
    """A number, and where in the text it starts."""

    value: float
    start: int


def numbers_in(text: str) -> list[Number]:
    """Return the numbers of a text in their order; what is part of a word is none."""
    found = _NUMBER.finditer(text.casefold())
    return [Number(value_of(match.group()), match.start()) for match in found]


def value_of(number: str) -> float:
    """Return the value of a number in digits or in words.

    Raises:
        ValueError: if it is neither.
    """
    sign, word = (-1, number[1:]) if number.startswith("-") else (1, number)
    return sign * (_WORDS[word] if word in _WORDS else float(word.replace(",", "")))
