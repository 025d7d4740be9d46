"""Edits: what is done to a hidden state at a site, as plain values.

The only edit kind so far is the steering vector, `h -> h + strength * vector`. An edit is made
by a hypernetwork or a baseline, lives in one safetensors file, and can be added, scaled and
subtracted. Nothing here knows a model: `hypersteer.lm` applies edits.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hypersteer.errors import CheckpointError, ConfigError, SteeringError, nearest, shown
from hypersteer.files import output_file, path_of
from hypersteer.identity import same_base_lm
from hypersteer.numeric import as_real, as_whole
from hypersteer.tensor_files import read_value, real_tensor, write_value
from hypersteer.texts import check_text

SiteKind = Literal["residual", "attention", "mlp"]
NamedScope = Literal["all", "prompt", "response", "last_prompt"]
Scope = NamedScope | tuple[bool, ...]
"""Which tokens an edit touches. `all` is the prompt and the response, not the fixed chat prefix
(BOS and system header). A tuple of booleans runs over the real tokens of prefix and prompt."""

FORMAT = "hypersteer-edit-1"


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
    """Whether a value is true or false, or the number 1 or 0."""
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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VectorEdit:
    """A steering vector for one site: `h -> h + strength * vector` on the tokens of `scope`.

    Attributes:
        vector: shape [D], float32, in units of the hidden states it is added to.
        site: where it acts.
        scope: which tokens it touches.
        base_lm: identity of the base LM it was made for; another base LM refuses it.
        steering_prompt: the text it came from, or a note of the algebra that made it.
        generator: hash of the hypernetwork that wrote it; empty if made otherwise.
    """

    vector: Float[Tensor, " D"]
    site: Site
    scope: Scope = "all"
    base_lm: str = ""
    steering_prompt: str = ""
    generator: str = ""

    kind = "vector"
    __array_ufunc__ = None  # so that numpy leaves `number * edit` to us

    def __post_init__(self) -> None:
        vector = real_tensor(self.vector, "a steering vector")
        if vector.ndim != 1:
            raise SteeringError(f"a steering vector has shape [D], not {list(vector.shape)}")
        vector = vector.detach().to("cpu", torch.float32, copy=True)
        if not bool(torch.isfinite(vector).all()):
            raise SteeringError("the steering vector holds NaN or infinite values; make it anew")
        object.__setattr__(self, "vector", vector)
        object.__setattr__(self, "scope", check_scope(self.scope))
        if not isinstance(self.site, Site):
            raise SteeringError(f"site {shown(self.site)} is no Site; give one such as Site(12)")
        for name in ("base_lm", "steering_prompt", "generator"):
            check_text(getattr(self, name), name)

    @property
    def norm(self) -> float:
        """Euclidean norm of the vector."""
        return float(self.vector.norm())

    def __mul__(self, factor: float) -> "VectorEdit":
        factor = check_strength(factor)
        note = f"{factor:g} * ({self.steering_prompt})"
        return replace(self, vector=self.vector * factor, steering_prompt=note)

    __rmul__ = __mul__

    def __neg__(self) -> "VectorEdit":
        return self * -1.0

    def __add__(self, other: "VectorEdit") -> "VectorEdit":
        return self._joined(other, 1.0, "+")

    def __sub__(self, other: "VectorEdit") -> "VectorEdit":
        return self._joined(other, -1.0, "-")

    def _joined(self, other: "VectorEdit", sign: float, symbol: str) -> "VectorEdit":
        if not isinstance(other, VectorEdit):
            return NotImplemented
        for name in ("site", "scope", "base_lm"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs and not (name == "base_lm" and same_base_lm(mine, theirs)):
                raise SteeringError(
                    f"edits with different {name} cannot be combined: {mine} and {theirs}"
                )
        if self.vector.shape != other.vector.shape:
            widths = f"{len(self.vector)} and {len(other.vector)}"
            raise SteeringError(f"edits of different width cannot be combined: {widths}")
        return replace(
            self,
            vector=self.vector + sign * other.vector,
            steering_prompt=f"({self.steering_prompt}) {symbol} ({other.steering_prompt})",
            generator=self.generator if self.generator == other.generator else "",
        )

    def save(self, path: str | Path) -> Path:
        """Write the edit to one safetensors file, through a temporary name.

        Raises:
            SteeringError: if the file cannot be written.
        """
        header = {
            "format": FORMAT,
            "kind": self.kind,
            "layer": self.site.layer,
            "site": self.site.kind,
            "scope": self.scope if isinstance(self.scope, str) else list(self.scope),
            "base_lm": self.base_lm,
            "steering_prompt": self.steering_prompt,
            "generator": self.generator,
        }
        path = output_file(path, "the file of the edit")
        return write_value(path, {"vector": self.vector}, header, "edit")


Edit = VectorEdit
"""Every kind of edit; a union once there is more than one."""
KINDS = (VectorEdit.kind,)


def load_edit(path: str | Path) -> Edit:
    """Read an edit that `save` wrote.

    Raises:
        CheckpointError: if the file is missing, corrupt, not an edit, or one of an unknown kind.
    """
    path = path_of(path, "the edit", CheckpointError)
    header, tensors = read_value(path, FORMAT, "edit")
    try:
        if header["kind"] not in KINDS:
            raise CheckpointError(
                f"the edit '{path}' is of the kind {shown(header['kind'])}, which this version "
                f"cannot apply{nearest(str(header['kind']), KINDS)}"
            )
        return VectorEdit(
            vector=tensors["vector"],
            site=Site(header["layer"], header["site"]),
            scope=check_scope(header["scope"]),
            base_lm=header["base_lm"],
            steering_prompt=header["steering_prompt"],
            generator=header["generator"],
        )
    except CheckpointError:
        raise
    except KeyError as error:
        raise CheckpointError(f"the edit '{path}' lacks {error}; it is damaged") from error
    except SteeringError as error:
        raise CheckpointError(f"the edit '{path}' is damaged: {error}") from error
