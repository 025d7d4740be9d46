"""`hypersteer conditions show`: what is in the file of a condition."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from hypersteer.cli.options import Flag, parse

if TYPE_CHECKING:
    from hypersteer.conditions.condition import Condition


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionsShow:
    """Say what is in the file of a condition: where it is read, when it fires, how well it does.

    Examples:
      hypersteer conditions show health.safetensors
      hypersteer conditions show health.safetensors --layers
    """

    condition: Annotated[str, Positional, arg(metavar="CONDITION")]
    """File that 'hypersteer conditions fit' wrote."""
    layers: Flag = False
    """List all fitted layers with the variance that their directions explain."""


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    args = parse(ConditionsShow, argv, "conditions show")

    from hypersteer.conditions.condition import load_condition

    condition = load_condition(args.condition)
    print_condition(condition)
    if args.layers:
        for layer, share in zip(condition.fitted, condition.explained, strict=False):
            print(f"layer {layer}: {share:.1%} of the variance")


def print_condition(condition: "Condition") -> None:
    """Print a condition in a few lines."""
    layers = ", ".join(map(str, condition.layers))
    places = f"layer {layers}" if len(condition.layers) == 1 else f"any of layers {layers}"
    print(f"{condition.name}: fires {condition.fires} {condition.threshold:.4f} at {places}")
    if condition.release is not None:
        print(f"released at {condition.release:.4f}")
    shares = dict(zip(condition.fitted, condition.explained, strict=False))
    told = ", ".join(f"{shares[layer]:.1%}" for layer in condition.layers if layer in shares)
    print(
        f"score: {condition.scorer}, pooled over: {condition.pooling}; variance explained: {told}"
    )
    print(f"{condition.note}; base LM {condition.base_lm or 'unknown'}")
    if condition.figures:
        print_figures(condition.figures, "held-out scores, which chose the threshold")


def print_figures(figures: Mapping[str, float], where: str) -> None:
    """Print how a condition does."""
    names = {
        "f1": "F1",
        "auroc": "AUROC",
        "precision": "precision",
        "recall": "recall",
        "false_positives": "false positives",
    }
    shown = ", ".join(
        f"{label} {figures[name]:.3f}" for name, label in names.items() if name in figures
    )
    print(f"{shown} ({where})")
