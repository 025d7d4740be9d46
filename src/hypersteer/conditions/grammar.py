"""The grammar of rules, read by recursive descent.

    rules  = rule { ";" rule }
    rule   = "if" either "then" edit { "," edit }
    either = both { "or" both }
    both   = one { "and" one }
    one    = "not" one | "(" either ")" | name | text [ "above" probability ]
    edit   = ( name | text ) [ "at" strength ]

So `not` binds tighter than `and`, and `and` tighter than `or`. Names are letters, digits, `_` and
`-`, not starting with a digit or `-`; the five words of the grammar are no names. A text stands in
quotation marks, straight or curled: a condition in words, or a steering prompt. A line feed is as
good as a semicolon, and several edits may also be joined by `and`. A condition in
words fires above a probability of a half, or of what follows `above`.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from hypersteer.errors import SteeringError
from hypersteer.values import check_text, lines_of

WORDS = ("if", "then", "and", "or", "not")
MOST_TRIED = 16
"""Conditions of a rule of which all cases are gone through, in search of one in which it fires."""
MARKS = ('"', "\u201c", "\u201d")
"""What a text stands in."""
DEEPEST = 50
"""Brackets and negations within one another that are read; more is no rule that a person wrote."""

_TEXT = r'"[^"]*"|\u201c[^\u201d]*\u201d'
_TOKEN = re.compile(
    rf"\s*(?:(?P<text>{_TEXT})|(?P<name>[^\W\d][\w-]*)|(?P<number>[-+]?\d+(?:\.\d+)?)"
    r"|(?P<sign>[(),])|(?P<other>\S))"
)
_PART = re.compile(rf"(?:{_TEXT}|[^;])+")
"""A rule among several; a semicolon within quotation marks divides nothing."""


@dataclass(frozen=True, slots=True)
class Name:
    """A condition by its name."""

    name: str

    def value(self, fired: Mapping[str, Tensor]) -> Tensor:
        """Return what the expression says, given which conditions have fired (booleans)."""
        return fired[self.name]


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite of an expression."""

    inner: "Expression"

    def value(self, fired: Mapping[str, Tensor]) -> Tensor:
        """See `Name.value`."""
        return ~self.inner.value(fired)


@dataclass(frozen=True, slots=True)
class Both:
    """All of several expressions."""

    parts: tuple["Expression", ...]

    def value(self, fired: Mapping[str, Tensor]) -> Tensor:
        """See `Name.value`."""
        return reduce(Tensor.__and__, [part.value(fired) for part in self.parts])


@dataclass(frozen=True, slots=True)
class Either:
    """At least one of several expressions."""

    parts: tuple["Expression", ...]

    def value(self, fired: Mapping[str, Tensor]) -> Tensor:
        """See `Name.value`."""
        return reduce(Tensor.__or__, [part.value(fired) for part in self.parts])


Expression = Name | Not | Both | Either


class Mention(NamedTuple):
    """A name or a text where it stands in its rule.

    Attributes:
        name: of a condition or an edit; of a text, the text itself.
        column: counted from 1.
        quoted: whether it is a text.
        strength: of an edit, by which the request's is multiplied.
        above: of a condition in words, the probability above which it fires.
    """

    name: str
    column: int
    quoted: bool = False
    strength: float = 1.0
    above: float = 0.5


class Rule(NamedTuple):
    """One rule.

    Attributes:
        text: as it was written.
        expression: when it fires.
        conditions: the conditions it names, as often as it does.
        edits: the edits that act when it fires.
    """

    text: str
    expression: Expression
    conditions: tuple[Mention, ...]
    edits: tuple[Mention, ...]


def parse_rules(text: str) -> tuple[Rule, ...]:
    """Read one rule or several, separated by semicolons or line feeds.

    Raises:
        SteeringError: naming the rule, the column, what stands there and what was expected.
    """
    check_text(text, "the rule")
    parts = [part.strip() for line in lines_of(text) for part in _PART.findall(line)]
    rules = tuple(_Reader(part).rule() for part in parts if part)
    if not rules:
        raise SteeringError("there is no rule; write one such as 'if harmful then refuse'")
    return rules


def at_column(rule: str, column: int, told: str) -> SteeringError:
    """Return an error that points into a rule."""
    return SteeringError(f"rule '{rule}', column {column}: {told}")


def all_cases(names: Collection[str]) -> dict[str, Tensor] | None:
    """Return, for each condition, in which of all cases it fires; None for too many of them."""
    if len(names) > MOST_TRIED:
        return None
    cases = torch.arange(2 ** len(names))
    return {name: (cases >> place) % 2 == 1 for place, name in enumerate(sorted(names))}


def _can_fire(expression: Expression, names: set[str]) -> bool:
    """Return whether an expression is true of anything; of too many names, suppose that it is."""
    fired = all_cases(names)
    return fired is None or bool(expression.value(fired).any())


class _Token(NamedTuple):
    """A piece of a rule: its kind (a group of `_TOKEN`), its text, and its column from 1."""

    kind: str
    text: str
    column: int


class _Reader:
    """Reads one rule from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = [
            _Token(kind, found.group(kind), found.start(kind) + 1)
            for found in _TOKEN.finditer(text)
            for kind in [found.lastgroup or "other"]
        ]
        self._next = 0
        self._depth = 0
        self._conditions: list[Mention] = []

    def rule(self) -> Rule:
        self._expect("if", "a rule starts with 'if'")
        begin = self._column()
        expression = self._either()
        if not _can_fire(expression, {mention.name for mention in self._conditions}):
            told = "this contradicts itself and can never fire"
            raise at_column(self._text, begin, told)
        self._expect("then", "expected 'then', 'and' or 'or'")
        edits = [self._edit()]
        while self._word() in (",", "and"):
            self._next += 1
            edits.append(self._edit())
        if self._word() is not None:
            raise self._error("expected ',', 'at' or the end of the rule")
        return Rule(self._text, expression, tuple(self._conditions), tuple(edits))

    def _either(self) -> Expression:
        return self._joined("or", self._both, Either)

    def _both(self) -> Expression:
        return self._joined("and", self._one, Both)

    def _joined(
        self, word: str, part: Callable[[], Expression], join: type[Both] | type[Either]
    ) -> Expression:
        parts = [part()]
        while self._word() == word:
            self._next += 1
            parts.append(part())
        return parts[0] if len(parts) == 1 else join(tuple(parts))

    def _one(self) -> Expression:
        self._depth += 1
        if self._depth > DEEPEST:
            raise self._error(f"more than {DEEPEST} brackets and 'not' within one another")
        expression = self._negated_or_plain()
        self._depth -= 1
        return expression

    def _negated_or_plain(self) -> Expression:
        if self._word() == "not":
            self._next += 1
            return Not(self._one())
        if self._word() == "(":
            opened = self._column()
            self._next += 1
            inner = self._either()
            if self._word() != ")":
                raise self._error(f"expected ')' for the bracket of column {opened}")
            self._next += 1
            return inner
        mention = self._term("the name of a condition, one in quotation marks, 'not' or '('")
        if self._word() == "above":
            if not mention.quoted:
                raise self._error("a condition given by name has its own threshold")
            above = self._number("a probability between 0 and 1, such as 0.2", share=True)
            mention = mention._replace(above=above)
        self._conditions.append(mention)
        return Name(mention.name)

    def _edit(self) -> Mention:
        mention = self._term("the name of an edit or a steering prompt in quotation marks")
        if self._word() != "at":
            return mention
        return mention._replace(strength=self._number("a strength, such as 0.8"))

    def _number(self, wanted: str, *, share: bool = False) -> float:
        """Read the number behind a word; of a share, one between 0 and 1."""
        self._next += 1
        number = float(self._tokens[self._next].text) if self._kind() == "number" else None
        if number is None or (share and not 0 < number < 1):
            raise self._error(f"expected {wanted}")
        self._next += 1
        return number

    def _term(self, wanted: str) -> Mention:
        kind, column = self._kind(), self._column()
        if kind not in ("name", "text") or self._word() in WORDS:
            raise self._error(f"expected {wanted}")
        word = self._tokens[self._next].text
        if kind == "text" and not word[1:-1].strip():
            raise self._error(f"expected {wanted}")
        self._next += 1
        return Mention(word[1:-1].strip() if kind == "text" else word, column, kind == "text")

    def _expect(self, word: str, told: str) -> None:
        if self._word() != word:
            raise self._error(told)
        self._next += 1

    def _word(self) -> str | None:
        """Return the token to be read; words of the grammar in lower case. None at the end."""
        if self._next == len(self._tokens):
            return None
        word = self._tokens[self._next].text
        return word.lower() if word.lower() in (*WORDS, "at", "above") else word

    def _kind(self) -> str:
        """Return what kind of token is to be read; none at the end."""
        return "" if self._next == len(self._tokens) else self._tokens[self._next].kind

    def _column(self) -> int:
        ended = self._next == len(self._tokens)
        return len(self._text) + 1 if ended else self._tokens[self._next].column

    def _error(self, told: str) -> SteeringError:
        if self._word() in MARKS:
            told = "this quotation mark has no other to close it"
            return at_column(self._text, self._column(), told)
        ended = self._next == len(self._tokens)
        found = "the rule ends" if ended else f"there is '{self._tokens[self._next].text}'"
        return at_column(self._text, self._column(), f"{told}, but {found}")
