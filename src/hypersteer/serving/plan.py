"""What steers a request: the field `steering`, or a model's suffix, as edits and words."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hypersteer.concepts import validate_steering_prompt
from hypersteer.conditions.condition import Condition
from hypersteer.conditions.rules import Rules, every_of, rules
from hypersteer.config.serving import ServeConfig
from hypersteer.edits.edit import Edit
from hypersteer.edits.edit_set import EditSet, parts_of
from hypersteer.edits.sites import check_strength
from hypersteer.errors import SteeringError, nearest
from hypersteer.hypernet.card import Card
from hypersteer.lm.finite import check_range
from hypersteer.lm.messages import Prompt, prompted
from hypersteer.serving.errors import Refused
from hypersteer.serving.schema import Part, Steering
from hypersteer.serving.stored import StoredEdits
from hypersteer.steering import Steerer

LEAD = "edit:"
"""Before the name of a stored edit, where a name stands for a steering prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What requests may name.

    Attributes:
        conditions: by name.
        rules: rules, by name.
        steer: steering prompts that these rules name.
        edits: the stored edits.
    """

    conditions: Mapping[str, Condition]
    rules: Mapping[str, Rules]
    steer: Mapping[str, str]
    edits: StoredEdits


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What steers each answer to a request.

    Attributes:
        steer: what `hypersteer.conditions.slots.laid_out` takes for a row.
        said: steering prompts that are put into the prompt.
        told: what the answer says was applied.
    """

    steer: list[Any] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    told: list[dict[str, Any]] = field(default_factory=list)

    def words(self, prompt: Prompt) -> Prompt:
        """Return the prompt with the steering prompts that are to be said."""
        for text in self.said:
            prompt = prompted(prompt, text)
        return prompt


def plan_of(
    steering: Steering, suffix: Part | None, steerer: Steerer, known: Known, config: ServeConfig
) -> Plan:
    """Bring what steers a request into a plan.

    Raises:
        Refused: for both a suffix and the field, for too much or too long of it, or for what is not
            known by a name.
        SteeringError: for a strength or rules that cannot be.
    """
    if suffix is not None and steering is not None:
        raise Refused(
            "the model's name says how to steer, and so does 'steering'; give one of them",
            param="steering",
        )
    given = [] if steering is None else steering if isinstance(steering, list) else [steering]
    parts = [_of_text(one) if isinstance(one, str) else one for one in given]
    if suffix is not None:
        parts = [suffix]
    if len(parts) > config.max_parts:
        raise Refused(
            f"{len(parts)} parts steer; at most {config.max_parts} are taken", param="steering"
        )
    plan = Plan()
    for part in parts:
        _add(plan, part, steerer, known, config)
    return plan


def _of_text(text: str) -> Part:
    """Return the part that a bare steering prompt stands for."""
    return Part(text=validate_steering_prompt(text))


def _add(plan: Plan, part: Part, steerer: Steerer, known: Known, config: ServeConfig) -> None:
    """Add a part to a plan."""
    strength = check_strength(part.strength)
    check_range([strength])
    if part.text is not None:
        check_length(validate_steering_prompt(part.text), config)
        if is_said(part, steerer.card):
            plan.said.append(part.text)
        steer: Any = (
            part.text if part.scope in (None, steerer.card.scope) else _ahead(steerer, part)
        )
    elif part.edit is not None:
        steer = known.edits.read(part.edit)
    else:
        steer = rules_of_part(part, known, config)
    plan.steer.append((steer, strength))
    plan.told.append(told_of(part, steer, steerer.card, steerer.generator))


def is_said(part: Part, card: Card) -> bool:
    """Return whether the prompt says the text of a part as well."""
    return (card.prompted if part.prompted is None else part.prompted) and part.strength > 0


def told_of(part: Part, steer: Any, card: Card, generator: str) -> dict[str, Any]:
    """Return what an answer says of a part.

    Args:
        part: of the request.
        steer: its edit or rules; of a text it is not looked at.
        card: of the checkpoint.
        generator: hash of the checkpoint's weights.
    """
    told: dict[str, Any] = {"strength": part.strength}
    if part.text is not None:
        scope = part.scope or card.scope
        told |= {"text": part.text, "scope": scope, "prompted": is_said(part, card)}
        return told | {"edit": text_hash(generator, part.text, scope)}
    if part.edit is not None:
        return told | {"name": part.edit, "edit": edit_hash(steer)}
    return told | {"rules": str(steer)}


def _ahead(steerer: Steerer, part: Part) -> Edit | EditSet:
    """Make the edit of a text whose scope is not the training's, before the answer."""
    assert part.text is not None
    if steerer.card.hypernet.variant != "no-context":
        raise Refused(
            "this checkpoint writes an edit for the prompt at hand, on the tokens of its training: "
            f"leave out scope = '{part.scope}', or give '{steerer.card.scope}'",
            param="steering.scope",
        )
    return steerer.edit(part.text, scope=part.scope)


def rules_of_part(part: Part, known: Known, config: ServeConfig) -> Rules:
    """Return the rules of a part, which has some.

    Raises:
        Refused: for a text that is too long, or a rule or an edit that is not known by its name.
        SteeringError: for rules that cannot be.
    """
    if part.rule is not None:
        if part.rule not in known.rules:
            raise Refused(
                f"unknown rule '{part.rule}'{nearest(part.rule, known.rules)}",
                404,
                param="steering.rule",
            )
        found = known.rules[part.rule]
        return replace(found, tokens=part.tokens, every=every_of(part.check))
    assert part.rules is not None
    check_length(part.rules, config)
    named: dict[str, Any] = dict(known.steer)
    for name, text in part.edits.items():
        check_length(text, config)
        named[name] = known.edits.read(text[len(LEAD) :]) if text.startswith(LEAD) else text
    given = {"conditions": known.conditions, "edits": named, "tokens": part.tokens}
    return rules(part.rules, **given, check=part.check)


def check_length(
    text: str, config: ServeConfig, what: str = "what steers", param: str = "steering"
) -> None:
    """Refuse a text that is longer than the server takes.

    Args:
        text: what steers.
        config: says how long it may be.
        what: how a message names it.
        param: the field that it is in.

    Raises:
        Refused: naming both lengths.
    """
    if len(text) > config.max_steering_chars:
        raise Refused(
            f"{what} has {len(text):,} characters; at most {config.max_steering_chars:,} are taken",
            param=param,
        )


def split_model(name: str, served: Sequence[str]) -> tuple[str, Part | None]:
    """Return a served model's name and what its suffix steers by: `NAME:STEERING PROMPT@STRENGTH`.

    Args:
        name: as the client gives it.
        served: names of what is served.

    Raises:
        Refused: if nothing is served under that name, or the suffix is empty.
    """
    if name in served:
        return name, None
    for one in sorted(served, key=len, reverse=True):
        if name.startswith(f"{one}:"):
            return one, _suffix(name.removeprefix(f"{one}:"))
    raise Refused(
        f"the model '{name}' is not served{nearest(name.partition(':')[0], served)}",
        404,
        param="model",
        code="model_not_found",
    )


def model_alone(name: str, served: Sequence[str]) -> str:
    """Return a served model's name, where what steers stands in a field `text`.

    Raises:
        Refused: as `split_model`, and for a suffix.
    """
    found, suffix = split_model(name, served)
    if suffix is not None:
        raise Refused("the steering prompt goes into 'text'", param="model")
    return found


def _suffix(text: str) -> Part:
    words, at, number = text.rpartition("@")
    strength = 1.0
    if at:
        try:
            strength = float(number)
        except ValueError:
            words = text
    else:
        words = text
    if not words.strip():
        raise Refused("the model's name ends in ':', but no steering prompt follows", param="model")
    try:
        return Part(text=validate_steering_prompt(words), strength=check_strength(strength))
    except SteeringError as error:
        raise Refused(str(error), param="model") from error


def text_hash(generator: str, text: str, scope: Any) -> str:
    """Return what tells the edit of a text from others: hash of the checkpoint, text and scope."""
    told = "\0".join((generator, text, str(scope)))
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def edit_hash(edit: Edit | EditSet) -> str:
    """Return what tells a fixed edit from others: sites, scopes and numbers."""
    digest = hashlib.sha256()
    for part in parts_of(edit):
        digest.update(f"{part.kind.name}\0{part.site}\0{part.scope}".encode())
        for name in sorted(part.params):
            digest.update(part.params[name].contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
