"""Conditions: directions that are only measured, and the threshold that a measure must pass.

The idea is CAST's (conditional activation steering, arXiv 2409.05907). Its score cannot tell a
direction from its opposite, and its threshold lives in a sliver of the range; the default here is
a signed cosine with an intercept, and CAST's own is kept as `legacy`. Nothing here knows a model.
Shapes: K fitted layers, D width, B rows.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from hypersteer.conditions.score import score
from hypersteer.config import check_choices, from_dict
from hypersteer.config.conditions import Pooling, Scorer
from hypersteer.errors import CheckpointError, SteeringError, one_line, shown
from hypersteer.files import output_file, path_of
from hypersteer.tensor_files import read_value, real_tensor, write_value
from hypersteer.values import as_real, as_whole, check_text

FORMAT = "hypersteer-condition-1"
Fires = Literal["above", "below"]
Joined = Literal["any", "mean"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Condition:
    """Whether hidden states lie far enough along a direction.

    The states are block outputs (`residual` sites), pooled over tokens. With several `layers` it
    fires, by default, if any of them passes the threshold: its score is the largest of theirs, or
    the smallest where it fires below.

    Attributes:
        name: what it is about.
        directions: unit vectors [K, D], float32.
        means: intercepts [K, D], subtracted from a state before the cosine; `legacy` has none.
        scales: what a state is divided by after that [K, D], above 0, so that a few massive
            dimensions do not decide the cosine; None for 1, as `legacy` and older files have it.
        fitted: the layer of each direction.
        layers: the layers that are read; some of `fitted`.
        threshold: what the score must pass.
        fires: `above` or `below` the threshold; a score equal to it does not fire.
        release: once it has fired, what the score must fail to pass for it to stop; by default the
            threshold. A second threshold keeps repeated checks from flickering (hysteresis).
        joined: how the scores of several layers become one: that of `any` layer, the one furthest
            towards firing, or their `mean`.
        scorer: `cosine` or `legacy`.
        pooling: `prompt` (mean over the prompt without the chat prefix), `all` (mean with it),
            `last` (last token of the prompt) or `response` (mean over the answer so far; before
            its first token nothing fires).
        explained: share of the variance along each direction, [K].
        calibration: slope and offset of the logit of the probability that it holds, given the
            score; None where nobody measured it.
        base_lm: identity of the base LM it was fitted for; another base LM refuses it.
        metrics: how it did on held-out prompts, which chose the point.
        note: how it was made.

    Raises:
        SteeringError: if the parts do not fit together.
    """

    name: str
    directions: Float[Tensor, "K D"]
    means: Float[Tensor, "K D"]
    fitted: tuple[int, ...]
    layers: tuple[int, ...]
    threshold: float
    scales: Float[Tensor, "K D"] | None = None
    fires: Fires = "above"
    release: float | None = None
    joined: Joined = "any"
    scorer: Scorer = "cosine"
    pooling: Pooling = "prompt"
    explained: tuple[float, ...] = ()
    calibration: tuple[float, float] | None = None
    base_lm: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        self._settle()
        self._check_tensors()
        self._check_scales()
        missing = [layer for layer in self.layers if layer not in self.fitted]
        if missing or not self.layers:
            raise SteeringError(
                f"condition '{self.name}' reads layers {list(self.layers)}, but has directions for "
                f"{list(self.fitted)}"
            )
        check_choices(self)
        self._check_thresholds()

    def _settle(self) -> None:
        """Bring numbers of numpy and torch in as Python's, and lists as tuples."""
        check_text(self.name, "the name of the condition")
        kinds = {"fitted": as_whole, "layers": as_whole, "explained": as_real}
        for field_, number in kinds.items():
            value = getattr(self, field_)
            found = tuple(map(number, value)) if isinstance(value, Iterable) else (None,)
            if None in found:
                raise SteeringError(f"{field_} {shown(value)} of '{self.name}' are no numbers")
            object.__setattr__(self, field_, found)
        self._settle_calibration()
        for field_ in ("threshold", "release"):
            value = getattr(self, field_)
            if value is None and field_ == "release":
                continue
            if (limit := as_real(value)) is None:
                raise SteeringError(f"{field_} {shown(value)} of '{self.name}' is no number")
            object.__setattr__(self, field_, limit)

    def _settle_calibration(self) -> None:
        if self.calibration is None:
            return
        pair = tuple(map(as_real, self.calibration))
        if len(pair) != 2 or None in pair:
            told = shown(self.calibration)
            raise SteeringError(f"calibration {told} of '{self.name}' is no pair of numbers")
        object.__setattr__(self, "calibration", pair)

    def _check_tensors(self) -> None:
        names = (
            ("directions", "means") if self.scales is None else ("directions", "means", "scales")
        )
        for name in names:
            value = real_tensor(getattr(self, name), f"the {name} of condition '{self.name}'")
            value = value.detach().to("cpu", torch.float32, copy=True)
            if value.ndim != 2 or len(value) != len(self.fitted):
                raise SteeringError(
                    f"the {name} of condition '{self.name}' have shape {list(value.shape)} for "
                    f"{len(self.fitted)} layers; expected [layers, width]"
                )
            if not bool(torch.isfinite(value).all()):
                raise SteeringError(f"the {name} of condition '{self.name}' are not all finite")
            object.__setattr__(self, name, value)
        if self.means.shape != self.directions.shape:
            raise SteeringError(f"condition '{self.name}' has other means than directions")
        lengths = self.directions.norm(dim=-1)
        if not bool(lengths.all()):
            layer = self.fitted[int(lengths.argmin())]
            raise SteeringError(f"condition '{self.name}' has no direction at layer {layer}, but 0")
        if bool((lengths - 1).abs().gt(1e-5).any()):  # else a loaded one would not be the saved one
            object.__setattr__(self, "directions", F.normalize(self.directions, dim=-1))

    def _check_scales(self) -> None:
        if self.scales is None:
            return
        if self.scorer == "legacy":
            raise SteeringError(f"condition '{self.name}' is legacy, whose score has no scales")
        if self.scales.shape != self.directions.shape or not bool((self.scales > 0).all()):
            raise SteeringError(
                f"the scales of condition '{self.name}' are not numbers above 0, one for each "
                "dimension of its directions"
            )

    def _check_thresholds(self) -> None:
        for value in (self.threshold, self.release):
            if value is not None and not math.isfinite(value):
                raise SteeringError(f"threshold {value} of condition '{self.name}' is not finite")
        if self.release is None or self.release == self.threshold:
            return
        if (self.release > self.threshold) == (self.fires == "above"):
            side = "below" if self.fires == "above" else "above"
            raise SteeringError(
                f"condition '{self.name}' fires {self.fires} {self.threshold:g}, so its release "
                f"must lie {side} that, not at {self.release:g}"
            )

    @property
    def scaled(self) -> bool:
        """Whether states are divided by scales."""
        return self.scales is not None

    @property
    def width(self) -> int:
        """Width D of the states it reads."""
        return self.directions.shape[1]

    def layer_scores(self, layer: int, states: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
        """Return scores of pooled states at one of the fitted layers."""
        row = self.fitted.index(layer)
        direction, mean = (t[row].to(states.device) for t in (self.directions, self.means))
        scale = None if self.scales is None else self.scales[row].to(states.device)
        return score(states, direction, mean, self.scorer, scale)

    def score(self, states: Mapping[int, Float[Tensor, "B D"]]) -> Float[Tensor, " B"]:
        """Return the score that is compared with the threshold.

        Args:
            states: pooled states by layer, for every one of `layers`.
        """
        each = [self.layer_scores(layer, states[layer]) for layer in self.layers]
        if len(each) == 1:
            return each[0]
        scores = torch.stack(each)
        if self.joined == "mean":
            return scores.mean(0)
        return scores.amax(0) if self.fires == "above" else scores.amin(0)

    def passed(self, scores: Float[Tensor, " B"], fired: Tensor | None = None) -> Tensor:
        """Return which scores fire, as booleans [B].

        Args:
            scores: of `score`.
            fired: which rows have fired in their last check; these are held to `release`.
        """
        limit: float | Tensor = self.threshold
        if fired is not None and self.release is not None:
            limit = torch.where(fired, self.release, self.threshold)
        return scores > limit if self.fires == "above" else scores < limit

    def probabilities(self, scores: Float[Tensor, " B"]) -> Float[Tensor, " B"] | None:
        """Return how probable it is that it holds, by scores of `score`; None if not calibrated."""
        if self.calibration is None:
            return None
        slope, offset = self.calibration
        return torch.sigmoid(scores * slope + offset)

    def save(self, path: str | Path) -> Path:
        """Write the condition to one safetensors file, through a temporary name.

        Raises:
            SteeringError: if the file cannot be written.
        """
        parts = [part for part in dataclasses.fields(_Header) if part.name != "figures"]
        left_out = [part.name for part in parts if part.default == getattr(self, part.name)]
        known = {part.name: getattr(self, part.name) for part in parts if part.name not in left_out}
        header = {"format": FORMAT, **known, "figures": dict(self.metrics)}
        tensors = {"directions": self.directions, "means": self.means}
        if self.scales is not None:
            tensors["scales"] = self.scales
        return write_value(
            output_file(path, "the file of the condition"), tensors, header, "condition"
        )


def load_condition(path: str | Path) -> Condition:
    """Read a condition that `save` wrote.

    Raises:
        CheckpointError: if the file is missing, corrupt, or not a condition.
    """
    path = path_of(path, "the condition", CheckpointError)
    header, tensors = read_value(path, FORMAT, "condition")
    try:
        known = from_dict(_Header, {k: v for k, v in header.items() if k != "format"}, "header")
        fields = {field.name: getattr(known, field.name) for field in dataclasses.fields(known)}
        scaled, metrics = fields.pop("scaled"), fields.pop("figures")
        return Condition(
            **fields,
            metrics=metrics,
            directions=tensors["directions"],
            means=tensors["means"],
            scales=tensors["scales"] if scaled else None,
        )
    except KeyError as error:
        raise CheckpointError(f"the condition '{path}' lacks {error}; it is damaged") from error
    except (SteeringError, TypeError, ValueError) as error:
        raise CheckpointError(f"the condition '{path}' is damaged: {one_line(error)}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    """What a condition's file has beside its tensors, with the types that are checked.

    What has a default is left out where it is that; versions that do not know it refuse the rest.
    """

    name: str
    fitted: tuple[int, ...]
    layers: tuple[int, ...]
    threshold: float
    fires: Fires
    release: float | None
    scorer: Scorer
    pooling: Pooling
    explained: tuple[float, ...]
    base_lm: str
    figures: dict[str, float]
    """The condition's metrics, under the name that files have for them."""
    note: str
    scaled: bool = False
    """Whether there are scales among the tensors."""
    joined: Joined = "any"
    calibration: tuple[float, float] | None = None
