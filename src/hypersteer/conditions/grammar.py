"""The grammar of rules, read by recursive descent.

    rules  = rule { ";" rule }
    rule   = "if" either "then" name { "," name }
    either = both { "or" both }
    both   = one { "and" one }
    one    = "not" one | "(" either ")" | name

So `not` binds tighter than `and`, and `and` tighter than `or`. Names are letters, digits, `_` and
`-`, not starting with a digit or `-`; the five words of the grammar are no names. A line feed is as
good as a semicolon, and several edits may also be joined by `and`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

from torch import Tensor

from hypersteer.errors import SteeringError
from hypersteer.values import check_text, lines_of

WORDS = ("if", "then", "and", "or", "not")
DEEPEST = 50
"""Brackets and negations within one another that are read; more is no rule that a person wrote."""

_TOKEN = re.compile(r"\s*(?:(?P<name>[^\W\d][\w-]*)|(?P<sign>[(),])|(?P<other>\S))")


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
    """A name where it stands in the text of its rule, from column 1."""

    name: str
    column: int


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
    parts = [part.strip() for part in lines_of(text.replace(";", "\n"))]
    rules = tuple(_Reader(part).rule() for part in parts if part)
    if not rules:
        raise SteeringError("there is no rule; write one such as 'if harmful then refuse'")
    return rules


def at_column(rule: str, column: int, told: str) -> SteeringError:
    """Return an error that points into a rule."""
    return SteeringError(f"rule '{rule}', column {column}: {told}")


class _Reader:
    """Reads one rule from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = [
            (found.group(found.lastgroup or 0), found.start(found.lastgroup or 0) + 1)
            for found in _TOKEN.finditer(text)
        ]
        self._next = 0
        self._depth = 0
        self._conditions: list[Mention] = []

    def rule(self) -> Rule:
        self._expect("if", "a rule starts with 'if'")
        expression = self._either()
        self._expect("then", "expected 'then', 'and' or 'or'")
        edits = [self._name("the name of an edit")]
        while self._word() in (",", "and"):
            self._next += 1
            edits.append(self._name("the name of an edit"))
        if self._word() is not None:
            raise self._error("expected ',' or the end of the rule")
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
        mention = self._name("the name of a condition, 'not' or '('")
        self._conditions.append(mention)
        return Name(mention.name)

    def _name(self, wanted: str) -> Mention:
        word, column = self._word(), self._column()
        if word is None or word in WORDS or not re.match(r"[^\W\d]", word):
            raise self._error(f"expected {wanted}")
        self._next += 1
        return Mention(self._tokens[self._next - 1][0], column)

    def _expect(self, word: str, told: str) -> None:
        if self._word() != word:
            raise self._error(told)
        self._next += 1

    def _word(self) -> str | None:
        """Return the token to be read; words of the grammar in lower case. None at the end."""
        if self._next == len(self._tokens):
            return None
        word = self._tokens[self._next][0]
        return word.lower() if word.lower() in WORDS else word

    def _column(self) -> int:
        ended = self._next == len(self._tokens)
        return len(self._text) + 1 if ended else self._tokens[self._next][1]

    def _error(self, told: str) -> SteeringError:
        ended = self._next == len(self._tokens)
        found = "the rule ends" if ended else f"there is '{self._tokens[self._next][0]}'"
        return at_column(self._text, self._column(), f"{told}, but {found}")
