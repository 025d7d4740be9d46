"""Where an edit acts, and how strongly: sites, scopes and strengths, checked."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from torch import Tensor

from hypersteer.errors import ConfigError, SteeringError, nearest, shown
from hypersteer.values import as_real, as_whole

SiteKind = Literal["residual", "attention", "mlp"]
NamedScope = Literal["all", "everywhere", "prompt", "response", "last_prompt", "prompt_ends"]
Scope = NamedScope | tuple[bool, ...]
"""Which tokens an edit touches. `all` is the prompt and the response, not the fixed chat prefix
(BOS and system header); `everywhere` is that as well, as llama.cpp, repeng and CAST steer.
`prompt_ends` is the first two and the last two tokens of the prompt (PrOSV, arXiv 2605.05983), so
that nothing is written while decoding. A tuple of booleans runs over the real tokens of prefix and
prompt."""


@dataclass(frozen=True, slots=True, order=True)
class Site:
    """Where an edit acts.

    Attributes:
        layer: index of the decoder block, from 0; a negative index counts from the last block.
        kind: `residual` (block output), `attention` or `mlp` (sub-layer output, before it is
            added to the residual stream).

    Raises:
        ConfigError: for an unknown kind, or a layer that is no whole number.
    """

    layer: int
    kind: SiteKind = "residual"

    def __post_init__(self) -> None:
        layer = as_whole(self.layer)
        if layer is None:
            raise ConfigError(f"layer {shown(self.layer)} is not a whole number")
        object.__setattr__(self, "layer", layer)
        if not isinstance(self.kind, str) or self.kind not in get_args(SiteKind):
            known = nearest(str(self.kind), get_args(SiteKind))
            raise ConfigError(f"unknown site kind {shown(self.kind)}{known}")

    def __str__(self) -> str:
        return f"{self.kind}@{self.layer}"


def check_scope(scope: object) -> Scope:
    """Return `scope` if it is a named scope or a mask, as an immutable value.

    Raises:
        ConfigError: for an unknown name, an empty mask, or anything else.
    """
    if isinstance(scope, str):
        for name in get_args(NamedScope):
            if scope == name:
                return name
        raise ConfigError(f"unknown scope {scope!r}{nearest(scope, get_args(NamedScope))}")
    mask: Any = scope.tolist() if isinstance(scope, (Tensor, np.ndarray)) else scope
    if isinstance(mask, Sequence) and mask and all(_is_flag(v) for v in mask):
        return tuple(bool(v) for v in mask)
    names = ", ".join(get_args(NamedScope))
    raise ConfigError(
        f"scope {shown(scope)} is neither one of {names} nor a non-empty boolean mask"
    )


def _is_flag(value: object) -> bool:
    """Return whether a value is true or false, or the number 1 or 0."""
    return isinstance(value, (bool, np.bool_)) or as_real(value) in (0, 1)


def check_strength(strength: object) -> float:
    """Return `strength` as a float.

    Raises:
        SteeringError: if it is not a finite number.
    """
    number = as_real(strength)
    if number is None:
        raise SteeringError(f"strength {shown(strength)} is not a number; 0 is the unsteered model")
    if not math.isfinite(number):
        raise SteeringError(f"strength {number} is not finite; try values from 0 to 2")
    return number
