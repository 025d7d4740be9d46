"""Write the bundled skill items: `src/hypersteer/data/skills/skills.jsonl`.

    python experiments/skill_items.py src/hypersteer/data/skills/skills.jsonl

Facts and words are listed here by hand; the script puts them into prompts, spreads the place of
the right option evenly, and works out sums, orders and counts. It draws nothing at random, so it
writes the same file each time. What each `check` asks is told in `hypersteer.judges.skill`.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from skill_words import (
    CONTINUED,
    COUNTED,
    EXTREMES,
    FACTS,
    FIRST,
    GAINS,
    IN_DIGITS,
    IN_WORDS,
    LARGER,
    LOSSES,
    NUMBERED,
    ONE_WORD,
    PICKED,
    REPEATED,
    SAID_AGAIN,
    SENTENCE,
    THREE_WORDS,
    TWO_STEPS,
    UNSORTED,
    YES_NO,
)

Item = dict[str, Any]
ORDERS = ((0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
"""All but the one that asks for no sorting."""


def item(prompt: str, check: str, answer: Sequence[str], options: Sequence[str] = ()) -> Item:
    """One item, still without its number."""
    return {"prompt": prompt, "check": check, "answer": list(answer), "options": list(options)}


def facts() -> Iterator[Item]:
    """Two-choice facts; the right one stands first in every other item."""
    for place, (question, right, wrong) in enumerate(FACTS):
        first, second = (right, wrong) if place % 2 == 0 else (wrong, right)
        yield item(
            f"{question}: {first} or {second}? Answer with one word.",
            "choice",
            [bare(right)],
            [bare(first), bare(second)],
        )


def bare(words: str) -> str:
    """An option without its article."""
    article, _, rest = words.partition(" ")
    return rest if article in ("a", "an", "the") else words


def arithmetic() -> Iterator[Item]:
    """Sums in words and in digits, of one step and of two."""
    for text, value in (*GAINS, *LOSSES, *TWO_STEPS):
        yield item(f"{text} Answer in one short sentence.", "number", [str(value)])
    for text, value in IN_WORDS:
        yield item(f"{text} Answer with a number.", "number", [str(value)])
    for text, value in IN_DIGITS:
        yield item(f"Finish the sum: {text} =", "number", [str(value)])


def formats() -> Iterator[Item]:
    """Questions whose answer is easy and whose form is asked for."""
    for question, *answers in ONE_WORD:
        yield item(f"{question} Answer with exactly one word.", "only", answers)
    for question, *answers in SENTENCE:
        yield item(f"{question} Answer in one full sentence.", "sentence", answers)
    for words in NUMBERED:
        yield item(f"Write these words as a numbered list: {', '.join(words)}.", "list", words)
    for question, answer in YES_NO:
        yield item(f"{question} Begin your answer with yes or no.", "opens", [answer])
    for question, answer in THREE_WORDS:
        yield item(f"{question} Write only the three words, with commas.", "only", [answer])


def copies() -> Iterator[Item]:
    """Texts to repeat, and lists to go on with."""
    for text in REPEATED:
        yield item(f"Repeat this text exactly: {text}", "exact", [text])
    for text in SAID_AGAIN:
        yield item(f"Say this again, word for word: {text}", "exact", [text])
    for shown, answer in CONTINUED:
        yield item(f"Continue this list: {shown},", "continues", [answer], shown.split(", "))


def sorting() -> Iterator[Item]:
    """Orders, extremes, members and counts."""
    for place, pair in enumerate(FIRST):
        yield choice("Which word comes first in the alphabet", pair, place)
    for place, numbers in enumerate(LARGER):
        yield choice("Which number is larger", list(map(str, numbers)), place)
    for place, numbers in enumerate(EXTREMES):
        word = "largest" if numbers[0] > max(numbers[1:]) else "smallest"
        yield choice(f"Which number is the {word}", list(map(str, numbers)), place)
    for place, (what, *words) in enumerate(PICKED):
        yield choice(f"Which of these words is {what}", words, place)
    for place, (what, *words) in enumerate(UNSORTED):
        shown = ", ".join(words[number] for number in ORDERS[place % len(ORDERS)])
        yield item(f"Put these {what} in alphabetical order: {shown}.", "sequence", words)
    for things in COUNTED:
        yield item(
            f"How many things are in this list: {', '.join(things)}? Answer with a number.",
            "number",
            [str(len(things))],
        )


def choice(question: str, options: Sequence[str], place: int) -> Item:
    """A choice whose right option, given first, moves on by one with each item."""
    right, *others = options
    place %= len(options)
    shown = [*others[:place], right, *others[place:]]
    named = f"{', '.join(shown[:-1])} or {shown[-1]}"
    return item(f"{question}: {named}? Answer with one word.", "choice", [right], shown)


KINDS = {
    "facts": facts,
    "arithmetic": arithmetic,
    "format": formats,
    "copy": copies,
    "sort": sorting,
}


def main(path: Path) -> None:
    """Write all items, one a line."""
    lines = [
        json.dumps({"id": f"{kind}-{number:02d}", "kind": kind, **one}, ensure_ascii=False)
        for kind, make in KINDS.items()
        for number, one in enumerate(make(), 1)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines)} items in {path}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
