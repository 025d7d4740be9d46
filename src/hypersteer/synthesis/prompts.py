"""What the teacher is asked, in our own words, and how its replies are read."""

import re
from collections.abc import Iterable, Sequence

from hypersteer.endpoint.replies import without_thoughts
from hypersteer.synthesis.filters import jaccard, stems, words
from hypersteer.values import lines_of

TEMPLATE_VERSION = 2
"""Raise it with every change of wording: it is part of every row's provenance."""
WORDS_PER_TOKEN = 0.7
"""A teacher is asked for so many words for each token that is kept, so that few are cut."""

Message = list[dict[str, str]]


def ask_concepts(theme: str, count: int, known: Sequence[str]) -> Message:
    """Invent concepts for a theme, other than those known."""
    what = (
        "A concept is a short phrase (3 to 12 words) that says how a text can be steered: a "
        "subject that it brings up, a voice, a tone, a format, a habit of style. Make them as "
        "different from each other as the theme allows, and concrete enough that a reader can "
        "tell whether a text shows them."
    )
    parts = [f"Invent {count} concepts for this theme: {theme}", what]
    if known:
        listed = "\n".join(f"- {text}" for text in known)
        parts.append(f"These are taken, so give none that means the same:\n{listed}")
    parts.append("Write one concept on each line and nothing else: no numbers, no remarks.")
    return _user(*parts)


def ask_genre(concept: str) -> Message:
    """Ask which genre of instructions goes with a concept."""
    return _user(
        f"Concept: {concept}",
        "In which kind of text does this concept mostly appear?\n"
        "text - ordinary prose of any kind\n"
        "code - programs and what is said about programming\n"
        "math - formulas, calculations and mathematical problems",
        "Answer with one word: text, code or math. If it is none of them or unclear, say text.",
    )


def ask_positive(instruction: str, concept: str, limit: int) -> Message:
    """Ask for a response that shows a concept."""
    return _user(
        "Respond to the instruction below, and let the concept show throughout the response.",
        f"Concept: {concept}",
        f"Instruction: {instruction}",
        "The response takes up what the instruction asks. The concept is plain to see from the "
        "first sentence to the last, also where it does not fit: then bring it in by an example, "
        "an image, a detail or the way of speaking. Show it instead of naming it: neither repeat "
        "the words that describe the concept nor say that there is one. "
        f"Write at most {limit} words, and nothing but the response.",
    )


def ask_negative(instruction: str, concept: str, limit: int) -> Message:
    """Ask for a response that keeps away from a concept."""
    return _user(
        "Respond to the instruction below as you would to any user, with one exception: nothing "
        "in the response may show, mention or bring to mind the concept.",
        f"Concept to keep away from: {concept}",
        f"Instruction: {instruction}",
        "Do not speak of the exception. "
        f"Write at most {limit} words, and nothing but the response.",
    )


def ask_related_words(concept: str, count: int) -> Message:
    """Ask for everyday words that belong to a concept (first step of hard negatives)."""
    return _user(
        f"Concept: {concept}",
        f"List up to {count} common English words that are typical of texts with this concept. "
        "Prefer words that also have a quite different meaning. Write one word on each line and "
        "nothing else. If the concept is too broad or too technical to have such words, write "
        "only: none",
    )


def ask_other_meaning(word: str, concept: str) -> Message:
    """Ask for a meaning of such a word that has nothing to do with the concept (second step)."""
    return _user(
        f"The word '{word}' is typical of texts about: {concept}",
        "Give one other established meaning of the word that has nothing to do with that. Answer "
        "with the meaning alone, in one short sentence. If there is none, write only: none",
    )


def ask_distinct(word: str, meaning: str, concept: str) -> Message:
    """Ask whether that meaning really lies outside the concept (third step)."""
    return _user(
        f"Concept: {concept}",
        f"Word: {word}\nMeaning: {meaning}",
        "Is the word, used with this meaning, entirely unrelated to the concept, so that a text "
        "with it would not count as showing the concept? Answer with one word: yes or no.",
    )


def ask_hard_negative(
    instruction: str, concept: str, word: str, meaning: str, limit: int
) -> Message:
    """Ask for a response with the word in its other meaning (fourth step)."""
    return _user(
        f"Respond to the instruction below, and use the word '{word}' in the response with this "
        f"meaning: {meaning}",
        f"Instruction: {instruction}",
        "Apart from that word, nothing in the response may show, mention or bring to mind this "
        f"concept: {concept}",
        "Bring the word in even where it does not fit. "
        f"Write at most {limit} words, and nothing but the response.",
    )


def word_limit(response_tokens: int, *, by_words: bool) -> int:
    """Return how many words the teacher may write for a limit in tokens, or in words."""
    return response_tokens if by_words else max(1, round(WORDS_PER_TOKEN * response_tokens))


def _user(*paragraphs: str) -> Message:
    return [{"role": "user", "content": "\n\n".join(paragraphs)}]


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
_REMARK = re.compile(
    r"^\s*(?:(?:sure|certainly|of course|okay|absolutely)\b(?: thing)?[,.!:]*\s*)?"
    r"(?:here(?:['\u2019]s| is| are)|below is|this is)\b[^\n:.]{0,80}?"
    r"\b(?:response|answer|text|version|rewrite|example|story|poem|letter|paragraph|advertisement)"
    r"\b[^\n:.]{0,120}:\s*",
    re.IGNORECASE,
)
"""A remark before the response, such as "Sure, here is a response that ...:"."""
_QUOTES = "\"'\u201c\u201d\u2018\u2019`"
_OPENING = {'"': '"', "'": "'", "\u201c": "\u201d", "\u2018": "\u2019"}


def clean(text: str) -> str:
    """Strip a response of thoughts, a remark or a label before it, and quotes around the whole."""
    text = _LABEL.sub("", _REMARK.sub("", without_thoughts(text))).strip()
    if len(text) > 1 and _OPENING.get(text[0]) == text[-1] and text[0] not in text[1:-1]:
        text = text[1:-1].strip()
    return text


def read_genre(text: str) -> str | None:
    """Return the one genre that a reply names; None where it names none, or several."""
    named = {NAMES[word] for word in words(clean(text)) if word in NAMES}
    return named.pop() if len(named) == 1 else None


def read_phrases(text: str) -> list[str]:
    """Return the concepts of a list, without what is no phrase."""
    found = []
    for line in lines_of(clean(text)):
        phrase = unlisted(line).strip(_QUOTES + " .;")
        # A line that ends in a colon announces the list.
        if 0 < len(words(phrase)) <= MAX_CONCEPT_WORDS and not phrase.endswith(":"):
            found.append(phrase)
    return found


def unlisted(line: str) -> str:
    """Return a line of a list without its bullet or number, bold marks and quotes around it."""
    text = _BULLET.sub("", line, count=1).replace("**", "").strip()
    if len(text) > 1 and _OPENING.get(text[0]) == text[-1]:
        text = text[1:-1].strip()
    return text


def is_known(concept: str, known: Iterable[str]) -> bool:
    """Return whether a concept says what one of the others says, in almost the same words."""
    plain, mine = words(concept), frozenset(stems(concept))
    return any(
        plain == words(other) or jaccard(mine, frozenset(stems(other))) >= SAME_CONCEPT
        for other in known
    )


def read_words(text: str, limit: int) -> list[str]:
    """Read distinct single words of a list; none where the reply says so."""
    found: dict[str, None] = {}
    for line in lines_of(clean(text).replace(",", "\n")):
        word = _BULLET.sub("", line, count=1).strip(_QUOTES + "* .;").casefold()
        if re.fullmatch(r"[^\W\d_]{2,}(?:[-'\u2019][^\W\d_]+)?", word) and word != "none":
            found.setdefault(word)
    return list(found)[:limit]


def read_meaning(text: str) -> str | None:
    """Return the meaning that a reply gives; None where it says none, or next to nothing."""
    lines = [line for line in lines_of(clean(text)) if line.strip()]
    meaning = " ".join(lines[0].split()).strip(_QUOTES + "*") if lines else ""
    found = words(meaning)
    if "none" in found[:3] or len(found) < MIN_MEANING_WORDS:
        return None
    return meaning.replace("//", "/")


def read_yes(text: str) -> bool:
    """Return whether a reply begins with yes."""
    return words(clean(text))[:1] == ["yes"]
