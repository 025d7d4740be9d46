"""What is kept of a run that was trained and measured: `measured.json` in its folder."""

from dataclasses import dataclass, field
from pathlib import Path

from hypersteer.config import from_dict, to_dict
from hypersteer.errors import SteeringError, one_line
from hypersteer.files import is_file, read_json, reason, to_json, write_text

NAME = "measured.json"
ByConcept = dict[str, float]
"""A value by concept id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A validation during training.

    Attributes:
        step: optimizer steps taken.
        held_in_loss: mean over the held-in rows, nats per token; None without such rows.
        held_out_loss: likewise over the held-out rows.
        flops: floating-point operations of all steps so far.
    """

    step: int
    held_in_loss: float | None
    held_out_loss: float | None
    flops: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A run, measured.

    Attributes:
        losses: `held_in_loss`, `held_in_gap`, `held_out_loss` and `held_out_gap` at the last step,
            each by concept: means over the concept's validation rows, in nats per token.
        plain: means over all rows of the unsteered and the prompted base LM, as training has them.
        curve: validations, ascending.
        concepts: how many were trained on.
        parameters: of the hypernetwork.
        flops: of all steps.
        rows: training rows seen.
        seconds: that training and measuring took here; resumed runs count their last part.
    """

    losses: dict[str, ByConcept]
    plain: dict[str, float]
    curve: tuple[Point, ...]
    concepts: int
    parameters: int
    flops: float
    rows: int
    seconds: float = field(default=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """ReFT-r1 on the validated concepts: what the runs are held against.

    Attributes:
        losses: held-in loss of each concept in the form that has the lowest mean.
        forms: mean over the held-in rows of each form: as trained, and at each strength.
        form: the name of the lowest.
        flops: of learning one concept.
        seconds: of learning one concept here.
    """

    losses: ByConcept
    forms: dict[str, float]
    form: str
    flops: float
    seconds: float

    @property
    def loss(self) -> float:
        """Lowest mean loss over the held-in rows, as training curves have it."""
        return self.forms[self.form]


def read_kept(path: Path, kind: type) -> object | None:
    """Return what was kept, or None where it is not there yet.

    Raises:
        SteeringError: if the file is damaged.
    """
    if not is_file(path):
        return None
    try:
        return from_dict(kind, read_json(path), str(path))
    except (OSError, ValueError, TypeError, SteeringError) as error:
        raise SteeringError(f"'{path}' is damaged ({one_line(error)}); delete it") from error


def keep(path: Path, kept: Measured | Reference) -> None:
    """Write what was measured, whole or not at all.

    Raises:
        SteeringError: if it cannot be written.
    """
    try:
        write_text(path, to_json(to_dict(kept), indent=1) + "\n")
    except OSError as error:
        raise SteeringError(
            f"cannot write '{path}': {reason(error)}; what is finished stays, so mend that and run "
            "the same command again"
        ) from error
