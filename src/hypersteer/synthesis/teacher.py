"""Who writes the data: a model behind an endpoint, or the base LM itself."""

import hashlib
import json
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple, Protocol

from rich.console import Console

from hypersteer.config.synthesis import SynthesisConfig
from hypersteer.endpoint.endpoint import Endpoint
from hypersteer.endpoint.local_server import LocalServer
from hypersteer.endpoint.replies import Failed, Messages, Reply, Usage, without_thoughts
from hypersteer.endpoint.settings import EndpointConfig
from hypersteer.engine.decoding import Decoding
from hypersteer.engine.generate import generate_ids
from hypersteer.errors import SteeringError
from hypersteer.launched import rank
from hypersteer.lm.base import BaseLM
from hypersteer.progress import ProgressBar
from hypersteer.synthesis.prompts import Message
from hypersteer.synthesis.served import endpoint_config, on_this_machine, open_engine

Done = Callable[[int], object]
DECISION_TOKENS = 64
"""A local teacher decides in at most so many."""
SLACK_TOKENS = 16
"""A local teacher writes so many more than are kept, which shows that a response was cut."""
CALLS_AT_ONCE = 64
"""Requests per connection in one call: enough that its end, when few are left, hardly counts."""


class Ask(NamedTuple):
    """One request to a teacher.

    Attributes:
        messages: the chat messages.
        sample: another number asks the same messages anew.
        decide: whether a short, greedy answer is wanted and no writing.
    """

    messages: Messages
    sample: int = 0
    decide: bool = False


class Teacher(Protocol):
    """Answers requests; made by `open_teacher`, or anything that has these.

    Attributes:
        name: which model it is, for the provenance of rows.
        at_once: how many requests are worth giving in one call.
    """

    name: str
    at_once: int

    @property
    def usage(self) -> Usage:
        """What was asked of it so far."""
        ...

    def complete(self, requests: Sequence[Ask], done: Done) -> list[Reply | Failed]:
        """Answer every request, in their order.

        Args:
            requests: what to answer.
            done: told how many more are finished.

        Raises:
            EndpointError: if nothing can be answered.
        """
        ...


class EndpointTeacher:
    """A model behind a server. Replies are kept on disk as they come.

    Args:
        writing: how to ask for responses.
        engine: the engine of ours that is asked, if the model runs on this machine.
    """

    def __init__(self, writing: EndpointConfig, engine: LocalServer | None = None) -> None:
        deciding = replace(writing, temperature=0.0)
        self._endpoints = {False: Endpoint(writing, engine), True: Endpoint(deciding, engine)}
        self.name = writing.model
        self.at_once = CALLS_AT_ONCE * writing.concurrency

    @property
    def usage(self) -> Usage:
        """What was asked so far."""
        return sum((endpoint.usage for endpoint in self._endpoints.values()), Usage())

    def complete(self, requests: Sequence[Ask], done: Done) -> list[Reply | Failed]:
        """Answer every request, decisions at temperature 0."""
        results: dict[int, Reply | Failed] = {}
        for decide, endpoint in self._endpoints.items():
            mine = [i for i, ask in enumerate(requests) if ask.decide == decide]
            replies = endpoint.complete(
                [requests[i].messages for i in mine],
                samples=[requests[i].sample for i in mine],
                done=done,
            )
            results.update(zip(mine, replies, strict=True))
        return [results[i] for i in range(len(requests))]


class LocalTeacher:
    """The base LM as its own teacher; a request's seed follows from it, whatever is beside it.

    Args:
        lm: the base LM.
        temperature: of responses.
        max_tokens: most tokens of a response.
        batch_size: requests generated together.
        seed: all sampling follows from it.
    """

    def __init__(
        self, lm: BaseLM, *, temperature: float, max_tokens: int, batch_size: int, seed: int
    ) -> None:
        self._lm = lm
        self._temperature = temperature
        self._max_tokens = max_tokens
        self._seed = seed
        self._calls = self._read = self._written = self._failures = 0
        self.name = f"{lm.name} ({lm.fingerprint})"
        self.at_once = batch_size

    @property
    def usage(self) -> Usage:
        """What was generated so far; it costs nothing."""
        return Usage(
            calls=self._calls,
            failures=self._failures,
            input_tokens=self._read,
            output_tokens=self._written,
        )

    def complete(self, requests: Sequence[Ask], done: Done) -> list[Reply | Failed]:
        """Answer every request; one that does not fit the context window fails alone."""
        results: list[Reply | Failed] = [Failed("not asked")] * len(requests)
        for decide in (False, True):
            mine = [i for i, ask in enumerate(requests) if ask.decide == decide]
            # Requests of like length share a batch, which saves padding.
            mine.sort(key=lambda i: (len(str(requests[i].messages)), i))
            for start in range(0, len(mine), self.at_once):
                batch = mine[start : start + self.at_once]
                replies = self._answer([requests[i] for i in batch], decide=decide)
                for i, reply in zip(batch, replies, strict=True):
                    results[i] = reply
                done(len(batch))
        return results

    def _answer(self, asks: Sequence[Ask], *, decide: bool) -> list[Reply | Failed]:
        limit = DECISION_TOKENS if decide else self._max_tokens
        results: list[Reply | Failed] = []
        prompts, seeds = [], []
        for ask in asks:
            prompt = self._lm.chat.prompt([dict(message) for message in ask.messages])
            try:
                self._lm.check_length(len(prompt.ids) + limit, "a request to the teacher")
            except SteeringError as error:
                results.append(Failed(str(error)))
                continue
            results.append(Reply("", len(prompt.ids)))
            prompts.append(prompt)
            seeds.append(self._seed_of(ask))
        if prompts:
            temperature = 0.0 if decide else self._temperature
            decoding = Decoding(max_new_tokens=limit, temperature=temperature, seed=tuple(seeds))
            written = iter(generate_ids(self._lm, prompts, [], decoding))
            results = [
                r if isinstance(r, Failed) else self._reply(r, next(written)) for r in results
            ]
        self._calls += len(asks)
        self._failures += sum(isinstance(result, Failed) for result in results)
        return results

    def _reply(self, asked: Reply, ids: list[int]) -> Reply:
        self._read += asked.input_tokens
        self._written += len(ids)
        return Reply(without_thoughts(self._lm.chat.decode(ids)), asked.input_tokens, len(ids))

    def _seed_of(self, ask: Ask) -> int:
        what = json.dumps([self._seed, ask.sample, [dict(message) for message in ask.messages]])
        return int.from_bytes(hashlib.sha256(what.encode()).digest()[:4]) >> 1


def open_teacher(config: SynthesisConfig, lm: BaseLM | None, longest: Message) -> Teacher:
    """Open the teacher that the settings name; nothing is asked yet.

    Args:
        config: the settings.
        lm: the base LM, which may be the teacher itself.
        longest: the longest request that it will get.

    Raises:
        ConfigError: if a setting is out of range.
        ModelError: if a model that is run on this machine cannot be had.
        EndpointError: if the package that runs it is missing.
    """
    wanted = config.teacher
    if wanted.kind == "local":
        assert lm is not None, "checked with the settings"
        return LocalTeacher(
            lm,
            temperature=wanted.temperature,
            max_tokens=config.response_tokens + SLACK_TOKENS,
            batch_size=wanted.batch_size,
            seed=config.seed,
        )
    engine = open_engine(config, longest) if on_this_machine(wanted) else None
    return EndpointTeacher(endpoint_config(config, engine), engine)


class Bars:
    """Shows one stage after the other, with what the teacher has cost so far.

    Of several processes that were launched together, only the first shows anything.

    Args:
        console: where; without a terminal, a line at every quarter of a stage and one when it ends.
        teacher: whose cost is shown; None shows none.
    """

    def __init__(self, console: Console, teacher: Teacher | None = None) -> None:
        self._console = console
        self.teacher = teacher

    @contextmanager
    def stage(self, name: str, total: int) -> Generator[ProgressBar]:
        """Show the bar of a stage of `total` requests."""
        shown = ProgressBar(
            name,
            total,
            console=self._console,
            note=self._spent,
            active=not rank(),
            quarters=True,
        )
        with shown as bar:
            yield bar
        if bar.completed and not self._console.is_terminal:
            self.say(f"{name}: {int(bar.completed):,} done {self._spent()}".rstrip())

    def say(self, text: str) -> None:
        """Print a line."""
        if not rank():
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _spent(self) -> str:
        """Return the dollars of this run so far; empty where no prices are set."""
        cost = None if self.teacher is None else self.teacher.usage.cost
        return "" if cost is None else f"${cost:,.4f}"
