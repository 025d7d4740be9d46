"""Responses: asked for, cut, filtered, and asked for again where they were dropped."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hypersteer.config.synthesis import FilterConfig
from hypersteer.endpoint.replies import Failed, Messages, Reply
from hypersteer.judges.judge import Answer
from hypersteer.lm.base import BaseLM
from hypersteer.synthesis.filters import NO_REPLY, WORD, Shingles, shingles, why_dropped
from hypersteer.synthesis.pools import PooledInstruction, Split
from hypersteer.synthesis.prompts import clean
from hypersteer.synthesis.sieve import Sieve
from hypersteer.synthesis.teacher import Ask, Done, Teacher

SHOWN_CHARS = 300
"""How much of a dropped text is kept for the report."""


class Cut(NamedTuple):
    """A text within the limit, and whether nothing is missing."""

    text: str
    complete: bool


def cutter(lm: BaseLM | None, limit: int) -> Callable[[str], Cut]:
    """Return what cuts texts to their first `limit` tokens of a base LM or, without one, words."""

    def by_words(text: str) -> Cut:
        found = list(WORD.finditer(text))
        return (
            Cut(text, True) if len(found) <= limit else Cut(text[: found[limit - 1].end()], False)
        )

    def by_tokens(text: str) -> Cut:
        assert lm is not None
        ids = lm.chat.text(text)
        if len(ids) <= limit:
            return Cut(text, True)
        # A character of several tokens that the cut goes through would be a replacement character.
        return Cut(lm.chat.decode(ids[:limit]).rstrip("\ufffd"), False)

    return by_words if lm is None else by_tokens


class Task(NamedTuple):
    """A response to write.

    Attributes:
        split: where the row goes.
        instruction: what is answered.
        messages: what the teacher is asked.
        concept: the concept that the response shows, or keeps away from.
        category: of the row.
        word: a word that the response must contain; empty for none.
        meaning: the other meaning of that word.
    """

    split: Split
    instruction: PooledInstruction
    messages: Messages
    concept: str
    category: str
    word: str = ""
    meaning: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A response that is kept, as it lies on disk.

    Attributes:
        split: where the row goes.
        instruction: what it answers.
        response: the text.
        genre: of the instruction.
        source: where the instruction comes from.
        output_concept: what AxBench's column of this name holds.
        complete: whether nothing was cut off.
        sample: number of the sample that was kept.
    """

    split: str
    instruction: str
    response: str
    genre: str
    source: str
    output_concept: str
    complete: bool
    sample: int


class Dropped(NamedTuple):
    """A reply that is not kept, and why."""

    instruction: str
    sample: int
    reason: str
    text: str


@dataclass(slots=True)
class Group:
    """The responses of one concept and category: what was wanted, kept and dropped."""

    tasks: Sequence[Task]
    kept: list[Written | None]
    shingles: list[Shingles]
    dropped: list[Dropped]

    @classmethod
    def of(cls, tasks: Sequence[Task]) -> "Group":
        """Return a group of which nothing is written yet."""
        return cls(tasks, [None] * len(tasks), [], [])

    @property
    def rows(self) -> list[Written]:
        """What is kept, in the order of the tasks."""
        return [row for row in self.kept if row is not None]


class Writer:
    """Writes responses with a teacher.

    Args:
        teacher: who is asked.
        cut: brings a response to its length.
        config: what is dropped, and how often it is asked for.
        sieve: what a judge lets pass of the positives; None lets all pass.
    """

    def __init__(
        self,
        teacher: Teacher,
        cut: Callable[[str], Cut],
        config: FilterConfig,
        sieve: Sieve | None = None,
    ) -> None:
        self._teacher = teacher
        self._cut = cut
        self._config = config
        self._sieve = sieve

    def write(self, groups: Sequence[Group], done: Done, more: Done) -> None:
        """Fill groups: every task is asked for until it is kept, or `attempts` times.

        Args:
            groups: what to write; near-duplicates are looked for within each.
            done: told how many more requests and judgements are finished.
            more: told how many of them there are beyond one request for each task.

        Raises:
            EndpointError: if the teacher can answer, or the judge judge, nothing.
        """
        for sample in range(self._config.attempts):
            left = [
                (group, i) for group in groups for i, row in enumerate(group.kept) if row is None
            ]
            if not left:
                return
            if sample:
                more(len(left))
            asks = [Ask(group.tasks[i].messages, sample) for group, i in left]
            replies = self._teacher.complete(asks, done)
            for (group, i), reply in zip(left, replies, strict=True):
                self._filter(group, i, sample, reply)
            if self._sieve is not None:
                for group in groups:
                    fresh = [i for g, i in left if g is group and group.kept[i] is not None]
                    self._sift(self._sieve, group, fresh, done, more)

    def _sift(
        self, sieve: Sieve, group: Group, fresh: Sequence[int], done: Done, more: Done
    ) -> None:
        """Drop the fresh positives of a group that the judge does not let pass."""
        rows = [
            (i, row)
            for i in fresh
            if (row := group.kept[i]) is not None and group.tasks[i].category == "positive"
        ]
        more(len(rows))
        answers = [Answer(group.tasks[i].concept, row.instruction, row.response) for i, row in rows]
        for (i, row), verdict in zip(rows, sieve.sift(answers, done), strict=True):
            if verdict.reason is not None:
                group.kept[i] = None
                group.shingles.remove(shingles(row.response))
                shown = row.response[:SHOWN_CHARS]
                group.dropped.append(Dropped(row.instruction, row.sample, verdict.reason, shown))

    def _filter(self, group: Group, index: int, sample: int, reply: Reply | Failed) -> None:
        """Keep a reply, or note why it is dropped."""
        task = group.tasks[index]
        if isinstance(reply, Failed):
            text, reason, complete = reply.error, NO_REPLY, False
        else:
            text, complete = self._cut(clean(reply.text))
            text = text.strip()
            reason = why_dropped(
                text,
                concept=task.concept,
                instruction=task.instruction.text,
                positive=task.category == "positive",
                word=task.word,
                earlier=group.shingles,
                config=self._config,
            )
        if reason is not None:
            asked = task.instruction.text
            group.dropped.append(Dropped(asked, sample, reason, text[:SHOWN_CHARS]))
            return
        group.shingles.append(shingles(text))
        group.kept[index] = Written(
            split=task.split,
            instruction=task.instruction.text,
            response=text,
            genre=task.instruction.genre,
            source=task.instruction.source,
            output_concept=f"{task.word}//{task.meaning}" if task.word else task.concept,
            complete=complete,
            sample=sample,
        )
