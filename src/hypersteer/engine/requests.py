"""What callers ask for, brought into rows: prompts, what steers each, and how strongly."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from hypersteer.edits.sites import check_strength
from hypersteer.engine.decoding import Decoding
from hypersteer.engine.generate import check_room
from hypersteer.errors import SteeringError
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import PromptIds
from hypersteer.lm.edited import all_edits, per_row, several
from hypersteer.lm.finite import check_range
from hypersteer.lm.messages import Prompt, Prompts, is_one_prompt
from hypersteer.lm.messages import prompted as told


class Request(NamedTuple):
    """A request as rows.

    Attributes:
        prompts: B tokenised prompts.
        steer: what steers each row: a steering prompt, an edit, rules, a list of these, or None.
        strengths: strength of each row.
        single: whether the caller gave one prompt, not a list, and wants one answer.
        decodings: how each row is decoded; empty where nothing is to be.
        decided: what rules decided on rows ahead; see `as_request`.
    """

    prompts: list[PromptIds]
    steer: list[Any]
    strengths: list[float]
    single: bool
    decodings: Sequence[Decoding] = ()
    decided: Mapping[int, Any] = MappingProxyType({})


Decide = Callable[[Callable[[], list[PromptIds]], list[Any]], tuple[list[Any], Mapping[int, Any]]]
"""Puts what acts in place of rules, which may ask for the prompts; returns that and the decisions
by row."""


def as_given(
    _prompts: Callable[[], list[PromptIds]], steer: list[Any]
) -> tuple[list[Any], Mapping[int, Any]]:
    """Put nothing in place of rules: a `Decide` for those who have none."""
    return steer, {}


def as_request(
    lm: BaseLM,
    prompts: Prompts,
    steer: Any,
    strength: Any,
    *,
    edits: Any = (),
    name: str = "steer",
    say: Decide | None = None,
    decoding: Mapping[str, Any] | None = None,
) -> Request:
    """Bring a request into rows.

    Args:
        lm: the base LM.
        prompts: a prompt (text, a chat message, or a list of them), or a list of prompts.
        steer: one for all, or a list with one per prompt.
        strength: likewise.
        edits: what acts on every row besides.
        name: how the caller's own argument for `steer` is called.
        say: put each row's steering prompts into its prompt, too, where its strength is above 0
            (a row at 0 is the unsteered model, and one below must not ask for what it weakens),
            after this has put the edits that act in place of rules.
        decoding: how it is to be decoded, by name, where it is to be.

    Raises:
        SteeringError: for an empty list, lists of different lengths, an empty prompt or what is
            no prompt, a strength that is not finite, or no room for the new tokens.
        ConfigError: for settings of decoding that are unknown or out of range.
    """
    single = is_one_prompt(prompts)
    rows: list[Any] = [prompts] if single else list(prompts)  # type: ignore[arg-type]
    if not rows:
        raise SteeringError("the list of prompts is empty; give at least one")
    others = (name, "edits", "strength", "scope", "decisions")
    decodings = [] if decoding is None else Decoding.per_row(decoding, len(rows), others)
    strengths = [check_strength(s) for s in per_row(strength, len(rows), "strength")]
    check_range(strengths)
    steers = per_row(steer, len(rows), name)
    if besides := all_edits(edits):
        steers = [[*several(own), *besides] for own in steers]
    decided: Mapping[int, Any] = {}
    if say is not None:
        given = rows
        steers, decided = say(lambda: [lm.chat.prompt(prompt) for prompt in given], steers)
        rows = [
            _with_words(row, own, strength)
            for row, own, strength in zip(rows, steers, strengths, strict=True)
        ]
    tokenised = [lm.chat.prompt(prompt) for prompt in rows]
    request = Request(tokenised, steers, strengths, single, decodings, decided)
    if decodings:
        check_room(lm, request.prompts, decodings)
    return request


def _with_words(prompt: Prompt, steer: Any, strength: float) -> Prompt:
    """Return a prompt that names the steering prompts of its row; edits and rules have none."""
    for one in several(steer):
        text, own = one if isinstance(one, tuple) and len(one) == 2 else (one, 1.0)
        if isinstance(text, str) and text.strip() and strength * check_strength(own) > 0:
            prompt = told(prompt, text)
    return prompt
