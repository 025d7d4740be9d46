"""Ask a model behind an OpenAI-compatible server: many requests at once, retried and kept."""

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, TypeVar

from hypersteer.endpoint.cache import ReplyCache, cache_key, open_cache
from hypersteer.endpoint.connection import Connection
from hypersteer.endpoint.local_server import LocalServer
from hypersteer.endpoint.replies import Failed, Messages, Reply, Trouble, Usage, without_thoughts
from hypersteer.endpoint.settings import EndpointConfig
from hypersteer.errors import EndpointError
from hypersteer.files import cache_folder

T = TypeVar("T")
Done = Callable[[int], object]
GIVE_UP = 10
"""Requests in a row that the server fails to answer before the rest are not even tried."""
LONGEST_BACKOFF_S = 60.0


@dataclass(frozen=True, slots=True)
class _Job:
    """One distinct request, and how many of the caller's requests are this one."""

    key: str
    messages: Messages
    sample: int
    times: int


@dataclass(slots=True)
class _Run:
    """One call of `complete`."""

    connection: Connection
    cache: ReplyCache | None
    done: Done | None
    results: dict[str, Reply | Failed] = field(default_factory=dict)

    def finish(self, job: _Job, result: Reply | Failed) -> None:
        """Keep a reply on disk before anything else can happen, then tell."""
        if self.cache is not None and isinstance(result, Reply):
            self.cache.put(job.key, result)
        self.results[job.key] = result
        if self.done is not None:
            self.done(job.times)


class Endpoint:
    """A model behind a server. Threads may share one; nothing is sent before `complete`.

    Args:
        config: which model, where, and how to ask.
        engine: a server of our own to ask instead, started when something is to be asked.
    """

    def __init__(self, config: EndpointConfig, engine: LocalServer | None = None) -> None:
        self.config = config
        self._engine = engine
        self._lock = threading.Lock()
        self._usage = Usage()
        self._works = False
        self._failed_in_a_row = 0
        # Its own generator: jitter must not disturb a seeded run.
        self._random = random.Random()

    @property
    def own_engine(self) -> bool:
        """Whether an engine of ours is asked."""
        return self._engine is not None

    @property
    def usage(self) -> Usage:
        """What was asked so far, over all calls of `complete`."""
        used = self._usage
        return replace(used, cost=self.config.cost(used.input_tokens, used.output_tokens))

    def complete(
        self,
        requests: Sequence[Messages],
        *,
        samples: Sequence[int] | None = None,
        done: Done | None = None,
    ) -> list[Reply | Failed]:
        """Ask every request, and give the replies in their order.

        Equal requests are asked once. A request that fails alone gives a `Failed`; the others go
        on. The first is sent alone, until the server has answered once. Replies are kept on disk as
        they come, so a call that raised or was killed resumes where it stopped.

        Args:
            requests: the chat messages of each request.
            samples: number of each request's sample, by default 0; different numbers ask the same
                messages anew.
            done: told how many more requests are finished, for progress bars; in another thread
                where the caller's runs an event loop.

        Raises:
            EndpointError: if nothing can be answered (no `openai` package, no key or a wrong one,
                no server, an unknown model, no credit), after the first request that shows it or
                after `GIVE_UP` in a row; if the cache is damaged; or if an engine of ours ends.
        """
        numbers = [0] * len(requests) if samples is None else list(samples)
        pairs = list(zip(requests, numbers, strict=True))
        keys = [cache_key(self.config, messages, sample) for messages, sample in pairs]
        times = Counter(keys)
        jobs = {
            key: _Job(key, messages, sample, times[key])
            for key, (messages, sample) in zip(keys, pairs, strict=True)
        }
        results = _run(lambda: self._complete(list(jobs.values()), done))
        return [_answer(results[key]) for key in keys]

    async def _complete(self, jobs: list[_Job], done: Done | None) -> dict[str, Reply | Failed]:
        with ExitStack() as stack:
            cache = stack.enter_context(open_cache(cache_folder())) if self.config.cache else None
            results: dict[str, Reply | Failed] = {}
            for job in jobs:
                kept = None if cache is None else cache.get(job.key)
                if kept is not None:
                    results[job.key] = kept
            left = [job for job in jobs if job.key not in results]
            hits = sum(job.times for job in jobs if job.key in results)
            self._count(Usage(cache_hits=hits + sum(job.times - 1 for job in left)))
            if done is not None and hits:
                done(hits)
            if left:
                async with self._connection() as connection:
                    run = _Run(connection, cache, done, results)
                    await self._ask_all(run, left)
        return results

    def _connection(self) -> Connection:
        if self._engine is None:
            return Connection(self.config)
        url, key = self._engine.start()
        return Connection(replace(self.config, base_url=url), key)

    async def _ask_all(self, run: _Run, jobs: list[_Job]) -> None:
        """Ask some at a time, but the first alone until the server has answered once."""
        waiting = iter(jobs)
        if not self._works:
            await self._work(run, islice(waiting, 1))
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self.config.concurrency, len(jobs))):
                    group.create_task(self._work(run, waiting))
        except ExceptionGroup as several:
            raise several.exceptions[0] from None

    async def _work(self, run: _Run, waiting: Iterator[_Job]) -> None:
        for job in waiting:
            run.finish(job, await self._ask(run.connection, job))

    async def _ask(self, connection: Connection, job: _Job) -> Reply | Failed:
        """Ask once, and again as long as it may help."""
        attempt = 0
        while True:
            result = await connection.ask(job.messages, job.sample)
            ended = None if self._engine is None else self._engine.ended()
            if ended and not isinstance(result, Reply):
                raise EndpointError(f"{ended}; what it answered is kept, so run the same again")
            self._count(
                Usage(
                    calls=1,
                    retries=int(attempt > 0),
                    input_tokens=result.input_tokens,
                    output_tokens=result.output_tokens,
                )
            )
            if isinstance(result, Reply):
                self._works, self._failed_in_a_row = True, 0
                return result
            if result.hopeless and not self._works:
                raise EndpointError(result.error)
            if not result.retry or attempt == self.config.retries:
                return self._give_up(result, attempt)
            await asyncio.sleep(self._pause(attempt, result.wait_s))
            attempt += 1

    def _pause(self, attempt: int, asked: float | None) -> float:
        """Return seconds to the next attempt: doubling, spread at random, or as the server asks."""
        doubled = min(self.config.backoff_s * 2.0 ** min(attempt, 30), LONGEST_BACKOFF_S)
        pause = doubled * self._random.uniform(0.5, 1.0)
        return pause if asked is None else max(pause, asked)

    def _give_up(self, trouble: Trouble, retries: int) -> Failed:
        """Give a request up; give all up where the server fails one after another."""
        self._count(Usage(failures=1))
        tried = f" (tried {retries + 1} times)" if retries else ""
        # What a server says of one request (too long, filtered) tells nothing about the next.
        servers_fault = trouble.retry or trouble.hopeless
        self._failed_in_a_row = self._failed_in_a_row + 1 if servers_fault else 0
        if self._failed_in_a_row >= GIVE_UP:
            self._failed_in_a_row = 0
            raise EndpointError(
                f"{GIVE_UP} requests in a row failed, the last with: {trouble.error}{tried}; what "
                "was answered is kept, so run it again when the server works"
            )
        return Failed(f"{trouble.error}{tried}")

    def _count(self, more: Usage) -> None:
        with self._lock:
            self._usage += more


def _answer(result: Reply | Failed) -> Reply | Failed:
    """Return the reply without the model's thoughts; the cache keeps what was sent."""
    if isinstance(result, Failed):
        return result
    return result._replace(text=without_thoughts(result.text))


def _run(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run asynchronous work to its end; in another thread if this one runs an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work())
    started: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[T]]] = []

    async def noted() -> T:
        task = asyncio.create_task(work())
        started.append((asyncio.get_running_loop(), task))
        return await task

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(lambda: asyncio.run(noted()))
        try:
            return future.result()
        except KeyboardInterrupt:
            for loop, task in started:
                loop.call_soon_threadsafe(task.cancel)
            raise
