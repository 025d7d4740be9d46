"""What steers a row, laid out in slots: edits in the order in which they act, with strengths."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from hypersteer.conditions.rules import Check, Rules
from hypersteer.errors import SteeringError
from hypersteer.lm.edited import applied, several


class Slot(NamedTuple):
    """One edit of a row: an edit or a steering prompt, its strength, its rules and name in them."""

    edit: Any
    strength: float
    rules: Rules | None = None
    name: str = ""


def laid_out(steer: Any, strength: float) -> list[Slot]:
    """Return the edits of one row, those of rules first.

    Args:
        steer: a steering prompt, an edit, rules, a pair of one of these and a strength of its own,
            a list of several of them, or None.
        strength: of the row; it multiplies all.

    Raises:
        SteeringError: if there are several rules, or a strength is no finite number.
    """
    gated: list[Slot] = []
    free: list[Slot] = []
    for one, own in (applied(given, strength) for given in several(steer)):
        if isinstance(one, Rules):
            strengths = one.strengths
            gated += [
                Slot(edit, own * strengths.get(name, 1.0), one, name)
                for name, edit in one.edits.items()
            ]
        else:
            free.append(Slot(one, own))
    if len({id(slot.rules) for slot in gated}) > 1:
        raise SteeringError(
            "several sets of rules steer one prompt; join them into one, as rules('...; ...')"
        )
    return gated + free


def rules_of(slots: Sequence[Slot]) -> Rules | None:
    """Return the rules of one row."""
    return next((slot.rules for slot in slots if slot.rules is not None), None)


def acting(slots: Sequence[Slot], check: Check) -> list[tuple[Any, float]]:
    """Return what steers one row, with the edits that act in place of its rules."""
    return [
        (one.edit, one.strength) for one in slots if one.rules is None or one.name in check.edits
    ]
