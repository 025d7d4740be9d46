"""Edits at several sites as one value: what one steering prompt is at all of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from hypersteer.edits.control_vector import SUFFIX, read_control_vector, write_control_vector
from hypersteer.edits.edit import FORMAT, Edit, described, directions, from_parts
from hypersteer.edits.foreign import SVEC, edits_of, read_svec
from hypersteer.edits.sites import Site
from hypersteer.errors import CheckpointError, SteeringError, shown
from hypersteer.files import output_file, path_of
from hypersteer.identity import model_type
from hypersteer.tensor_files import read_any, write_value
from hypersteer.values import as_whole

SET_FORMAT = "hypersteer-edits-1"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EditSet:
    """One edit at each of several sites; it stands wherever an edit does.

    Attributes:
        edits: the edits, by ascending site, no two at one.

    Raises:
        SteeringError: if there are none, two are at one site, or one is no edit.
    """

    edits: tuple[Edit, ...]

    __array_ufunc__ = None  # so that numpy leaves `number * edits` to us

    def __post_init__(self) -> None:
        for one in self.edits:
            if not isinstance(one, Edit):
                raise SteeringError(f"{shown(one)} is no edit; a set holds edits")
        if not self.edits:
            raise SteeringError("a set of edits is empty; give at least one")
        ordered = tuple(sorted(self.edits, key=lambda one: one.site))
        if len({one.site for one in ordered}) < len(ordered):
            raise SteeringError("two edits of a set are at one site; add them up first")
        object.__setattr__(self, "edits", ordered)

    def __repr__(self) -> str:
        """Say in a line what it is, without its numbers."""
        return f"<{len(self)} edits: {', '.join(map(repr, self.edits))}>"

    def __iter__(self) -> Iterator[Edit]:
        return iter(self.edits)

    def __len__(self) -> int:
        return len(self.edits)

    def __getitem__(self, number: int) -> Edit:
        return self.edits[number]

    @property
    def sites(self) -> tuple[Site, ...]:
        """Where the edits are."""
        return tuple(one.site for one in self.edits)

    @property
    def steering_prompt(self) -> str:
        """The text that they came from, or a note of the algebra that made them."""
        return self.edits[0].steering_prompt

    def __mul__(self, factor: float) -> "EditSet":
        return EditSet(edits=tuple(one * factor for one in self.edits))

    __rmul__ = __mul__

    def __neg__(self) -> "EditSet":
        return self * -1.0

    def __add__(self, other: "Edit | EditSet") -> "EditSet":
        return self._joined(other, 1.0)

    def __radd__(self, other: Edit) -> "EditSet":
        return EditSet(edits=(other,)) + self if isinstance(other, Edit) else NotImplemented

    def __sub__(self, other: "Edit | EditSet") -> "EditSet":
        return self._joined(other, -1.0)

    def __rsub__(self, other: Edit) -> "EditSet":
        return EditSet(edits=(other,)) - self if isinstance(other, Edit) else NotImplemented

    def _joined(self, other: "Edit | EditSet", sign: float) -> "EditSet":
        """Join site by site; what is at a site of one alone stays."""
        if not isinstance(other, (Edit, EditSet)):
            return NotImplemented
        joined = {one.site: one for one in self.edits}
        for one in parts_of(other):
            mine = joined.get(one.site)
            if mine is None:
                joined[one.site] = one if sign == 1 else -one
            else:
                joined[one.site] = mine + one if sign == 1 else mine - one
        return EditSet(edits=tuple(joined.values()))

    def save(self, path: str | Path) -> Path:
        """Write all edits to one file, through a temporary name.

        Args:
            path: a safetensors file, in which edit number i has its tensors under `i.`, such as
                `0.vector`. With the suffix `.gguf` it becomes a control vector of llama.cpp.

        Raises:
            SteeringError: if the file cannot be written, or an edit is no control vector.
        """
        path = output_file(path, "the file of the edits")
        header = {"format": SET_FORMAT, "edits": [described(one) for one in self.edits]}
        if path.suffix.lower() == SUFFIX:
            hint = model_type(self.edits[0].base_lm)
            return write_control_vector(path, directions(self.edits), hint, header)
        tensors = {
            f"{number}.{name}": value
            for number, one in enumerate(self.edits)
            for name, value in one.params.items()
        }
        return write_value(path, tensors, header, "edit")


def parts_of(edit: Any) -> tuple[Any, ...]:
    """Return the edits of a set, or the one edit, whatever else stands for one as it is."""
    return edit.edits if isinstance(edit, EditSet) else (edit,)


def load_edit(path: str | Path, *, layers: Sequence[int] | None = None) -> Edit | EditSet:
    """Read an edit, or a set of edits.

    Args:
        path: what `save` wrote; a control vector of llama.cpp or repeng (`.gguf`), whose direction
            N becomes an edit of block N; or a vector of CAST (`.svec`), whose layer N acts on the
            input of block N, so that it becomes an edit of block N - 1.
        layers: keep only the edits of these blocks, counted from 0 as sites are. Other tools write
            a vector for nearly every block, of which their users choose some.

    Raises:
        CheckpointError: if the file is missing, corrupt, not an edit, or one of an unknown kind, or
            has no edit of a block that is wanted.
    """
    path = path_of(path, "the edit", CheckpointError)
    found = _read(path)
    if layers is None:
        return found
    held = {one.site.layer for one in parts_of(found)}
    wanted = {as_whole(layer) for layer in layers} if isinstance(layers, Sequence) else set()
    if not wanted or not wanted <= held:
        raise CheckpointError(
            f"the edit '{path}' has edits of the blocks {sorted(held)}; choose some, not "
            f"layers={shown(layers)}"
        )
    return _one_or_set(path, [one for one in parts_of(found) if one.site.layer in wanted])


def _read(path: Path) -> Edit | EditSet:
    """Read all edits of a file."""
    suffix = path.suffix.lower()
    if suffix == SVEC:
        return _one_or_set(path, read_svec(path))
    if suffix == SUFFIX:
        found = read_control_vector(path)
        if isinstance(found.note, dict) and found.note.get("format") in (FORMAT, SET_FORMAT):
            return _noted(path, found.note, found.directions)
        return _one_or_set(path, edits_of(path, found.directions, found.model_type))
    header, tensors = read_any(path, (FORMAT, SET_FORMAT), "edit")
    if header["format"] == FORMAT:
        return from_parts(path, header, tensors)
    listed = _listed(path, header)
    return _set(path, [from_parts(path, one, _own(tensors, i)) for i, one in enumerate(listed)])


def _noted(path: Path, note: dict[str, Any], directions: dict[int, Tensor]) -> Edit | EditSet:
    """Return what `save` described in a control vector."""
    listed = [note] if note["format"] == FORMAT else _listed(path, note)
    found = []
    for one in listed:
        vector = directions.get(as_whole(one.get("layer", -1)))  # type: ignore[arg-type]
        found.append(from_parts(path, one, {} if vector is None else {"vector": vector}))
    if len(found) != len(directions):
        raise CheckpointError(f"the edit '{path}' has vectors that it does not describe")
    return found[0] if note["format"] == FORMAT else _set(path, found)


def _listed(path: Path, header: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what is said of each edit of a set."""
    listed = header.get("edits")
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise CheckpointError(f"the edit '{path}' lacks its edits; it is damaged")
    return listed


def _one_or_set(path: Path, edits: list[Edit]) -> Edit | EditSet:
    """Return one edit as it is, and several as a set."""
    return edits[0] if len(edits) == 1 else _set(path, edits)


def _set(path: Path, edits: list[Edit]) -> EditSet:
    try:
        return EditSet(edits=tuple(edits))
    except SteeringError as error:
        raise CheckpointError(f"the edit '{path}' is damaged: {error}") from error


def _own(tensors: dict[str, Tensor], number: int) -> dict[str, Tensor]:
    """Return the tensors of one edit of a set."""
    lead = f"{number}."
    return {name.removeprefix(lead): t for name, t in tensors.items() if name.startswith(lead)}
