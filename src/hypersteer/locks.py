"""What one process works on: a folder, where the next is told at once, or a file to take turns."""

import os
import socket
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

from hypersteer.errors import ConfigError
from hypersteer.files import read_json, to_json, write_text

LOCK, HOLDER = ".in-use.lock", ".in-use.json"
"""What the operating system locks, and who did: process, host and time. Gone afterwards."""

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


def hold(folder: Path) -> Hold:
    """Have a folder to oneself; it is made if it is not there.

    The operating system's lock goes with its process, so one that was killed leaves the folder
    free. File systems whose locks do not reach other hosts are served by signs of life.

    Raises:
        ConfigError: if another process, or another thread of this one, works in the folder.
        OSError: if it cannot be written.
    """
    made = _make(folder)
    lock = FileLock(folder / LOCK, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise _in_use(folder, _holder(folder)) from None
    except NotImplementedError as error:  # older releases of filelock, on a system without locks
        raise OSError(str(error)) from error
    try:
        holder = _holder(folder)
        if holder.get("host") not in (None, socket.gethostname()) and _age(folder) < SILENT_S:
            raise _in_use(folder, holder)
        own = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}
        write_text(folder / HOLDER, to_json(own))
    except BaseException:
        lock.release()
        _remove_empty(made)
        raise
    return Hold(folder, lock, made)


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
    try:
        try:
            held.acquire(timeout=0)
        except Timeout:
            busy()
            held.acquire()
    except NotImplementedError as error:  # older releases of filelock, on a system without locks
        raise OSError(str(error)) from error
    try:
        yield
    finally:
        held.release()


def is_empty(folder: Path) -> bool:
    """Return whether a folder is missing, or holds only what a killed holder left."""
    if not folder.is_dir():
        return True
    return all(path.name in (LOCK, HOLDER) for path in folder.iterdir())


def _in_use(folder: Path, holder: dict[str, object]) -> ConfigError:
    since = holder.get("since")
    who = f"process {holder.get('pid')} on {holder.get('host')}" if holder else "another process"
    when = ""
    if isinstance(since, (int, float)):
        when = f" since {datetime.fromtimestamp(since):%Y-%m-%d %H:%M:%S}"
    return ConfigError(
        f"'{folder}' is in use by {who}{when}; wait until it has ended, or choose another 'out'"
    )


def _holder(folder: Path) -> dict[str, object]:
    """Return what the holder says of itself; empty if it has not yet, or half."""
    try:
        found = read_json(folder / HOLDER)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _age(folder: Path) -> float:
    """Seconds since the holder's last sign of life, by the clock of the file system."""
    now = folder / LOCK
    try:
        os.utime(now)
        return now.stat().st_mtime - (folder / HOLDER).stat().st_mtime
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
