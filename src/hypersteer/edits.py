"""Edits: what is done to a hidden state at a site, as plain values.

The only edit kind so far is the steering vector, `h -> h + strength * vector`. An edit is made
by a hypernetwork or a baseline, lives in one safetensors file, and can be added, scaled and
subtracted. Nothing here knows a model: `hypersteer.lm` applies edits.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hypersteer.errors import CheckpointError, ConfigError, SteeringError, nearest, one_line
from hypersteer.files import replacing
from hypersteer.identity import same_base_lm

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
        if not isinstance(self.layer, int) or isinstance(self.layer, bool):
            raise ConfigError(f"layer {self.layer!r} is not a whole number")
        if self.kind not in get_args(SiteKind):
            raise ConfigError(
                f"unknown site kind {self.kind!r}{nearest(str(self.kind), get_args(SiteKind))}"
            )

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
    if isinstance(scope, Tensor):
        scope = scope.tolist()
    if isinstance(scope, Sequence) and scope and all(v in (0, 1) for v in scope):
        return tuple(bool(v) for v in scope)
    names = ", ".join(get_args(NamedScope))
    raise ConfigError(f"scope {scope!r} is neither one of {names} nor a non-empty boolean mask")


def check_strength(strength: object) -> float:
    """Return `strength` as a float.

    Raises:
        SteeringError: if it is not a finite number.
    """
    if isinstance(strength, bool) or not isinstance(strength, (int, float)):
        raise SteeringError(f"strength {strength!r} is not a number; 0 is the unsteered model")
    if not math.isfinite(strength):
        raise SteeringError(f"strength {strength} is not finite; try values from 0 to 2")
    return float(strength)


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

    def __post_init__(self) -> None:
        if self.vector.ndim != 1:
            raise SteeringError(f"a steering vector has shape [D], not {list(self.vector.shape)}")
        vector = self.vector.detach().to("cpu", torch.float32, copy=True)
        if not bool(torch.isfinite(vector).all()):
            raise SteeringError("the steering vector holds NaN or infinite values; make it anew")
        object.__setattr__(self, "vector", vector)
        object.__setattr__(self, "scope", check_scope(self.scope))

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
        return write_value(Path(path), {"vector": self.vector}, header, "edit")


Edit = VectorEdit
"""Every kind of edit; a union once there is more than one."""


def load_edit(path: str | Path) -> Edit:
    """Read an edit that `save` wrote.

    Raises:
        CheckpointError: if the file is missing, corrupt, or not an edit.
    """
    path = Path(path)
    header, tensors = read_value(path, FORMAT, "edit")
    try:
        return VectorEdit(
            vector=tensors["vector"],
            site=Site(header["layer"], header["site"]),
            scope=check_scope(header["scope"]),
            base_lm=header["base_lm"],
            steering_prompt=header["steering_prompt"],
            generator=header["generator"],
        )
    except KeyError as error:
        raise CheckpointError(f"the edit '{path}' lacks {error}; it is damaged") from error
    except SteeringError as error:
        raise CheckpointError(f"the edit '{path}' is damaged: {error}") from error


def write_value(path: Path, tensors: dict[str, Tensor], header: dict[str, Any], what: str) -> Path:
    """Write tensors and a JSON header to one safetensors file, through a temporary name.

    Args:
        path: the file; missing folders are made.
        tensors: what it holds.
        header: JSON values with a `format`, kept in the file's metadata under `what`.
        what: what the file is, such as `edit`.

    Raises:
        SteeringError: if the file cannot be written.
    """
    held = {name: tensor.contiguous() for name, tensor in tensors.items()}
    try:
        with replacing(path) as temporary:
            save_file(held, temporary, {what: json.dumps(header)})
    except (OSError, SafetensorError) as error:
        raise SteeringError(f"cannot write the {what} to '{path}': {one_line(error)}") from error
    return path


def read_value(path: Path, wanted: str, what: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the header and tensors of a file that `write_value` wrote.

    Raises:
        CheckpointError: if the file is missing, corrupt, or of another format.
    """
    if not path.is_file():
        raise CheckpointError(f"no {what} at '{path}'; give a .safetensors file written by save()")
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {}).get(what, "null"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"'{path}' is not a readable {what}: {one_line(error)}") from error
    if not isinstance(header, dict) or header.get("format") != wanted:
        raise CheckpointError(f"'{path}' is a safetensors file but not a {wanted} {what}")
    return header, tensors
