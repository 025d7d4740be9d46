"""Work that several processes share by a folder: each unit is done once, by whoever is free.

The folder is the only place where they meet, so they may run on any machines that see it, join
late, and die: a unit that was claimed by a process that is gone is taken over, and so is the part
that one of them does for all (`Share.finish`). No process is special, and none waits for another
while it has a claim.
"""

import hashlib
import json
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from socket import gethostname
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from hypersteer import locks
from hypersteer.errors import ConfigError, SteeringError
from hypersteer.files import read_json, to_json, write_text
from hypersteer.locks import SHARED, Claim, Hold, claim, claimed, hold, now, work_in

U = TypeVar("U")

PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
"""How long to wait before others are looked at again: doubling while nothing changes."""
NAMELESS_S = 60.0
"""How long a holder may take to say what it does in a folder: long, where disks are busy."""


class Share:
    """One process's share in the work that is done in a folder, as a context manager.

    Alone, it holds the folder, and every unit is its own. Where it shares, one process holds the
    folder and others with the same work join it; who holds it matters only to those who do not
    share, and who are told that it is in use.

    Args:
        folder: where the work is done.
        work: what is done, all settings of it that a result depends on; None for a process that
            works alone. Processes whose work differs do not share.

    Attributes:
        began: when, by the clock of the folder's file system; never, for a process alone.

    Raises:
        ConfigError: if the folder is in use by a process that does not share this work.
        OSError: if it cannot be written.
    """

    def __init__(self, folder: Path, work: str | None) -> None:
        self._folder, self._work = folder, work
        self._claims: dict[str, Claim] = {}
        self._seats: dict[str, Claim] = {}
        self._hold: Hold | None = None
        self._busy = False
        self._ended = threading.Event()
        self._earlier = self._marker().get("run")
        self._attend()
        try:
            self.began = float("inf") if work is None else now(folder / SHARED)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        if work is not None:
            threading.Thread(target=self._beat, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, SteeringError) and self._busy and self._work is not None:
            error.of_one_process = True
        self._ended.set()
        for mine in (*self._claims.values(), *self._seats.values()):
            mine.release()
        # Who came late to a unit may have claimed it after the folder was cleared away.
        if self._finished() is not None and work_in(self._folder) in (None, self._work):
            shutil.rmtree(self._units, ignore_errors=True)
        for path in (self._units, self._folder / SHARED):
            with suppress(OSError):
                path.rmdir()
        if self._hold is not None:
            self._hold.release()

    @property
    def holds(self) -> bool:
        """Whether this process is the one that holds the folder."""
        return self._hold is not None

    def stage(
        self, units: Sequence[U], name: Callable[[U], str], done: Callable[[U], bool]
    ) -> "Stage[U]":
        """Return a stage of the work, whose units are done one by one, by any process.

        Args:
            units: what there is to do; the same in all processes, in any order.
            name: of a unit, unique in the folder; it can be the name of a file.
            done: whether a unit's result is in the folder.
        """
        return Stage(self, units, name, done)

    def seat(self, name: str) -> bool:
        """Return whether this process has a seat that one process of a machine has, to its end.

        Args:
            name: what only one of them needs, such as an engine that takes all cores.
        """
        if self._work is None or name in self._seats:
            return True
        found = claim(self._folder / SHARED / "seats", f"{name}.{gethostname()}")
        if found is not None:
            self._seats[name] = found
        return found is not None

    def finish(self, work: Callable[[], dict[str, str]]) -> dict[str, str]:
        """Have one of the processes do what is done once, when all units are; wait for it.

        Should it die, another does it.

        Args:
            work: what to do; it says in texts where the results are.

        Returns:
            what it said, in whatever process.

        Raises:
            ConfigError: if the folder has been taken by a process that does not share this work.
        """
        pauses = _Pauses()
        while True:
            if (found := self._finished()) is not None:
                return found
            self._attend()
            if self._hold is not None and self._all_released():
                # Who held the folder before may have finished just now.
                return self._finished() or self._finish(work)
            pauses.wait()

    def _finish(self, work: Callable[[], dict[str, str]]) -> dict[str, str]:
        result = work()
        if self._work is not None:
            told = {"run": uuid.uuid4().hex, "work": self._work, "result": result}
            write_text(self._folder / SHARED / "finished.json", to_json(told))
            shutil.rmtree(self._units, ignore_errors=True)
        return result

    def _finished(self) -> dict[str, str] | None:
        """Return what the process that finished this work says; None while none has."""
        told = self._marker()
        if self._work is None or told.get("work") != self._work:
            return None
        return None if told["run"] == self._earlier else told["result"]

    def _marker(self) -> dict[str, Any]:
        try:
            found = read_json(self._folder / SHARED / "finished.json")
        except (OSError, ValueError):
            return {}
        whole = isinstance(found, dict) and found.keys() == {"run", "work", "result"}
        return found if whole else {}

    def _all_released(self) -> bool:
        """Return whether nobody who lives has a unit; of the last, counts may not be kept yet."""
        if self._work is None:
            return True
        for unit in claimed(self._units):
            found = claim(self._units, unit)
            if found is None:
                return False
            found.release()
        return True

    def _attend(self) -> None:
        """Hold the folder, or see that who holds it shares this work."""
        until = time.monotonic() + NAMELESS_S
        while self._hold is None:
            try:
                self._hold = hold(self._folder, self._work or "")
            except ConfigError:
                theirs = work_in(self._folder)
                if self._work is not None and theirs == self._work:
                    return
                nameless = self._work is not None and theirs is None
                # It may be about to say what it does, or about to end.
                if not nameless or time.monotonic() > until:
                    raise
                time.sleep(PAUSE_S)

    @property
    def _units(self) -> Path:
        return self._folder / SHARED / "units"

    def _claim(self, unit: str) -> bool:
        self._attend()
        self._busy = True
        if self._work is None:
            return True
        found = claim(self._units, unit)
        if found is not None:
            self._claims[unit] = found
        return found is not None

    def _release(self, unit: str) -> None:
        if (mine := self._claims.pop(unit, None)) is not None:
            mine.release()

    def _beat(self) -> None:
        while not self._ended.wait(locks.BEAT_S):
            for mine in (*self._claims.values(), *self._seats.values()):
                mine.beat()


class Stage(Generic[U]):
    """Units of one kind; made by `Share.stage`."""

    def __init__(
        self,
        share: Share,
        units: Sequence[U],
        name: Callable[[U], str],
        done: Callable[[U], bool],
    ) -> None:
        self._share, self._name, self._done = share, name, done
        self._left = {name(unit): unit for unit in units}

    def free(self, others: Callable[[U], object] = lambda _: None) -> Iterator[U]:
        """Yield units that are not done and that nobody has, claimed; each is to be released.

        Args:
            others: told each unit that another process has done.
        """
        for name, unit in list(self._left.items()):
            if self._gone(name, others) or not self._share._claim(name):
                continue
            if self._gone(name, others):  # another did it, and released it, in between
                self._share._release(name)
                continue
            yield unit

    def release(self, units: Sequence[U]) -> None:
        """Leave units that are done, or cannot be."""
        for unit in units:
            name = self._name(unit)
            self._left.pop(name, None)
            self._share._release(name)

    def rounds(self, others: Callable[[U], object] = lambda _: None) -> Generator[Iterator[U]]:
        """Yield `free` units over and over, until all units are done; wait for those of others.

        Args:
            others: told each unit that another process has done.
        """
        pauses = _Pauses()
        while self._left:
            before = len(self._left)
            yield self.free(others)
            for name in list(self._left):
                self._gone(name, others)
            if self._left:
                pauses.wait(reset=len(self._left) < before)

    def _gone(self, name: str, others: Callable[[U], object]) -> bool:
        """Return whether a unit is done, and leave it out from then on."""
        if name in self._left and self._done(self._left[name]):
            others(self._left.pop(name))
        return name not in self._left


class _Pauses:
    """Pauses that double, as long as nothing changes."""

    def __init__(self) -> None:
        self._next = PAUSE_S

    def wait(self, *, reset: bool = False) -> None:
        """Wait; shortly, if something has changed."""
        self._next = PAUSE_S if reset else self._next
        time.sleep(self._next)
        self._next = min(2 * self._next, LONGEST_PAUSE_S)


def digest(work: Any) -> str:
    """Return what stands for work: a hash of values of JSON types."""
    return hashlib.sha256(json.dumps(work, sort_keys=True).encode()).hexdigest()[:16]
