"""What steers a row, laid out in slots: edits in the order in which they act, with strengths."""

from typing import Any, NamedTuple

from hypersteer.conditions.rules import Check, Rules
from hypersteer.errors import SteeringError
from hypersteer.lm.edited import applied, several


class Slot(NamedTuple):
    """One edit of a row: an edit or a steering prompt, its strength, the rules it belongs to."""

    edit: Any
    strength: float
    rules: Rules | None = None


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
                Slot(edit, own * strengths.get(name, 1.0), one) for name, edit in one.edits.items()
            ]
        else:
            free.append(Slot(one, own))
    if len({id(slot.rules) for slot in gated}) > 1:
        raise SteeringError(
            "several sets of rules steer one prompt; join them into one, as rules('...; ...')"
        )
    return gated + free


def rules_of(steer: Any) -> Rules | None:
    """Return the rules of one row."""
    return next((slot.rules for slot in laid_out(steer, 1.0) if slot.rules is not None), None)


def acting(steer: Any, rules: Rules, check: Check) -> list[Any]:
    """Return what steers one row, with the edits that act in place of its rules."""
    found: list[Any] = []
    for given in several(steer):
        one, own = applied(given, 1.0)
        if isinstance(one, Rules):
            acting = [(rules.edits[n], own * rules.strengths.get(n, 1.0)) for n in check.edits]
            found = [*acting, *found]  # those of rules act first
        else:
            found.append(given)
    return found
