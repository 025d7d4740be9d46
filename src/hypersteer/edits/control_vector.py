"""Control vectors of llama.cpp, in GGUF files: one vector per decoder block.

`direction.N` is added to the output of block N, counted from 0, as in repeng, whose files these
are too. llama.cpp can steer every block but block 0: its buffer begins with block 1
(`llama_set_adapter_cvec` in llama.h). It reads no metadata, so what else an edit is can lie there.

Files are written by the `gguf` package and read here, since its reader goes on for ever where a
damaged file announces an array of 2^60 numbers.
"""

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hypersteer.errors import CheckpointError, SteeringError, one_line, shown
from hypersteer.files import is_file, reason, replacing
from hypersteer.values import json_of

SUFFIX = ".gguf"
ARCHITECTURE = "controlvector"
HINT = f"{ARCHITECTURE}.model_hint"
COUNT = f"{ARCHITECTURE}.layer_count"
NOTE = "hypersteer.edit"
"""Key of what we add: all of an edit but its vector, as JSON."""
DIRECTION = "direction."
UNKNOWN = "unknown"
"""Stands for no type of models: repeng takes no file without one."""

SCALARS = dict(zip((*range(8), 10, 11, 12), "BbHhIif?Qqd", strict=True))
"""GGUF's numbers of types, and how `struct` calls them."""
TEXT, ARRAY = 8, 9
FLOATS = {0: "<f4", 1: "<f2", 28: "<f8"}
"""ggml's numbers of types, and how numpy calls them; others are integers or packed."""
MOST_DIMENSIONS = 4


class ControlVector(NamedTuple):
    """What a file holds.

    Attributes:
        directions: vectors [D] by the block to whose output they are added, counted from 0.
        model_type: of the model that they are for, as its file says; may be empty.
        note: what `write_control_vector` was given; None where others wrote the file.
    """

    directions: dict[int, Tensor]
    model_type: str
    note: Any


def write_control_vector(
    path: Path, directions: Mapping[int, Tensor], model_type: str, note: Mapping[str, Any]
) -> Path:
    """Write a control vector, through a temporary name.

    Args:
        path: the file; missing folders are made.
        directions: vectors [D] by block, none of block 0.
        model_type: what Hugging Face calls the architecture, such as `llama`; empty for unknown.
        note: JSON values, kept for who reads it again.

    Raises:
        SteeringError: if the file cannot be written.
    """
    import gguf  # here, since everything that knows edits imports this module

    try:
        with replacing(path) as temporary:
            writer = gguf.GGUFWriter(temporary, ARCHITECTURE)
            try:
                writer.add_string(HINT, model_type or UNKNOWN)
                writer.add_uint32(COUNT, len(directions))
                writer.add_string(NOTE, json.dumps(note))
                for layer, vector in sorted(directions.items()):
                    writer.add_tensor(f"{DIRECTION}{layer}", vector.float().numpy())
                writer.write_header_to_file()
                writer.write_kv_data_to_file()
                writer.write_tensors_to_file()
            finally:
                writer.close()
    except OSError as error:
        raise SteeringError(f"cannot write the edit to '{path}': {reason(error)}") from error
    return path


def read_control_vector(path: Path) -> ControlVector:
    """Read a control vector of ours, of repeng, or of llama.cpp.

    Raises:
        CheckpointError: if the file is missing, damaged, or no control vector.
    """
    if not is_file(path):
        raise CheckpointError(f"no edit at '{path}'; give a control vector, or what save() wrote")
    try:
        with path.open("rb") as file:
            return _read(_Cursor(file, path.stat().st_size))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"'{path}' is not a readable control vector: {one_line(error)}"
        ) from error


class _Cursor:
    """A place in a file, from which nothing can be read beyond the end."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size

    def take(self, size: int) -> bytes:
        """Return the next bytes.

        Raises:
            ValueError: if there are not so many.
        """
        if size > self._size - self._file.tell():
            raise ValueError("it is cut off, or damaged")
        return self._file.read(size)

    def number(self, code: str) -> Any:
        """Return the next number, of a type as `struct` calls it."""
        return struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]

    def text(self) -> str:
        """Return the next text."""
        return self.take(self.number("Q")).decode()

    def value(self, kind: int) -> Any:
        """Return the next value of a type as GGUF calls it; None for an array, which is skipped."""
        if kind == TEXT:
            return self.text()
        if kind != ARRAY:
            return self.number(_code(kind))
        kind, count = self.number("I"), self.number("Q")
        if kind != TEXT:
            self.take(count * struct.calcsize(f"<{_code(kind)}"))
            return None
        for _ in range(count):
            self.text()
        return None

    def align(self, step: int) -> int:
        """Return the next place that is a multiple of a step."""
        return -(-self._file.tell() // step) * step

    def go(self, place: int) -> None:
        """Go to a place.

        Raises:
            ValueError: if the file ends before it.
        """
        if place > self._size:
            raise ValueError("it is cut off, or damaged")
        self._file.seek(place)


def _code(kind: int) -> str:
    if kind not in SCALARS:
        raise ValueError(f"a value is of the type {kind}, which GGUF does not have")
    return SCALARS[kind]


def _read(at: _Cursor) -> ControlVector:
    """Read a file from its beginning.

    Raises:
        ValueError: if it is no control vector.
    """
    if at.take(4) != b"GGUF":
        raise ValueError("it is no GGUF file")
    if (version := at.number("I")) not in (2, 3):
        raise ValueError(f"it is of GGUF's version {version}, not 2 or 3")
    tensors, values = at.number("Q"), at.number("Q")
    found = {}
    for _ in range(values):
        name, kind = at.text(), at.number("I")
        found[name] = at.value(kind)
    if (architecture := found.get("general.architecture")) != ARCHITECTURE:
        raise ValueError(f"its architecture is {shown(architecture)}, not '{ARCHITECTURE}'")
    directions = _directions(at, tensors, found.get("general.alignment", 32))
    note = found.get(NOTE)
    hint = found.get(HINT, "")
    return ControlVector(
        directions,
        hint if isinstance(hint, str) and hint != UNKNOWN else "",
        json_of(note) if isinstance(note, str) else None,
    )


def _directions(at: _Cursor, count: int, alignment: object) -> dict[int, Tensor]:
    """Read the vectors, the cursor being at what tells of them.

    Raises:
        ValueError: for a tensor that is none.
    """
    if not isinstance(alignment, int) or alignment < 1:
        raise ValueError(f"its alignment is {shown(alignment)}")
    told = [_told(at) for _ in range(count)]
    start = at.align(alignment)
    found: dict[int, Tensor] = {}
    for layer, dtype, size, offset in told:
        if layer in found:
            raise ValueError(f"block {layer} has two directions")
        at.go(start + offset)
        values = np.frombuffer(at.take(size * np.dtype(dtype).itemsize), dtype)
        found[layer] = torch.from_numpy(values.astype(np.float32))
    if not found:
        raise ValueError(f"it has no tensor {DIRECTION}N")
    if len(widths := {len(vector) for vector in found.values()}) > 1:
        raise ValueError(f"its directions have different widths: {sorted(widths)}")
    return found


def _told(at: _Cursor) -> tuple[int, str, int, int]:
    """Return block, type, width and place of the next vector.

    Raises:
        ValueError: for a tensor that is none.
    """
    name, dimensions = at.text(), at.number("I")
    number = name.removeprefix(DIRECTION)
    if name == number or not (number.isascii() and number.isdecimal()):
        raise ValueError(f"its tensor {shown(name)} is no {DIRECTION}N")
    if dimensions > MOST_DIMENSIONS:
        raise ValueError(f"{name} has {dimensions} dimensions")
    shape = [at.number("Q") for _ in range(dimensions)]
    kind, offset = at.number("I"), at.number("Q")
    if kind not in FLOATS:
        raise ValueError(f"{name} is of ggml's type {kind}; llama.cpp takes F32")
    size = math.prod(shape)
    if size != max(shape, default=0):
        raise ValueError(f"{name} has the shape {shape[::-1]}, not [D]")
    return int(number), FLOATS[kind], size, offset
