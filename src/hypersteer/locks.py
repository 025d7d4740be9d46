"""What one process has to itself: a folder, where the next is told; a unit of work; or its turn."""

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

from hypersteer.errors import ConfigError
from hypersteer.files import is_temporary, read_json, to_json, write_text

LOCK, HOLDER = ".in-use.lock", ".in-use.json"
"""What the operating system locks, and who did: process, host and time. Gone afterwards."""
SHARED = ".shared"
"""Where processes that share the work in a folder meet; see `hypersteer.sharing`."""

BEAT_S, SILENT_S = 15.0, 120.0
"""The holder gives a sign of life so often; on another host, none for so long means it is gone."""


class Hold:
    """A folder that this process has to itself until the hold is released; see `hold`."""

    def __init__(self, folder: Path, lock: FileLock, made: list[Path]) -> None:
        self._folder, self._lock, self._made = folder, lock, made
        self._done = threading.Event()
        threading.Thread(target=_beat, args=(folder / HOLDER, self._done), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Leave the folder to others; one that was made for nothing is gone again."""
        self._done.set()
        try:
            for name in (HOLDER, LOCK):
                with suppress(OSError):
                    (self._folder / name).unlink()
        finally:
            self._lock.release()
        _remove_empty(self._made)


def hold(folder: Path, work: str = "") -> Hold:
    """Have a folder to oneself; it is made if it is not there.

    The operating system's lock goes with its process, so one that was killed leaves the folder
    free. File systems whose locks do not reach other hosts are served by signs of life.

    Args:
        folder: the folder.
        work: what is done in it, for those that would share it; see `work_in`.

    Raises:
        ConfigError: if another process, or another thread of this one, works in the folder.
        OSError: if it cannot be written.
    """
    made = _make(folder)
    try:
        lock = _lock(folder / LOCK, folder / HOLDER, {"work": work})
    except BaseException:
        _remove_empty(made)
        raise
    if lock is None:
        raise _in_use(folder, _read(folder / HOLDER))
    return Hold(folder, lock, made)


def work_in(folder: Path) -> str | None:
    """Return what a folder's holder does there, "" if alone; None if nobody has said so yet."""
    work = _read(folder / HOLDER).get("work")
    return work if isinstance(work, str) else None


class Claim:
    """A unit of work that this process has to itself until it is released; see `claim`."""

    def __init__(self, holder: Path, lock: FileLock) -> None:
        self._holder, self._lock = holder, lock

    def beat(self) -> None:
        """Give a sign of life; due every `BEAT_S`."""
        with suppress(OSError):
            os.utime(self._holder)

    def release(self) -> None:
        """Leave the unit to others."""
        with suppress(OSError):
            self._holder.unlink()
        self._lock.release()


def claim(folder: Path, unit: str) -> Claim | None:
    """Have a unit of work to oneself, or None if another process, or thread, has it.

    It goes with its process, as `hold` does. The file that is locked stays, since another may have
    opened it, and would lock one that is gone.

    Args:
        folder: where claims are kept; made if it is not there.
        unit: its name, which can be the name of a file.

    Raises:
        OSError: if the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    holder = folder / f"{unit}.json"
    try:
        lock = _lock(folder / f"{unit}.lock", holder, {})
    except FileNotFoundError:  # whoever finished the work has cleared the folder away just now
        return None
    return None if lock is None else Claim(holder, lock)


def claimed(folder: Path) -> list[str]:
    """Return units that somebody has claimed and not released, the dead included."""
    return sorted(path.stem for path in folder.glob("*.json"))


def now(folder: Path) -> float:
    """Return the time by the clock of the file system that a folder is on.

    Raises:
        OSError: if it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f".{uuid.uuid4().hex}"
    file.touch()
    try:
        return file.stat().st_mtime
    finally:
        file.unlink()


@contextmanager
def turn(lock: Path, busy: Callable[[], object]) -> Generator[None]:
    """Have one's turn with what a file stands for: one process, and one thread of it, at a time.

    The file itself stays, since who waits for it would otherwise wait for one that is gone.

    Args:
        lock: the file; it and its folders are made.
        busy: called once if another has its turn. It may raise; else the turn is waited for.

    Raises:
        OSError: if the file cannot be made or locked.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(lock, thread_local=False)
    if not _acquired(held):
        busy()
        held.acquire()
    try:
        yield
    finally:
        held.release()


def is_empty(folder: Path) -> bool:
    """Return whether a folder is missing, or holds only what a killed holder left."""
    if not folder.is_dir():
        return True
    left = (LOCK, HOLDER, SHARED)
    return all(path.name in left or is_temporary(path) for path in folder.iterdir())


def _in_use(folder: Path, holder: dict[str, object]) -> ConfigError:
    since = holder.get("since")
    who = f"process {holder.get('pid')} on {holder.get('host')}" if holder else "another process"
    when = ""
    if isinstance(since, (int, float)):
        when = f" since {datetime.fromtimestamp(since):%Y-%m-%d %H:%M:%S}"
    return ConfigError(
        f"'{folder}' is in use by {who}{when}; wait until it has ended, or choose another 'out'"
    )


def _lock(file: Path, holder: Path, more: dict[str, object]) -> FileLock | None:
    """Lock a file and say who did, and more; None if another has locked it, here or elsewhere."""
    lock = FileLock(file, thread_local=False)
    if not _acquired(lock):
        return None
    try:
        host = socket.gethostname()
        if _read(holder).get("host") not in (None, host) and _age(file, holder) < SILENT_S:
            lock.release()
            return None
        own = {"pid": os.getpid(), "host": host, "since": time.time()}
        write_text(holder, to_json(own | more))
    except BaseException:
        lock.release()
        raise
    return lock


def _acquired(lock: FileLock) -> bool:
    """Try to lock, without waiting; return whether nobody else has.

    Raises:
        OSError: if the file cannot be made, or the system has no locks.
    """
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    except NotImplementedError as error:  # older releases of filelock, on a system without locks
        raise OSError(str(error)) from error
    return True


def _read(holder: Path) -> dict[str, object]:
    """Return what a holder says of itself; empty if it has not yet, or half."""
    try:
        found = read_json(holder)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _age(lock: Path, holder: Path) -> float:
    """Seconds since a holder's last sign of life, by the clock of the file system."""
    try:
        os.utime(lock)
        return lock.stat().st_mtime - holder.stat().st_mtime
    except FileNotFoundError:
        return float("inf")


def _beat(file: Path, done: threading.Event) -> None:
    while not done.wait(BEAT_S):
        with suppress(OSError):
            os.utime(file)


def _make(folder: Path) -> list[Path]:
    """Make a folder; those that were not there, the innermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _remove_empty(made: list[Path]) -> None:
    for folder in made:
        if not is_empty(folder):
            return
        with suppress(OSError):
            folder.rmdir()
