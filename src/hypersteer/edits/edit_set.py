"""Edits at several sites as one value: what one steering prompt is at all of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from hypersteer.edits.edit import FORMAT, Edit, described, from_parts
from hypersteer.edits.sites import Site
from hypersteer.errors import CheckpointError, SteeringError, shown
from hypersteer.files import output_file, path_of
from hypersteer.tensor_files import read_any, write_value

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
        """Write all edits to one safetensors file, through a temporary name.

        Raises:
            SteeringError: if the file cannot be written.
        """
        header = {"format": SET_FORMAT, "edits": [described(one) for one in self.edits]}
        tensors = {
            f"{number}.{name}": value
            for number, one in enumerate(self.edits)
            for name, value in one.params.items()
        }
        return write_value(output_file(path, "the file of the edits"), tensors, header, "edit")


def parts_of(edit: Any) -> tuple[Any, ...]:
    """Return the edits of a set, or the one edit, whatever else stands for one as it is."""
    return edit.edits if isinstance(edit, EditSet) else (edit,)


def load_edit(path: str | Path) -> Edit | EditSet:
    """Read an edit, or a set of edits, that `save` wrote.

    Raises:
        CheckpointError: if the file is missing, corrupt, not an edit, or one of an unknown kind.
    """
    path = path_of(path, "the edit", CheckpointError)
    header, tensors = read_any(path, (FORMAT, SET_FORMAT), "edit")
    if header["format"] == FORMAT:
        return from_parts(path, header, tensors)
    listed = header.get("edits")
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise CheckpointError(f"the edit '{path}' lacks its edits; it is damaged")
    try:
        return EditSet(
            edits=tuple(
                from_parts(path, one, _own(tensors, number)) for number, one in enumerate(listed)
            )
        )
    except CheckpointError:
        raise
    except SteeringError as error:
        raise CheckpointError(f"the edit '{path}' is damaged: {error}") from error


def _own(tensors: dict[str, Tensor], number: int) -> dict[str, Tensor]:
    """Return the tensors of one edit of a set."""
    lead = f"{number}."
    return {name.removeprefix(lead): t for name, t in tensors.items() if name.startswith(lead)}
