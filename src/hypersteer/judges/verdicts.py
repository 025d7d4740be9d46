"""What a text decides for: one of the options that it was given, or a number."""

import re
from collections.abc import Sequence

from hypersteer.judges.lexical import FRAME_WORDS, FUNCTION_WORDS
from hypersteer.judges.numerals import numbers_in

BRIEF = 2
"""Words of content beside an option, at most, in a sentence that does not take up the question."""

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
_CLAUSE_END = re.compile(r"[,;:]\s|\s(?:while|but|whereas)\s")
_OPEN = re.compile(r"\b(?:not|never|neither|nor|or|cannot)\b|n't\b|\?")
"""What denies, or leaves open."""
_FILLING = "a an the or and no yes is it it's actually maybe answer"
_FILLERS = frozenset(_FILLING.split())
"""Words that say no more than the option beside them."""
_LEADS_TO_RESULT = re.compile(
    r"(?:[=:]|\b(?:is|are|was|be|equals?|makes?|has|have|had|leaves?|total|gets?|costs?))"
    r"[\s$]*(?:[a-z']+\s+){0,2}\$*$"
)
"""What stands before the result of a sum: a sign or a verb, and at most two more words."""


def named(options: Sequence[str], text: str) -> set[str]:
    """Return the options that a text in lower case names as whole words or numbers."""
    return {option for option in options if _pattern(option).search(text)}


def _pattern(option: str) -> re.Pattern[str]:
    word = re.escape(option.casefold())
    return re.compile(rf"(?<![\w-])(?<!\d[.,]){word}(?:s|es)?(?![\w-]|[.,]\d)")


def chosen(question: str, options: Sequence[str], text: str) -> str | None:
    """Return the option that a text chooses; None where it chooses none, or more than one.

    The first sentence that names an option decides. It may name the chosen one alone, if it is
    brief or takes up words of the question (what only mentions it chooses nothing), or say of it
    what the question asks and set the others against it: `A whale is larger than a mouse`, `Mars is
    a planet, while London is a city`. A later sentence that says no more than another option takes
    the choice back.

    Args:
        question: `Which is larger: a whale or a mouse?`; what stands before the colon is asked.
        options: what is to be chosen from.
        text: an answer.
    """
    sentences = [part for part in _SENTENCE_END.split(text.casefold()) if named(options, part)]
    if not sentences:
        return None
    first, *later = sentences
    choices = _verdict(question, options, first)
    taken_back = any(
        names != choices and _says_no_more(part, names)
        for part in later
        if (names := named(options, part))
    )
    if len(choices) != 1 or taken_back:
        return None
    return choices.pop()


def _verdict(question: str, options: Sequence[str], sentence: str) -> set[str]:
    """Return what a sentence chooses."""
    asked = re.findall(r"[\w']+", question.casefold().partition(":")[0])
    names = named(options, sentence)
    if len(names) == 1:
        above, _, _ = sentence.partition(" than ")
        answers = _answers(asked, names, sentence) and not _OPEN.search(sentence)
        return named(options, above) if answers else set()
    return _compared(asked, options, sentence) or _contrasted(asked, options, sentence)


def _answers(asked: Sequence[str], names: set[str], sentence: str) -> bool:
    """Return whether a sentence that names one option answers: briefly, or in the asked words."""
    option = set(re.findall(r"[\w']+", " ".join(names).casefold()))
    known = FUNCTION_WORDS | _FILLERS | option
    others = [word for word in re.findall(r"[\w']+", sentence) if word not in known]
    meant = set(asked) - FUNCTION_WORDS - FRAME_WORDS
    return len(others) <= BRIEF or "answer" in sentence or bool(meant.intersection(others))


def _compared(asked: Sequence[str], options: Sequence[str], sentence: str) -> set[str]:
    """Return what is said to be larger, where the larger one is asked for."""
    above, than, _ = sentence.partition(" than ")
    said = set(re.findall(r"[\w']+", above))
    degrees = [word for word in asked if word == "more" or word.endswith("er")]
    if not than or _OPEN.search(sentence) or not said.intersection(degrees):
        return set()
    return named(options, above)


def _contrasted(asked: Sequence[str], options: Sequence[str], sentence: str) -> set[str]:
    """Return what the clauses that use the words of the question name."""
    content = {word for word in asked if word not in FUNCTION_WORDS}
    found: set[str] = set()
    for clause in _CLAUSE_END.split(sentence):
        if content and content <= set(re.findall(r"[\w']+", clause)) and not _OPEN.search(clause):
            found |= named(options, clause)
    return found


def _says_no_more(sentence: str, names: set[str]) -> bool:
    words = set(re.findall(r"[\w']+", sentence)) - _FILLERS
    return words <= {name.casefold() for name in names}


def result(text: str) -> float | None:
    """Return the number that a text gives as its result; None where there is none, or no telling.

    It is the only number of the text, or the last one, if it stands where a result does: after an
    equals sign, a colon, or a verb such as `is` or `has`.
    """
    text = text.casefold()
    values = numbers_in(text)
    if not values or re.search(r"\b(?:not|never|cannot)\b|n't\b", text):
        return None
    last = values[-1]
    if len({number.value for number in values}) > 1 and not _LEADS_TO_RESULT.search(
        text[: last.start]
    ):
        return None
    return last.value
