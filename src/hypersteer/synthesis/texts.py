"""Texts as words and shingles, and cut to a length."""

import re
from collections.abc import Callable, Set
from typing import NamedTuple

from hypersteer.lm.base import BaseLM

WORD = re.compile(r"\w+(?:['\u2019]\w+)*")
SHINGLE = 3
"""Words of a shingle."""
STEM = 5
"""Letters after which forms of a word are taken to differ by their endings only."""
ENDING = re.compile(r"(?<=\w{3})(?:ings?|ed|e?s)$")
_STOP_WORDS = (
    "a about all also an and any are as at be been but by can do does for from had has have how i "
    "if in into is it its like may more most no not of on or other our over so some such than that "
    "the their them then there these they this to up use used uses using was we were what when "
    "which who will with would you your related references reference terms"
)
STOP_WORDS = frozenset(_STOP_WORDS.split())

Shingles = Set[tuple[str, ...]]


def words(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return [word.casefold() for word in WORD.findall(text)]


def stems(text: str) -> list[str]:
    """The beginnings of the words that carry meaning, for a comparison across endings."""
    return [ENDING.sub("", word)[:STEM] for word in words(text) if word not in STOP_WORDS]


def shingles(text: str) -> Shingles:
    """All runs of three words; a shorter text is one run."""
    found = words(text)
    if len(found) < SHINGLE:
        return frozenset([tuple(found)] if found else [])
    return frozenset(zip(*(found[i:] for i in range(SHINGLE)), strict=False))


def jaccard(one: Set[object], other: Set[object]) -> float:
    """Size of the intersection over size of the union; 0 for two empty sets."""
    union = len(one | other)
    return len(one & other) / union if union else 0.0


class Cut(NamedTuple):
    """A text within the limit, and whether nothing is missing."""

    text: str
    complete: bool


def cutter(lm: BaseLM | None, limit: int) -> Callable[[str], Cut]:
    """Cuts texts to their first `limit` tokens of a base LM or, without one, words."""

    def by_words(text: str) -> Cut:
        found = list(WORD.finditer(text))
        return (
            Cut(text, True) if len(found) <= limit else Cut(text[: found[limit - 1].end()], False)
        )

    def by_tokens(text: str) -> Cut:
        assert lm is not None
        ids = lm.chat.text(text)
        if len(ids) <= limit:
            return Cut(text, True)
        # A character of several tokens that the cut goes through would be a replacement character.
        return Cut(lm.chat.decode(ids[:limit]).rstrip("\ufffd"), False)

    return by_words if lm is None else by_tokens
