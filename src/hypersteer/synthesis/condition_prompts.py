"""What teacher and judge are asked about conditions in words, and how lists of texts are read."""

from collections.abc import Sequence
from typing import Literal

from hypersteer.conditions.described import About
from hypersteer.endpoint.replies import Messages
from hypersteer.synthesis.filters import words
from hypersteer.synthesis.prompts import Message, clean, unlisted
from hypersteer.values import lines_of

MOST_WORDS = 120
"""Longer texts are dropped."""
MOST_TAKEN = 12
"""Of the texts that are there already, as many are shown, so that others come."""
WHAT: dict[About, str] = {
    "prompt": "messages that users send to an assistant",
    "answer": "beginnings of answers that an assistant gives to users, each cut off somewhere",
}
WHO: dict[About, str] = {"prompt": "A user wrote", "answer": "An assistant has written so far"}
SIDES: dict[str, str] = {
    "inside": "Of every one of them this must be true: {words}",
    "near": (
        "Of none of them may this be true: {words}\nBut each comes close to it: it shares words, "
        "the subject or the form with those of which it is true, and is something else all the "
        "same."
    ),
    "off": (
        "Of none of them may this be true, or nearly true: {words}\nEach is about something else "
        "entirely."
    ),
}


def ask_condition_texts(
    condition: str,
    about: About,
    side: Literal["inside", "near", "off"],
    count: int,
    *,
    like: Sequence[str] = (),
    taken: Sequence[str] = (),
) -> Messages:
    """Ask for texts on one side of a condition.

    Args:
        condition: in words.
        about: whether they are prompts or answers.
        side: of which it is true, of which it is nearly so, or of which it is not.
        count: how many.
        like: texts in whose form the new ones are to be.
        taken: texts that are there already.
    """
    parts = [f"Write {count} different {WHAT[about]}.", SIDES[side].format(words=condition)]
    if like:
        listed = "\n".join(f"- {text}" for text in like)
        parts.append(f"Keep to the length and the manner of these:\n{listed}")
    if taken:
        listed = "\n".join(f"- {text}" for text in taken[-MOST_TAKEN:])
        parts.append(f"These are taken, so write others:\n{listed}")
    parts.append(
        "Make them as unlike each other as they can be: some a few words long, some of several "
        "sentences, some careless in spelling, some with names and numbers. Do not repeat the "
        "words of the condition. Write each on a line of its own and nothing else: no numbers, no "
        "remarks."
    )
    return [{"role": "user", "content": "\n\n".join(parts)}]


def ask_holds(text: str, condition: str, about: About) -> Messages:
    """Ask with Yes or No whether a condition holds of a text."""
    content = (
        f'{WHO[about]}:\n"""\n{text}\n"""\nIs this true of what is written there: {condition}? '
        "Answer Yes or No."
    )
    return [{"role": "user", "content": content}]


def longest_request() -> Message:
    """Return a request as long as they get, by which the context of an engine is chosen."""
    text = " ".join(["something"] * MOST_WORDS)
    made = ask_condition_texts(
        text, "answer", "near", 99, like=[text] * 4, taken=[text] * MOST_TAKEN
    )
    return [dict(message) for message in made]


def read_texts(text: str) -> list[str]:
    """Return the texts of a list, one a line, without what is no text of its own."""
    found: dict[str, None] = {}
    for line in lines_of(clean(text)):
        one = unlisted(line)
        # A line that ends in a colon announces the list.
        if 1 < len(words(one)) <= MOST_WORDS and not one.endswith(":"):
            found.setdefault(one)
    return list(found)
