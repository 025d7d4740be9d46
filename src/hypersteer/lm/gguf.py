"""GGUF base LMs: find one inside an installed package, and keep its converted form."""

import hashlib
import importlib.util
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from hypersteer.config import cache_folder
from hypersteer.errors import ModelError, SteeringError, one_line
from hypersteer.lm.weights import load_weights

FORMAT = 1
"""Raised when the converted form changes, so that old ones are not read."""


def packaged_gguf(package: str, file: str) -> Path | None:
    """Path of a GGUF file shipped in a Python package, found without importing the package."""
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations if spec else None) or ():
        if (path := Path(folder) / file).is_file():
            return path
    return None


def converted(path: Path) -> str:
    """Folder with the float32 safetensors form of a GGUF file, made on first use.

    De-quantising takes about half a minute; the result is kept in the user's cache folder
    (`HYPERSTEER_CACHE` overrides it), keyed by the file's size and its first and last megabyte.

    Raises:
        ModelError: if the file is damaged or the cache cannot be written.
    """
    folder = cache_folder() / "models" / f"{path.stem}-{_key(path)}"
    if not (folder / "config.json").is_file():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
                _convert(path, Path(scratch) / "model")
                _move(Path(scratch) / "model", folder)
        except SteeringError:
            raise
        except Exception as error:  # readers of damaged files raise all kinds
            raise ModelError(f"cannot convert '{path}': {one_line(error)}") from error
    return str(folder)


def _move(source: Path, target: Path) -> None:
    """Rename a folder, unless another process has put the same one there meanwhile."""
    try:
        source.rename(target)
    except OSError:
        if not (target / "config.json").is_file():
            raise


def _key(path: Path, edge: int = 1 << 20) -> str:
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(edge)
        file.seek(max(0, size - edge))
        tail = file.read(edge)
    return hashlib.sha256(repr((FORMAT, size)).encode() + head + tail).hexdigest()[:12]


def _convert(path: Path, folder: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    loaded = load_weights(path.parent, dtype=torch.float32, gguf_file=path.name)
    config: Any = loaded.config
    # transformers refuses to save what it calls quantised, though all weights are float32 by now.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = type(loaded)(config)
    plain.load_state_dict(loaded.state_dict())
    plain.generation_config = loaded.generation_config
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
