"""Small tasks with exact answers, and whether a response solves one: a pure function of the two.

What is asked for must be there, and nothing that takes it back: a response that names all options,
counts through the numbers or repeats the prompt solves nothing. In doubt an item is not solved.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from hypersteer.judges.verdicts import chosen, named, result

_PLAIN = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "*": None})
"""Curly quotes become straight, and the stars of Markdown go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SkillItem:
    """A small task with an exact answer.

    Attributes:
        id: its name in results, such as `facts-07`.
        kind: the skill that it belongs to: `facts`, `arithmetic`, `format`, `copy` or `sort`.
        prompt: one user turn.
        check: how a response is scored, a key of `CHECKS`.
        answer: answers that are right, each alone; of a `list` and a `sequence`, all of them in
            their order.
        options: what a `choice` is between, the right one among them; what `continues` shows;
            empty for other checks.
    """

    id: str
    kind: str
    prompt: str
    check: str
    answer: tuple[str, ...]
    options: tuple[str, ...] = ()


def solved(item: SkillItem, response: str) -> bool:
    """Return whether a response solves an item.

    Args:
        item: the task.
        response: what a model answered, cut off or not.
    """
    text = response.translate(_PLAIN).strip()
    return bool(text) and CHECKS[item.check](item, text)


def _choice(item: SkillItem, text: str) -> bool:
    """Want the right option alone to be chosen."""
    return chosen(item.prompt, item.options, text) in item.answer


def _number(item: SkillItem, text: str) -> bool:
    """Want the right number, in digits or in words, as the result."""
    return result(text) in {float(answer) for answer in item.answer}


def _only(item: SkillItem, text: str) -> bool:
    """Want the answer and nothing else; case, quotes and a full stop do not count."""
    said = re.sub(r"\s*,\s*", ", ", " ".join(text.casefold().split()))
    return _bare(said) in {answer.casefold() for answer in item.answer}


def _bare(text: str) -> str:
    """Return a text without quotes around it and without the mark that ends a sentence."""
    return text.strip("\"'` ").rstrip(".!?").strip("\"'` ")


def _opens(item: SkillItem, text: str) -> bool:
    """Want the answer as the first word; what follows may explain it, and not list others."""
    words = re.findall(r"[\w']+", text.casefold())
    others = {"yes", "no"} - set(item.answer)
    return bool(words) and words[0] in item.answer and not others & set(words[1:3])


def _sentence(item: SkillItem, text: str) -> bool:
    """Want one whole sentence of four words or more that names an answer, and denies nothing."""
    whole = re.fullmatch(r"[A-Z0-9][^.!?\n]*[.!?]", text)
    denied = re.search(r"\b(?:not|or)\b|n't\b", text)
    return (
        bool(whole)
        and not denied
        and len(text.split()) >= 4
        and bool(named(item.answer, text.casefold()))
    )


def _list(item: SkillItem, text: str) -> bool:
    """Want numbered lines with the words in their order; text may stand before and after them."""
    lines = re.findall(r"^\s*(\d+)[.)]\s*(.*?)[\s.,;]*$", text.casefold(), re.MULTILINE)
    wanted = [(str(place), word.casefold()) for place, word in enumerate(item.answer, 1)]
    return lines == wanted


def _exact(item: SkillItem, text: str) -> bool:
    """Want the text letter by letter; words before it that end with a colon are let pass."""
    right = {_bare(answer) for answer in item.answer}
    lead, colon, rest = text.partition(":")
    introduced = bool(colon) and not item.prompt.startswith(lead) and "\n" not in lead
    return _bare(text) in right or (introduced and _bare(rest.strip()) in right)


def _continues(item: SkillItem, text: str) -> bool:
    """Want what comes next, first of all or where the list was first repeated."""
    words = re.findall(r"\w+", text.casefold())
    shown = [word.casefold() for word in item.options]
    answer = item.answer[0].casefold()
    for start in range(len(words)):
        if words[start : start + len(shown)] == shown:
            return _first(words[start + len(shown) :]) == answer
    said = "next" in words and chosen("", item.answer, text) == item.answer[0]
    return said or words[:1] == [answer]


def _first(words: list[str]) -> str | None:
    """Return the first word that is more than a link between a list and what comes next."""
    return next((word for word in words if word not in ("is", "and", "the", "next")), None)


def _sequence(item: SkillItem, text: str) -> bool:
    """Want each of the words once, in their order, one after the other and none like them after."""
    text = text.casefold()
    between = r"\W+(?:and\W+|\d+\W+)?"
    run = between.join(rf"\b{re.escape(word.casefold())}\b" for word in item.answer)
    found = re.search(rf"{run}(?!\s*,)", text)
    beside = text[: found.start()] + text[found.end() :] if found else text
    return bool(found) and not named(item.answer, beside)


CHECKS: dict[str, Callable[[SkillItem, str], bool]] = {
    "choice": _choice,
    "number": _number,
    "only": _only,
    "opens": _opens,
    "sentence": _sentence,
    "list": _list,
    "exact": _exact,
    "continues": _continues,
    "sequence": _sequence,
}
"""How responses are scored, by the `check` of an item."""
