"""What the parts of `hypersteer conditions` share: the base LM that reads, and what is printed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hypersteer.cli.options import OptionalText

if TYPE_CHECKING:
    from hypersteer.conditions.condition import Condition
    from hypersteer.lm.base import BaseLM


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """The base LM whose states are read."""

    lm: str = "smollm2-135m-instruct"
    """Alias, Hugging Face id, local folder, or .gguf file."""
    device: OptionalText = None
    """cpu, cuda, cuda:1 or mps; by default the best there is."""
    dtype: OptionalText = None
    """float32, bfloat16 or float16; by default float32 on a CPU, else bfloat16."""

    def load(self) -> "BaseLM":
        """Load the base LM.

        Raises:
            ModelError: if it cannot be loaded.
        """
        from hypersteer.lm.load import load_lm

        return load_lm(self.lm, device=self.device, dtype=self.dtype)


def print_condition(condition: "Condition") -> None:
    """Print a condition in a few lines."""
    from hypersteer.identity import in_short

    layers = ", ".join(map(str, condition.layers))
    joined = "any" if condition.joined == "any" else "the mean"
    places = f"layer {layers}" if len(condition.layers) == 1 else f"{joined} of layers {layers}"
    print(f"{condition.name}: fires {condition.fires} {condition.threshold:.4f} at {places}")
    if condition.release is not None:
        print(f"released at {condition.release:.4f}")
    shares = dict(zip(condition.fitted, condition.explained, strict=False))
    told = ", ".join(f"{shares[layer]:.1%}" for layer in condition.layers if layer in shares)
    explained = f"; variance explained: {told}" if told else ""
    print(f"score: {condition.scorer}, pooled over: {condition.pooling}{explained}")
    print(f"{condition.note}; base LM {in_short(condition.base_lm)}")
    if condition.metrics:
        print_metrics(condition.metrics, "held-out scores, which chose the threshold")


def print_metrics(metrics: Mapping[str, float], where: str) -> None:
    """Print how well a condition does."""
    names = {
        "f1": "F1",
        "auroc": "AUROC",
        "precision": "precision",
        "recall": "recall",
        "false_positives": "false positives",
    }
    shown = ", ".join(
        f"{label} {metrics[name]:.3f}" for name, label in names.items() if name in metrics
    )
    print(f"{shown} ({where})")
