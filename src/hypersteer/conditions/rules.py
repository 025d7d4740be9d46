"""Rules over conditions, with their edits, and the log of what they decided row by row."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from hypersteer.concepts import validate_steering_prompt
from hypersteer.conditions.condition import Condition
from hypersteer.conditions.grammar import (
    WORDS,
    Mention,
    Rule,
    all_cases,
    at_column,
    parse_rules,
)
from hypersteer.conditions.score import check_words
from hypersteer.edits.edit import Edit
from hypersteer.edits.edit_set import EditSet
from hypersteer.errors import ConfigError, SteeringError, nearest, short, shown
from hypersteer.values import as_whole

Order = Literal["all", "first"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rules:
    """Rules ready to steer with; made by `rules`.

    Attributes:
        rules: in the order stated.
        conditions: those that the rules name.
        edits: those that the rules name, in the order of their first mention: edits, or steering
            prompts for a hypernetwork.
        above: the conditions that the rules say in words, with the probability above which each
            fires; what decides wants them made, see `ready`.
        strengths: of the edits, by which the request's strength is multiplied.
        every: a new check after this many response tokens; 0 checks the prompt only.
        order: what happens when several rules fire, see `rules`.
        tokens: whether what is decided on a prompt says which of its tokens decided.
    """

    rules: tuple[Rule, ...]
    conditions: Mapping[str, Condition]
    edits: Mapping[str, str | Edit | EditSet]
    above: Mapping[str, float] = field(default_factory=dict)
    strengths: Mapping[str, float] = field(default_factory=dict)
    every: int = 0
    order: Order = "all"
    tokens: bool = False

    @property
    def words(self) -> tuple[str, ...]:
        """The conditions that are still in words."""
        return tuple(self.above)

    @property
    def steering_prompt(self) -> str:
        """The rules as text, for those who ask what steers."""
        return "; ".join(rule.text for rule in self.rules)

    def __str__(self) -> str:
        return self.steering_prompt

    def ready(self, make: Callable[..., Condition]) -> "Rules":
        """Return the rules with conditions in place of words.

        Args:
            make: makes a condition of words and of `above`, the probability above which it fires.
        """
        if not self.above:
            return self
        made = {text: make(text, above=above) for text, above in self.above.items()}
        return replace(self, conditions={**self.conditions, **made}, above={})

    def acting(self, fired: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return which edits act, as booleans of the shape of those in `fired`.

        Args:
            fired: for every condition, where it has fired.
        """
        acts: dict[str, Tensor] = {}
        taken: Tensor | None = None
        for rule in self.rules:
            fires = rule.expression.value(fired)
            if self.order == "first":
                free = fires if taken is None else fires & ~taken
                taken = fires if taken is None else taken | fires
                fires = free
            for mention in rule.edits:
                before = acts.get(mention.name)
                acts[mention.name] = fires if before is None else before | fires
        return {name: acts[name] for name in self.edits}

    def most_acting(self) -> int:
        """Return how many edits may act at once, those of strength 0 left out.

        Of so many conditions that not all cases can be gone through, suppose that all may.
        """
        felt = [name for name in self.edits if self.strengths.get(name, 1.0)]
        fired = all_cases({one.name for rule in self.rules for one in rule.conditions})
        if fired is None or not felt:
            return len(felt)
        acts = self.acting(fired)
        return int(torch.stack([acts[name] for name in felt]).sum(0).max())


def rules(
    text: str | Sequence[str],
    *,
    conditions: Mapping[str, Condition] | None = None,
    edits: Mapping[str, str | Edit | EditSet] | None = None,
    check: Literal["prompt", "token"] | int = "prompt",
    order: Order = "all",
    tokens: bool = False,
) -> Rules:
    """Rules such as `if "asks about health" and not fiction then "refer to a doctor" at 0.8`.

    What stands in quotation marks is a condition in words or a steering prompt; what does not is a
    name. A condition in words fires above a probability of a half, or of what follows `above`.
    `not` binds tighter than `and`, `and` tighter than `or`; several rules are separated by
    semicolons or line feeds, several edits after `then` by commas. A strength may follow `at`.
    See `hypersteer.conditions.grammar`.

    Args:
        text: one rule or several.
        conditions: conditions by the names that the rules use; there may be more.
        edits: likewise edits, or steering prompts for a hypernetwork.
        check: when to decide: once on the `prompt`, at every `token` of the response, or after
            every so many tokens.
        order: when several rules fire, the edits of `all` of them act, added in the order in which
            the rules first name them (an edit named twice acts once); or only those of the `first`
            that fires.
        tokens: also tell what each token of the prompt adds to the scores that decide, in
            `Check.tokens`; it costs a second pass over the prompt, up to the layers that are read.

    Raises:
        SteeringError: for a text that does not follow the grammar, pointing to the place, for
            names that are not given, or for what is no condition or edit.
    """
    lines = [text] if isinstance(text, str) else text
    if not isinstance(lines, Sequence) or not all(isinstance(line, str) for line in lines):
        raise SteeringError(f"rules are a text, or a list of texts, not {short(text)}")
    conditions, edits = conditions or {}, edits or {}
    parsed = parse_rules("\n".join(lines))
    if not isinstance(order, str) or order not in get_args(Order):
        raise ConfigError(f"unknown order {order!r}{nearest(str(order), get_args(Order))}")
    _check_names(conditions, edits)
    used: dict[str, Condition] = {}
    above: dict[str, float] = {}
    wanted: dict[str, str | Edit | EditSet] = {}
    strengths: dict[str, float] = {}
    for rule in parsed:
        _check_known(rule, rule.conditions, conditions, "condition")
        _check_known(rule, rule.edits, edits, "edit")
        used |= {one.name: conditions[one.name] for one in rule.conditions if not one.quoted}
        for mention in (one for one in rule.conditions if one.quoted):
            _once(above, rule, mention, mention.above, "fires above")
            check_words(mention.name)
        wanted |= {one.name: one.name if one.quoted else edits[one.name] for one in rule.edits}
        for mention in rule.edits:
            _once(strengths, rule, mention, mention.strength, "acts at strength")
    _check_values(used, wanted)
    return Rules(
        rules=parsed,
        conditions=used,
        edits=wanted,
        above=above,
        strengths=strengths,
        every=every_of(check),
        order=order,
        tokens=tokens,
    )


def _check_names(conditions: Mapping[str, object], edits: Mapping[str, object]) -> None:
    for kind, values in (("condition", conditions), ("edit", edits)):
        for name in values:
            if not isinstance(name, str) or name.lower() in WORDS:
                raise SteeringError(f"{name!r} cannot be the name of a {kind}; rules use that word")


def _check_known(
    rule: Rule, mentions: Sequence[Mention], known: Mapping[str, object], kind: str
) -> None:
    """Refuse names that are not given, and texts that read as a name that is."""
    for mention in mentions:
        name = mention.name
        if mention.quoted and name in known:
            told = f"'{name}' in quotation marks is also the name of a given {kind}; rename that"
            raise at_column(rule.text, mention.column, told)
        if not mention.quoted and name not in known:
            way = f'; in words it stands in quotation marks, as "{name}"' if not known else ""
            told = f"unknown {kind} '{name}'{nearest(name, known)}{way}"
            raise at_column(rule.text, mention.column, told)


def _once(values: dict[str, float], rule: Rule, mention: Mention, value: float, does: str) -> None:
    """Note the number behind a name or a text, which is the same wherever that is mentioned."""
    if values.setdefault(mention.name, value) != value:
        told = f"'{mention.name}' {does} {values[mention.name]:g} before this"
        raise at_column(rule.text, mention.column, told)


def _check_values(conditions: Mapping[str, object], edits: Mapping[str, object]) -> None:
    for name, condition in conditions.items():
        if not isinstance(condition, Condition):
            raise SteeringError(
                f"condition '{name}' is {short(condition)}; give one that load_condition, "
                "fit_condition or condition made, or say it in the rule, in quotation marks"
            )
    for name, edit in edits.items():
        if not isinstance(edit, (Edit, EditSet)):
            try:
                validate_steering_prompt(edit)
            except SteeringError as error:
                raise SteeringError(f"edit '{name}': {error}") from error


def every_of(check: object) -> int:
    """Return how many response tokens lie between two checks; 0 for none after the prompt's.

    Raises:
        ConfigError: for what is neither `prompt` nor `token` nor a number of tokens.
    """
    if isinstance(check, str) and check in ("prompt", "token"):
        return 0 if check == "prompt" else 1
    tokens = as_whole(check)
    if tokens is None or tokens < 1:
        raise ConfigError(
            f"check {shown(check)} is neither 'prompt' nor 'token' nor a number of tokens above 0"
        )
    return tokens


class Check(NamedTuple):
    """One check of one row.

    Attributes:
        token: response tokens that had been read; 0 is the check of the prompt.
        scores: score of every condition.
        conditions: those that have fired.
        edits: the edits that act from here on.
        probabilities: that each condition holds, of those that are calibrated.
        tokens: of the check of a prompt, where its rules ask for it: the prompt's tokens, and what
            each adds to the score of a condition; see `hypersteer.conditions.deciding`.
    """

    token: int
    scores: dict[str, float]
    conditions: tuple[str, ...]
    edits: tuple[str, ...]
    probabilities: dict[str, float] | None = None
    tokens: Mapping[str, Sequence[tuple[str, float]]] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the check as plain JSON values; what may be missing only where there is any."""
        told: dict[str, Any] = {
            "token": self.token,
            "scores": {name: round(score, 6) for name, score in self.scores.items()},
            "conditions": list(self.conditions),
            "edits": list(self.edits),
        }
        if self.probabilities:
            told["probabilities"] = {k: round(value, 4) for k, value in self.probabilities.items()}
        if self.tokens:
            told["tokens"] = {
                name: [[text, round(share, 6)] for text, share in shares]
                for name, shares in self.tokens.items()
            }
        return told


@dataclass(slots=True)
class Decisions:
    """A log that a generation fills: `steerer.generate(..., decisions=log)`.

    Attributes:
        rows: the checks of every row of the request, oldest first; none for a row without rules.
    """

    rows: list[list[Check]] = field(default_factory=list)
    shares: Mapping[int, Mapping[str, Sequence[tuple[str, float]]]] = field(default_factory=dict)
    """What tokens of the prompts add to scores, by row and condition, where rules ask for it."""
    _ahead: Mapping[int, Check] = field(default_factory=dict)

    def restart(self, count: int, ahead: Mapping[int, Check] | None = None) -> None:
        """Empty the log for a request of `count` rows.

        Args:
            count: how many.
            ahead: what was decided before the request began, by row; by default as last told.
        """
        self._ahead = self._ahead if ahead is None else ahead
        self.rows = [[self._ahead[row]] if row in self._ahead else [] for row in range(count)]
