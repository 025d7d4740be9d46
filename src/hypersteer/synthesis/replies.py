"""How a teacher's replies are read: whatever it says around the answer, and whatever it garbles."""

import re
from collections.abc import Iterable

from hypersteer.endpoint.replies import without_thoughts
from hypersteer.synthesis.texts import jaccard, stems, words
from hypersteer.values import lines_of

NAMES = {
    "text": "text",
    "prose": "text",
    "code": "code",
    "coding": "code",
    "programming": "code",
    "math": "math",
    "maths": "math",
    "mathematics": "math",
    "mathematical": "math",
}
SAME_CONCEPT = 0.7
"""Jaccard similarity of two concepts' words from which they count as the same."""
MAX_CONCEPT_WORDS = 25
MIN_MEANING_WORDS = 2
_BULLET = re.compile(r"^\s*(?:[-*\u2022\u2013]|\(?\d{1,3}[.):]|\[\d+\])?\s*")
_LABEL = re.compile(r"^\s*\**(?:response|answer)\**\s*:\**\s*", re.IGNORECASE)
_QUOTES = "\"'\u201c\u201d\u2018\u2019`"
_OPENING = {'"': '"', "'": "'", "\u201c": "\u201d", "\u2018": "\u2019"}


def clean(text: str) -> str:
    """A response without a thinking part, a label before it, or quotes around the whole."""
    text = _LABEL.sub("", without_thoughts(text)).strip()
    if len(text) > 1 and _OPENING.get(text[0]) == text[-1] and text[0] not in text[1:-1]:
        text = text[1:-1].strip()
    return text


def read_genre(text: str) -> str | None:
    """The one genre that a reply names; None where it names none, or several."""
    named = {NAMES[word] for word in words(clean(text)) if word in NAMES}
    return named.pop() if len(named) == 1 else None


def read_concepts(text: str) -> list[str]:
    """The concepts of a list, without what is no phrase."""
    found = []
    for line in lines_of(clean(text)):
        phrase = _BULLET.sub("", line, count=1).replace("**", "").strip(_QUOTES + " .;")
        # A line that ends in a colon announces the list.
        if 0 < len(words(phrase)) <= MAX_CONCEPT_WORDS and not phrase.endswith(":"):
            found.append(phrase)
    return found


def is_known(concept: str, known: Iterable[str]) -> bool:
    """Whether a concept says what one of the others says, in the same or almost the same words."""
    plain, mine = words(concept), frozenset(stems(concept))
    return any(
        plain == words(other) or jaccard(mine, frozenset(stems(other))) >= SAME_CONCEPT
        for other in known
    )


def read_words(text: str, limit: int) -> list[str]:
    """Distinct single words of a list; none where the reply says so."""
    found: dict[str, None] = {}
    for line in lines_of(clean(text).replace(",", "\n")):
        word = _BULLET.sub("", line, count=1).strip(_QUOTES + "* .;").casefold()
        if re.fullmatch(r"[^\W\d_]{2,}(?:[-'\u2019][^\W\d_]+)?", word) and word != "none":
            found.setdefault(word)
    return list(found)[:limit]


def read_meaning(text: str) -> str | None:
    """The meaning that a reply gives; None where it says none, or next to nothing."""
    lines = [line for line in lines_of(clean(text)) if line.strip()]
    meaning = " ".join(lines[0].split()).strip(_QUOTES + "*") if lines else ""
    found = words(meaning)
    if "none" in found[:3] or len(found) < MIN_MEANING_WORDS:
        return None
    return meaning.replace("//", "/")


def read_yes(text: str) -> bool:
    """Whether a reply begins with yes."""
    return words(clean(text))[:1] == ["yes"]
