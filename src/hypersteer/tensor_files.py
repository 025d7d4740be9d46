"""Values that live in one safetensors file: tensors, and a JSON header that says what they are."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hypersteer.errors import CheckpointError, SteeringError, one_line, shown
from hypersteer.files import is_file, reason, replacing, share_as_folder
from hypersteer.values import json_of


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
            share_as_folder(temporary)
    except (OSError, SafetensorError) as error:
        told = reason(error) if isinstance(error, OSError) else one_line(error)
        raise SteeringError(f"cannot write the {what} to '{path}': {told}") from error
    return path


def read_value(path: Path, wanted: str, what: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the header and tensors of a file that `write_value` wrote.

    Raises:
        CheckpointError: if the file is missing, corrupt, or of another format.
    """
    return read_any(path, (wanted,), what)


def read_any(
    path: Path, wanted: Sequence[str], what: str
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read what is in one of several formats; see `read_value`."""
    if not is_file(path):
        raise CheckpointError(f"no {what} at '{path}'; give a .safetensors file written by save()")
    try:
        with safe_open(path, "pt") as file:
            header = json_of((file.metadata() or {}).get(what, "null"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    # Torch has no type for some tensors of safetensors, and says so in several ways.
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"'{path}' is not a readable {what}: {one_line(error)}") from error
    if not isinstance(header, dict) or header.get("format") not in wanted:
        raise CheckpointError(f"'{path}' is a safetensors file but not a {wanted[0]} {what}")
    return header, tensors


def real_tensor(value: Any, what: str) -> Tensor:
    """Return a tensor of real numbers, from a tensor, an array or a list.

    Raises:
        SteeringError: if it is none.
    """
    try:
        found = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise SteeringError(f"{what} holds real numbers, not {shown(value)}") from error
    if found.is_complex():
        raise SteeringError(f"{what} holds real numbers, not {found.dtype}")
    return found
