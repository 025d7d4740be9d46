"""Whether conditions and rules can be decided on a base LM, told before any model work."""

from hypersteer.conditions.condition import Condition
from hypersteer.conditions.rules import Rules
from hypersteer.edits.sites import Site
from hypersteer.errors import SteeringError
from hypersteer.lm.base import BaseLM


def layers_read(lm: BaseLM, rules: Rules) -> set[int]:
    """Return the layers that the conditions of some rules read, all of them checked.

    Raises:
        SteeringError: as `check_condition`, and for a condition about the answer in rules that are
            decided on the prompt.
    """
    layers = set()
    for name, condition in rules.conditions.items():
        check_condition(lm, condition, name)
        if condition.pooling == "response" and not rules.every:
            raise SteeringError(
                f"condition '{name}' is about the answer, which is not there when the prompt is "
                "checked; give check='token', or a number of tokens"
            )
        layers |= {layer % lm.depth for layer in condition.layers}
    return layers


def check_condition(lm: BaseLM, condition: Condition, name: str = "") -> None:
    """Refuse a condition that is not for this base LM.

    Raises:
        CheckpointError: if it was fitted for another base LM.
        ModelError: if it reads a layer that is not there.
        SteeringError: if its width is not the base LM's.
    """
    name = name or condition.name
    way_out = "fit it anew with this one"
    lm.check_made_for(condition.base_lm, f"the condition '{name}'", way_out, "fitted")
    if condition.width != lm.width:
        raise SteeringError(
            f"the condition '{name}' has width {condition.width}, but {lm.name} has width "
            f"{lm.width}"
        )
    for layer in condition.layers:
        lm.site(layer)


def layers_above(lm: BaseLM, condition: Condition, lowest: Site) -> set[int]:
    """Return the layers of a condition that lie above the lowest edit of its rows."""
    sites = {lm.site(layer) for layer in condition.layers}
    return {site.layer for site in sites if site > lowest}
