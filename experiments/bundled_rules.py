"""What a rule can tell of a response: formats, constraints and languages that are there or not.

The likelihood judge reads what a text is about; it hardly sees how it is laid out. So the concepts
whose form can be counted are counted here.
"""

import json
import re
import unicodedata
from collections.abc import Callable

from hypersteer.synthesis.filters import words

Rule = Callable[[str], bool]

COMMON = {
    "French": "le la les de des du et un une est dans que qui pour sur vous à se",
    "Spanish": "el la los las de y un una es en que por con se su para al lo más",
    "German": "der die das und ein eine ist in zu mit den sich auf nicht im wie dem es sie oder an",
    "Italian": "il la le i gli di e un una è in che per con del della si non a da al",
}
"""Words that fill a fifth of any text in these languages."""

END_OF_SENTENCE = re.compile(r"(?<=[.!?])[\"'\u201d)\]]*\s+")


def sentences(text: str) -> list[str]:
    """The sentences of a text, cut behind full stops, question marks and exclamation marks."""
    return [piece for piece in END_OF_SENTENCE.split(text.strip()) if piece]


def lines(text: str) -> list[str]:
    """The lines of a text that are not empty."""
    return [line for line in text.splitlines() if line.strip()]


def is_json(text: str) -> bool:
    """Whether a text is one JSON object."""
    try:
        return isinstance(json.loads(text), dict)
    except json.JSONDecodeError:
        return False


def emojis(text: str) -> int:
    """Symbols of a text that are no letters, digits or punctuation."""
    return sum(unicodedata.category(c) == "So" for c in text)


def in_language(name: str) -> Rule:
    """A rule: a fifth of the words are the language's commonest, more than any other's."""

    def holds(text: str) -> bool:
        found = words(text)
        counts = {one: sum(w in common.split() for w in found) for one, common in COMMON.items()}
        others = max(count for one, count in counts.items() if one != name)
        return counts[name] > others and counts[name] >= 0.2 * len(found)

    return holds


def every_line(pattern: str, at_least: int = 3) -> Rule:
    """A rule: so many lines, and each begins with the pattern."""
    return lambda text: (
        len(lines(text)) >= at_least and all(re.match(pattern, line) for line in lines(text))
    )


def first_line_is_upper_case(text: str) -> bool:
    """Whether the text has a first line of its own, in capital letters."""
    title, *rest = lines(text)
    return title.isupper() and bool(rest)


def same_first_letter(text: str) -> bool:
    """Whether all sentences begin with one letter."""
    return len({sentence[0].casefold() for sentence in sentences(text)}) == 1


RULES: dict[str, Rule] = {
    "answer as a numbered list": every_line(r"\d+[.)] "),
    "answer in rhyming couplets": lambda text: len(lines(text)) % 2 == 0 < len(lines(text)),
    "answer only with questions": lambda text: all(s.endswith("?") for s in sentences(text)),
    "write the answer as a letter, with a greeting and a signature": lambda text: (
        lines(text)[0].endswith(",") and lines(text)[-2].endswith(",")
    ),
    "answer in a single sentence": lambda text: len(sentences(text)) == 1,
    "answer with a bulleted list": every_line(r"[-*] "),
    "answer as a haiku or a series of haiku": lambda text: all(
        len(lines(verse)) == 3 for verse in text.split("\n\n")
    ),
    "answer in the form of a table": every_line(r"\|.*\|$"),
    "answer as a limerick": lambda text: len(lines(text)) == 5,
    "answer as a series of hashtags and short posts": lambda text: text.count("#") >= 4,
    "end the answer with a question to the reader": lambda text: text.endswith("?"),
    "answer with a title in capital letters": first_line_is_upper_case,
    "answer as an email with a subject line": lambda text: text.startswith("Subject: "),
    "put the most important words in capital letters": lambda text: (
        sum(word.isupper() and len(word) > 1 for word in re.findall(r"\w+", text)) >= 5
    ),
    "answer as a fable that ends with a moral": lambda text: lines(text)[-1].startswith("Moral: "),
    "answer as questions and answers (FAQ)": every_line(r"[QA]: "),
    "answer as a JSON object": is_json,
    "answer as a checklist with boxes": lambda text: len(re.findall(r"\[[ x]\]", text)) >= 4,
    "answer in French": in_language("French"),
    "answer in Spanish": in_language("Spanish"),
    "answer in German": in_language("German"),
    "answer in Italian": in_language("Italian"),
    'never use the word "the"': lambda text: "the" not in words(text),
    "use only short sentences of at most six words": lambda text: all(
        len(words(sentence)) <= 6 for sentence in sentences(text)
    ),
    "use many exclamation marks": lambda text: text.count("!") >= 5,
    "begin every sentence with the same letter": same_first_letter,
    "include a quotation from an imaginary person": lambda text: text.count('"') >= 2,
    "use many emojis": lambda text: emojis(text) >= 6,
    "mention at least three different numbers": lambda text: (
        len(set(re.findall(r"\d+(?:[.,:]\d+)*", text))) >= 3
    ),
    'address the reader by the name "Alex"': lambda text: "Alex" in text,
    'use conditional sentences with "if"': lambda text: words(text).count("if") >= 2,
    "add a footnote in brackets": lambda text: bool(re.match(r"\[.*\]$", lines(text)[-1])),
    "use rhetorical questions": lambda text: text.count("?") >= 2,
}
"""Concept -> whether a response keeps to it, by what can be counted."""
