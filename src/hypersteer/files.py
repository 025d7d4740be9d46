"""Files: written whole or not at all, read in one way; names refused in time; where things lie."""

import errno
import importlib.resources
import json
import math
import os
import shutil
import tempfile
import uuid
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from hypersteer.errors import ConfigError, SteeringError, one_line, short
from hypersteer.values import json_of, lines_of

LONGEST_NAME, LONGEST_PATH = 255, 4096
"""Bytes that file systems take in one name, and in a path."""
SHOWN_NAME = 40
"""Characters of a file's name that its temporary name begins with."""
EDGE = 1 << 20
"""Bytes at both ends of a large file that, with its size, tell it from others."""
CACHE_VARIABLE = "HYPERSTEER_CACHE"
"""Names a folder for converted models and data, instead of the user's cache."""
CONDITION_HEAD = "condition_head.safetensors"
"""Beside a checkpoint: what writes conditions from words for the same base LM."""


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """Yield a name to write to, which takes the place of `path` when the context ends well.

    A folder may be made under that name too; it takes the place of nothing but an empty folder.
    Missing folders are made. A reader sees what was there before or the whole of what is new; after
    an error, what was there stays and nothing else is left.

    Raises:
        OSError: if it cannot be written, or is a device or a pipe: to root the system would let a
            file take the place of `/dev/null`.
    """
    if _is_special(path):
        raise FileExistsError(errno.EEXIST, "It is a device or a pipe, and no file", str(path))
    temporary = path.with_name(f".{path.name[:SHOWN_NAME]}.{uuid.uuid4().hex}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        # Of two links to one file the system renames none, and leaves both.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)  # if it is a folder


def is_temporary(path: Path) -> bool:
    """Return whether a file is one that `replacing` has yet to rename, or never will."""
    return path.name.startswith(".") and path.suffix == ".tmp"


def share_as_folder(path: Path) -> None:
    """Let those read and write a file who may do so in its folder; safetensors lets its owner only.

    Raises:
        OSError: if that cannot be changed.
    """
    path.chmod(path.parent.stat().st_mode & 0o666)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all.

    Raises:
        OSError: if it cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_text(path: Path) -> str:
    """Return a text file: UTF-8, with or without a byte-order mark, its line ends as they are.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is not UTF-8.
    """
    return path.read_bytes().decode("utf-8-sig")


def edges(path: Path) -> bytes:
    """Return the first and the last megabyte of a file, which are one where it is short.

    Raises:
        OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(EDGE)
        file.seek(max(0, path.stat().st_size - EDGE))
        return head + file.read(EDGE)


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file; see `read_text` and `hypersteer.values.lines_of`.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is not UTF-8.
    """
    return lines_of(read_text(path))


def each_line(path: Path) -> Iterator[str]:
    """Yield the lines of a text file as `read_lines` gives them, one at a time, for large files.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is not UTF-8.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file):
            yield (
                line.removesuffix(b"\n")
                .removesuffix(b"\r")
                .decode("utf-8" if number else "utf-8-sig")
            )


def read_json(path: Path) -> Any:
    """Return the value in a JSON file.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is not UTF-8, or no JSON; see `hypersteer.values.json_of`.
    """
    return json_of(read_text(path))


def path_of(name: object, what: str, error: type[SteeringError] = ConfigError) -> Path:
    """Return a path that was given as text, with `~` expanded; whether it exists is not asked.

    Args:
        name: a text or a path.
        what: what it is, such as `--out`; it begins the message.
        error: what to raise.

    Raises:
        SteeringError: of the given class, for what can be the name of no file: no text, a NUL
            byte, half a character, a name or a path that is too long, or `~` of an unknown user.
    """
    if not isinstance(name, (str, os.PathLike)):
        raise error(f"{what} is {short(name)}; expected a path as text")
    text = os.fspath(name)
    if isinstance(text, bytes):
        raise error(f"{what} {short(text)} is bytes; expected a path as text")
    if not text:
        raise error(f"{what} is empty; give a path")
    if "\0" in text:
        raise error(f"{what} {short(text)} holds a NUL character, which no path may have")
    try:
        longest, whole = max(len(part.encode()) for part in text.split("/")), len(text.encode())
    except UnicodeEncodeError as caught:
        raise error(f"{what} {short(text)} is not valid Unicode; give a path in UTF-8") from caught
    if longest > LONGEST_NAME or whole > LONGEST_PATH:
        bytes_, most = (longest, LONGEST_NAME) if longest > LONGEST_NAME else (whole, LONGEST_PATH)
        raise error(f"{what} {short(text)} is no path: it has {bytes_} bytes of at most {most}")
    try:
        return Path(text).expanduser()
    except RuntimeError as caught:
        raise error(
            f"{what} {short(text)}: there is no such user; write the folder out"
        ) from caught


def exists(path: Path) -> bool:
    """Return whether something is there; what cannot be looked at is not."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def is_file(path: Path) -> bool:
    """Return whether a file is there; what cannot be looked at is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Return whether a folder is there; what cannot be looked at is none."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def output_file(name: object, what: str) -> Path:
    """Return the path of a file that will be written; nothing is written yet.

    Raises:
        ConfigError: if it is no path, a folder, or lies where nothing can be written.
    """
    path = path_of(name, what)
    if not path.name or is_folder(path):
        raise ConfigError(f"{what} {name} is no name for a file, but a folder; give one in it")
    if _is_special(path):
        raise ConfigError(f"{what} {name} is a device or a pipe; give the name of a file")
    _check_place(path.parent, name, what)
    return path


def output_folder(name: object, what: str) -> Path:
    """Return the path of a folder that will be written into; nothing is written yet.

    Raises:
        ConfigError: if it is no path, a file, or lies where nothing can be written.
    """
    path = path_of(name, what)
    if exists(path) and not is_folder(path):
        raise ConfigError(f"{what} '{name}' is a file; give the name of a folder")
    if not exists(path):
        _check_place(path, name, what)
    elif not os.access(path, os.W_OK | os.X_OK):  # others may count the files that are in it
        raise ConfigError(f"{what} '{name}': no right to write there; choose another place")
    return path


def reason(error: OSError) -> str:
    """Return why the system refused, without the name of the file, as one line."""
    return error.strerror or one_line(error)


def _is_special(path: Path) -> bool:
    """Return whether something is there that is neither a file nor a folder."""
    return exists(path) and not is_file(path) and not is_folder(path)


def _check_place(folder: Path, name: object, what: str) -> None:
    """See that something can be made in a folder, or that the folder itself could be made.

    The rights tell too little: root has all of them, and still can make nothing in `/proc`. So a
    folder with a name of its own is made and removed again.
    """
    there = next((place for place in (folder, *folder.parents) if exists(place)), Path())
    if not is_folder(there):
        raise ConfigError(f"{what} '{name}' lies below the file '{there}'; choose another place")
    try:
        Path(tempfile.mkdtemp(prefix=".hypersteer-", dir=there)).rmdir()
    except OSError as error:
        raise ConfigError(
            f"{what} '{name}': cannot write to '{there}': {reason(error)}; choose another place"
        ) from error


def to_json(value: Any, *, indent: int | None = None, ensure_ascii: bool = True) -> str:
    """JSON text of a value; NaN and infinite numbers, which JSON has no words for, become null."""
    return json.dumps(finite(value), indent=indent, ensure_ascii=ensure_ascii, allow_nan=False)


def finite(value: Any) -> Any:
    """Return a value of JSON types with None for every number in it that is NaN or infinite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


def numbers(raw: Mapping[str, float | None]) -> dict[str, float]:
    """Named numbers as `to_json` wrote them: null is NaN again."""
    return {name: math.nan if value is None else value for name, value in raw.items()}


def package_data(*parts: str) -> Path:
    """Return a file or folder that ships with the package, by its path below it."""
    return Path(str(importlib.resources.files("hypersteer"))).joinpath(*parts)


def cache_folder() -> Path:
    """Return the folder of converted models and data: the user's cache, or `HYPERSTEER_CACHE`.

    Raises:
        ConfigError: if that variable holds no path.
    """
    override = os.environ.get(CACHE_VARIABLE)
    return path_of(override, CACHE_VARIABLE) if override else user_cache_path("hypersteer")


def holds_checkpoint(folder: Path) -> bool:
    """Return whether a folder holds what a checkpoint is made of."""
    return is_file(folder / "config.json") and is_file(folder / "model.safetensors")
