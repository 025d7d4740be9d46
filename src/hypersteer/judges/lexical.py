"""What the wording of a text alone tells: which words carry a concept, repetition, echo."""

import re
from collections.abc import Sequence

_FUNCTION = """
a an and any are as at be been but by can do does for from had has have he her his how i if in into
is it its like may me more most my no not of on only or other our over she should so some such than
that the their them then there these they this to up us was we were what when where which who why
will with would you your
"""
_FRAME = """
answer concept concepts contain containing element elements include including involve involving
mention mentioned mentions phrase phrases reference references related sound speak specific
statement statements talk term terms text use used using word words work write
"""

FUNCTION_WORDS = frozenset(_FUNCTION.split())
FRAME_WORDS = frozenset(_FRAME.split())
"""Words in which concepts are put, as in "references to": they say nothing of the concept."""

GRAM = 3
"""Length of the token sequences that count as repeated."""

STEM = 5
"""Words that agree in as many letters count as the same: `rental` and `rentals`."""


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case; digits count, punctuation does not."""
    return re.findall(r"\w+", text.lower())


def carries(piece: str) -> bool:
    """Return whether a token's text may carry a concept: letters, and no function or frame word."""
    word = piece.strip().lower()
    return any(c.isalpha() for c in word) and word not in FUNCTION_WORDS | FRAME_WORDS


def repetition(ids: Sequence[int]) -> float:
    """Return the share of three-token sequences that were there before, from 0 to almost 1."""
    grams = [tuple(ids[i : i + GRAM]) for i in range(len(ids) - GRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def echo(response: str, concept: str) -> float:
    """Return the share of the response's words, function words aside, that the concept has."""
    said = [word[:STEM] for word in words_of(response) if word not in FUNCTION_WORDS]
    named = {word[:STEM] for word in words_of(concept)}
    return sum(word in named for word in said) / len(said) if said else 0.0
