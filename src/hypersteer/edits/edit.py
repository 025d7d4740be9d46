"""An edit as a value: parameters of some kind, for one site; added, scaled, saved and loaded.

It is made by a hypernetwork or a baseline and lives in one safetensors file. Nothing here knows a
model: `hypersteer.lm.writers` applies edits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from hypersteer.edits.control_vector import SUFFIX, write_control_vector
from hypersteer.edits.kinds import EditKind
from hypersteer.edits.registry import KINDS
from hypersteer.edits.sites import Scope, Site, check_scope, check_strength
from hypersteer.edits.vector import VECTOR
from hypersteer.errors import CheckpointError, SteeringError, nearest, short, shown
from hypersteer.files import output_file
from hypersteer.identity import model_type, same_base_lm
from hypersteer.tensor_files import write_value
from hypersteer.values import check_text

FORMAT = "hypersteer-edit-1"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Edit:
    """What is done to hidden states at one site, on the tokens of a scope.

    Attributes:
        kind: how the parameters apply.
        params: the parameters of this edit, on the CPU.
        site: where it acts.
        scope: which tokens it touches.
        base_lm: identity of the base LM it was made for; another base LM refuses it. Files of other
            tools know a type of models at most, see `hypersteer.identity.of_type`; empty fits all.
        steering_prompt: the text it came from, or a note of the algebra that made it.
        generator: hash of the hypernetwork that wrote it; empty if made otherwise.

    Raises:
        SteeringError: if the parameters are not what the kind wants.
    """

    kind: EditKind
    params: Mapping[str, Tensor]
    site: Site
    scope: Scope = "all"
    base_lm: str = ""
    steering_prompt: str = ""
    generator: str = ""

    __array_ufunc__ = None  # so that numpy leaves `number * edit` to us

    def __post_init__(self) -> None:
        if not isinstance(self.kind, EditKind):
            raise SteeringError(f"kind {shown(self.kind)} is no kind of edit; try VECTOR")
        if not isinstance(self.params, Mapping):
            raise SteeringError(f"params {shown(self.params)} is no mapping of names to tensors")
        object.__setattr__(self, "params", self.kind.check(self.params))
        object.__setattr__(self, "scope", check_scope(self.scope))
        if not isinstance(self.site, Site):
            raise SteeringError(f"site {shown(self.site)} is no Site; give one such as Site(12)")
        for name in ("base_lm", "steering_prompt", "generator"):
            check_text(getattr(self, name), name)

    def __repr__(self) -> str:
        """Say in a line what it is, without its numbers."""
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in self.params.items())
        of = f" of {short(self.steering_prompt)}" if self.steering_prompt else ""
        return f"<{self.kind.name} edit{of}: {shapes}; {self.site}, scope {self.scope}>"

    @property
    def vector(self) -> Float[Tensor, " D"]:
        """The steering vector.

        Raises:
            AttributeError: if the edit is of another kind.
        """
        if "vector" not in self.params:
            raise AttributeError(
                f"an edit of the kind '{self.kind.name}' has no vector, but {sorted(self.params)}"
            )
        return self.params["vector"]

    @property
    def width(self) -> int:
        """Width D of the states that it is for."""
        return self.kind.width(self.params)

    @property
    def norm(self) -> float:
        """Euclidean norm of the vector."""
        return float(self.vector.norm())

    def __mul__(self, factor: float) -> "Edit":
        factor = check_strength(factor)
        note = f"{factor:g} * ({self.steering_prompt})"
        return replace(self, params=self.kind.scaled(self.params, factor), steering_prompt=note)

    __rmul__ = __mul__

    def __neg__(self) -> "Edit":
        return self * -1.0

    def __add__(self, other: "Edit") -> "Edit":
        return self._joined(other, 1.0, "+")

    def __sub__(self, other: "Edit") -> "Edit":
        return self._joined(other, -1.0, "-")

    def _joined(self, other: "Edit", sign: float, symbol: str) -> "Edit":
        if not isinstance(other, Edit):
            return NotImplemented
        for name in ("site", "scope", "base_lm"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs and not (name == "base_lm" and same_base_lm(mine, theirs)):
                raise SteeringError(
                    f"edits with different {name} cannot be combined: {mine} and {theirs}"
                )
        if self.kind is not other.kind:
            kinds = f"{self.kind.name} and {other.kind.name}"
            raise SteeringError(f"edits of different kinds cannot be combined: {kinds}")
        if self.width != other.width:
            widths = f"{self.width} and {other.width}"
            raise SteeringError(f"edits of different width cannot be combined: {widths}")
        theirs = other.params if sign == 1 else self.kind.scaled(other.params, sign)
        return replace(
            self,
            params=self.kind.summed(self.params, theirs),
            steering_prompt=f"({self.steering_prompt}) {symbol} ({other.steering_prompt})",
            generator=self.generator if self.generator == other.generator else "",
        )

    def save(self, path: str | Path) -> Path:
        """Write the edit to one file, through a temporary name.

        Args:
            path: a safetensors file, in which a steering vector is the tensor `vector` [D]. With
                the suffix `.gguf` it becomes a control vector of llama.cpp, see `directions`.

        Raises:
            SteeringError: if the file cannot be written, or the edit is no control vector.
        """
        path = output_file(path, "the file of the edit")
        header = {"format": FORMAT, **described(self)}
        if path.suffix.lower() == SUFFIX:
            return write_control_vector(path, directions([self]), model_type(self.base_lm), header)
        return write_value(path, dict(self.params), header, "edit")


def VectorEdit(*, vector: Any, site: Site, **about: Any) -> Edit:
    """Return a steering vector as an edit: `h -> h + strength * vector` on the tokens of its scope.

    Args:
        vector: shape [D], in units of the hidden states it is added to; kept in float32.
        site: where it acts.
        about: other fields of `Edit`: `scope` ("all"), `base_lm`, `steering_prompt`, `generator`.

    Raises:
        SteeringError: if the vector is none, or not finite.
    """
    return Edit(kind=VECTOR, params={"vector": vector}, site=site, **about)


def directions(edits: Sequence[Edit]) -> dict[int, Tensor]:
    """Return the vectors [D] of edits by their block, as llama.cpp takes them.

    It adds one vector to the output of any block but block 0, everywhere. An edit with the scope
    `all` is taken for one, although it spares the chat prefix and llama.cpp will not.

    Raises:
        SteeringError: for an edit that does something else.
    """
    for edit in edits:
        site, scope = edit.site, edit.scope if isinstance(edit.scope, str) else "of a mask"
        if edit.kind is not VECTOR:
            told = f"is of the kind '{edit.kind.name}', and a control vector only adds vectors"
        elif site.kind != "residual":
            told = f"acts at {site}, and a control vector on the output of whole blocks"
        elif site.layer < 0:
            told = f"acts at {site}; count blocks from 0, as lm.site({site.layer}) does, or"
        elif site.layer == 0:
            told = "acts on block 0, the one that llama.cpp cannot steer; take a block above, or"
        elif scope not in ("all", "everywhere"):
            told = f"has the scope {scope}, and llama.cpp steers everywhere; take that scope, or"
        else:
            continue
        joint = "" if told.endswith(" or") else ";"
        raise SteeringError(
            f"the edit {short(edit.steering_prompt)} {told}{joint} save it as .safetensors"
        )
    return {edit.site.layer: edit.vector for edit in edits}


def described(edit: Edit) -> dict[str, Any]:
    """Return all of an edit but its tensors, of JSON types."""
    return {
        "kind": edit.kind.name,
        "layer": edit.site.layer,
        "site": edit.site.kind,
        "scope": edit.scope if isinstance(edit.scope, str) else list(edit.scope),
        "base_lm": edit.base_lm,
        "steering_prompt": edit.steering_prompt,
        "generator": edit.generator,
    }


def from_parts(path: Path, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Edit:
    """Return the edit that `described` and its tensors make.

    Args:
        path: the file that they are from, for messages.
        header: what `described` gave.
        tensors: its parameters.

    Raises:
        CheckpointError: if they make none, or one of an unknown kind.
    """
    try:
        kind = header["kind"]
        if not isinstance(kind, str) or kind not in KINDS:
            raise CheckpointError(
                f"the edit '{path}' is of the kind {shown(kind)}, which this version cannot "
                f"apply{nearest(str(kind), KINDS)}"
            )
        return Edit(
            kind=KINDS[kind],
            params=tensors,
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
