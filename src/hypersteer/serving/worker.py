"""Continuous batching: one thread runs all answers of a base LM; requests come and go.

Between two tokens the thread takes in what waits: the edits of all newly come requests are made in
one pass inside their common prefill. A long prefill runs in a thread of its own, and its rows join
when it is done, so that answers on their way do not stall.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from hypersteer.answering import Answerer
from hypersteer.conditions.rules import Decisions
from hypersteer.config.serving import ServeConfig
from hypersteer.engine.batch import Batch
from hypersteer.engine.generate import check_room
from hypersteer.engine.requests import Request
from hypersteer.errors import SteeringError
from hypersteer.lm.base import BaseLM
from hypersteer.serving.errors import Refused, queue_full, refused
from hypersteer.serving.job import Job
from hypersteer.serving.metrics import Metrics
from hypersteer.steering import Steerer

PATIENCE = 0.25
"""Seconds after which requests that wait are looked at again."""


class _Ahead(NamedTuple):
    """Rows that have prefilled in another thread.

    Attributes:
        batch: which they are in.
        fresh: their first tokens; None if that failed, which they have been told.
        numbers: whose they are.
    """

    batch: Batch
    fresh: dict[int, int] | None
    numbers: dict[int, tuple[Job, int]]


class Worker:
    """Runs the answers of one base LM.

    Args:
        lm: the base LM.
        config: limits.
        metrics: what is counted.
    """

    def __init__(self, lm: BaseLM, config: ServeConfig, metrics: Metrics) -> None:
        self._lm, self._config, self._metrics = lm, config, metrics
        self._batch = Batch(lm, lenient=True)
        self._waiting: deque[Job] = deque()
        self._jobs: dict[int, tuple[Job, int]] = {}
        self._ahead: list[_Ahead] = []
        self._aside: set[tuple[Job, int]] = set()  # numbers begin again where a fault ended all
        self._wake = threading.Condition(threading.RLock())
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"hypersteer-{lm.name}", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Take in a request; its answers and its end come by its own `tell`.

        Raises:
            Refused: if too many wait, or the server stops.
            SteeringError: if prompt and answer do not fit the context window.
        """
        check_room(self._lm, [row.prompt for row in job.rows], [row.decoding for row in job.rows])
        with self._wake:
            if self._closed:
                raise Refused("the server is stopping", 503, code="stopping")
            free = not self._waiting and self._count() + len(job.rows) <= self._config.max_rows
            if not free and len(self._waiting) >= self._config.max_queue:
                raise queue_full(len(self._waiting))
            self._waiting.append(job)
            self._measure()
            self._wake.notify()

    def wake(self) -> None:
        """Let the thread look at what was given up."""
        with self._wake:
            self._wake.notify()

    def close(self, seconds: float) -> None:
        """Take no more requests, wait for those that run, and stop."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join(seconds)
        with self._wake:
            left = [*_distinct(self._jobs.values()), *_distinct(self._aside), *self._waiting]
        for job in left:
            job.fail(Refused("the server has stopped", 503, code="stopping"))

    @property
    def idle(self) -> bool:
        """Whether nothing runs or waits."""
        return not (self._waiting or self._jobs or self._aside)

    def _count(self) -> int:
        return len(self._jobs) + len(self._aside)

    def _fits(self, more: int = 0) -> bool:
        """Return whether the next request has room, beside so many more rows."""
        if not self._waiting:
            return False
        return self._count() + more + len(self._waiting[0].rows) <= self._config.max_rows

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._jobs or self._ahead or self._fits()):
                    if self._closed and self.idle:
                        return
                    self._wake.wait(PATIENCE if self._waiting else None)
                    self._drop_given_up()
            try:
                self._drop_given_up()
                self._admit()
                self._join()
                if self._batch.rows:
                    self._deliver(self._batch.step())
            except Exception as error:  # a fault ends the requests at hand, not the server
                self._fail_all(error)
            self._measure()

    def _drop_given_up(self) -> None:
        """Forget requests whose client is gone, or whose time is over."""
        now = time.monotonic()
        for job in _distinct(self._jobs.values()):
            if job.given_up or now > job.deadline:
                self._end(job, self._too_long(job))
        with self._wake:
            gone = [job for job in self._waiting if job.given_up or now > job.deadline]
            for job in gone:
                self._waiting.remove(job)
                job.fail(self._too_long(job))

    def _too_long(self, job: Job) -> Refused:
        if job.given_up:
            return Refused("the client is gone", 499)
        return Refused(
            f"the answer took more than {self._config.max_seconds:g} s; ask for fewer tokens",
            504,
            code="timeout",
        )

    def _admit(self) -> None:
        """Take in as many waiting requests as there is room for, those that go together at once."""
        taken: list[Job] = []
        with self._wake:
            while self._fits(sum(len(job.rows) for job in taken)):
                taken.append(self._waiting.popleft())
        groups: dict[Steerer | Answerer, list[Job]] = {}
        for job in taken:
            groups.setdefault(job.steerer, []).append(job)
        for group in groups.values():
            self._begin(group)

    def _begin(self, group: Sequence[Job]) -> None:
        """Begin with requests of one checkpoint; each by itself if something is wrong with one."""
        tokens = sum(len(row.prompt.ids) for job in group for row in job.rows)
        aside = bool(self._jobs) and tokens > self._config.aside_tokens
        batch = self._batch.aside() if aside else self._batch
        for job in group:
            job.grouped = len(group) > 1
        try:
            numbers = self._add(batch, group)
        except Exception as error:
            if len(group) > 1:
                for job in group:
                    self._begin([job])
            else:
                group[0].fail(refused(error))
            return
        if not aside:
            self._jobs |= numbers
            return
        self._aside.update(numbers.values())
        threading.Thread(target=self._prefill, args=(batch, numbers), daemon=True).start()

    def _add(self, batch: Batch, group: Sequence[Job]) -> dict[int, tuple[Job, int]]:
        """Put the rows of requests into a batch; return whose they are, by their numbers."""
        rows = [row for job in group for row in job.rows]
        steerer, decisions = group[0].steerer, Decisions()
        prompts = [row.prompt for row in rows]
        decided = {at: row.decided for at, row in enumerate(rows) if row.decided is not None}
        steer, strengths = [row.steer for row in rows], [1.0] * len(rows)
        request = Request(prompts, steer, strengths, single=False, decided=decided)
        writers = steerer.writers(request, decisions=decisions)
        numbers = batch.add(prompts, writers, [row.decoding for row in rows])
        owners = [(job, place) for job in group for place in range(len(job.rows))]
        for at, (job, place) in enumerate(owners):
            job.rows[place].checks = _log(decisions, at)
        return dict(zip(numbers, owners, strict=True))

    def _prefill(self, batch: Batch, numbers: dict[int, tuple[Job, int]]) -> None:
        """Take the first step of rows beside all others, then let them join."""
        fresh: dict[int, int] | None = None
        try:
            fresh = batch.step()
        except Exception as error:
            _fail_jobs(numbers, error)
        with self._wake:
            self._ahead.append(_Ahead(batch, fresh, numbers))
            self._wake.notify()

    def _join(self) -> None:
        """Let rows that have prefilled in another thread run with all others."""
        with self._wake:
            ready, self._ahead = self._ahead, []
        for batch, fresh, numbers in ready:
            self._aside.difference_update(numbers.values())
            if fresh is None:
                continue
            if not self._batch.takes(batch):  # a fault ended all that ran meanwhile
                told = SteeringError("another request failed beside this one; try again")
                _fail_jobs(numbers, told)
                continue
            self._jobs |= numbers
            self._batch.join(batch)
            self._deliver(fresh)

    def _deliver(self, fresh: dict[int, int]) -> None:
        """Pass new tokens on, and end what has ended."""
        batch, over = self._batch, []
        for number, (job, place) in list(self._jobs.items()):
            if number not in self._jobs:  # its request has ended by another of its rows
                continue
            row = job.rows[place]
            row.written = batch.written(number)
            if number in fresh:
                told = batch.logprobs(number)
                job.token(place, fresh[number], told[-1] if told else None)
                self._metrics.tokens.inc()
            if row.over:  # a stop string that only the whole text shows
                over.append(number)
                continue
            ending = batch.ending(number)
            if ending == "failed":
                self._fail(job, batch.error(number))
            elif ending is not None:
                job.end(place, ending)
                over.append(number)
        over = [number for number in over if number in self._jobs]
        for number in over:
            del self._jobs[number]
        if over:
            batch.drop(over)

    def _fail(self, job: Job, error: Exception | None) -> None:
        """End a request by an error, unless another of its group may be at fault."""
        if job.grouped and all(row.first for row in job.rows):
            self._forget(job)
            self._begin([job])
        else:
            self._end(job, refused(error or SteeringError("the answer failed")))

    def _end(self, job: Job, error: Refused) -> None:
        """End a request by an error, and forget its rows."""
        self._forget(job)
        job.fail(error)

    def _forget(self, job: Job) -> None:
        rows = [number for number, (own, _) in self._jobs.items() if own is job]
        for number in rows:
            del self._jobs[number]
        self._batch.drop(rows)

    def _fail_all(self, error: Exception) -> None:
        """End all requests that run by an error, and begin with an empty batch."""
        _fail_jobs(self._jobs, error)
        self._jobs.clear()
        self._batch = Batch(self._lm, lenient=True)

    def _measure(self) -> None:
        self._metrics.waiting.labels(self._lm.name).set(len(self._waiting))
        self._metrics.running.labels(self._lm.name).set(self._count())


def _fail_jobs(numbers: Mapping[int, tuple[Job, int]], error: Exception) -> None:
    """End the requests that rows belong to by an error."""
    for job in _distinct(numbers.values()):
        job.fail(refused(error))


def _distinct(owners: Iterable[tuple[Job, int]]) -> list[Job]:
    """Return the requests that rows belong to, each once."""
    return list(dict.fromkeys(job for job, _ in list(owners)))


def _log(decisions: Decisions, row: int) -> Callable[[], list[Any]]:
    """Return what reads the decisions on a row as they are then."""
    return lambda: list(decisions.rows[row]) if row < len(decisions.rows) else []
