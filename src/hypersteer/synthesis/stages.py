"""The stages of a build that write rows, each kept on disk concept by concept."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, islice
from typing import NamedTuple

from hypersteer.concepts import Concept
from hypersteer.config.synthesis import SynthesisConfig
from hypersteer.data.schema import GENRES
from hypersteer.engine.decoding import Decoding
from hypersteer.engine.generate import generate_ids
from hypersteer.lm.base import BaseLM
from hypersteer.sharing import Share
from hypersteer.synthesis.folder import BuildFolder
from hypersteer.synthesis.pools import Pool, PooledInstruction, Split, negative_shares
from hypersteer.synthesis.prompts import ask_genre, read_genre
from hypersteer.synthesis.requests import Requests
from hypersteer.synthesis.sieve import Sieve
from hypersteer.synthesis.sources import ListedConcept
from hypersteer.synthesis.teacher import Ask, Bars, Reply, Teacher
from hypersteer.synthesis.writing import Cut, Group, Task, Writer, Written

SENTINEL = "EEEEE"
"""What AxBench has for the concept of a shared negative."""
POOL_LENGTH = 1.5
"""Shared negatives may be so much longer than responses, as AxBench has it."""
TRAIN_PROMPTS, TEST_PROMPTS, NEGATIVE_PROMPTS, POOL_PROMPTS = range(1, 5)
"""What instructions are drawn for: part of the seed of each draw."""
MOST_CLAIMED = 256
"""Concepts that one process claims at a time: each is a file that is open."""
ROW_STAGES = ("positives", "negatives", "hard negatives")


@dataclass(frozen=True, slots=True, eq=False)
class Means:
    """What every stage works with."""

    config: SynthesisConfig
    folder: BuildFolder
    pool: Pool
    teacher: Teacher
    cut: Callable[[str], Cut]
    bars: Bars
    requests: Requests
    sieve: Sieve | None
    share: Share

    def left(self, stage: str, concepts: Sequence[Concept]) -> list[Concept]:
        """Return the concepts that a stage has not done."""
        return [concept for concept in concepts if not self.folder.has(stage, concept.id)]

    def chunks(
        self, stage: str, concepts: Sequence[Concept], each: int, others: Callable[[int], object]
    ) -> Generator[list[Concept]]:
        """Yield the concepts that a stage has not done, as many at once as are worth it.

        It ends when all are done, by this process or by others.

        Args:
            stage: its name in the folder.
            concepts: all of them.
            each: requests per concept, about.
            others: told how many requests, about, another process has done.
        """
        size = max(1, self.teacher.at_once // max(1, each))
        for chunk in in_parts(self.share, self.folder, stage, concepts, size, lambda: others(each)):
            yield chunk
            self.folder.keep_usage(self.teacher.usage)


def in_parts(
    share: Share,
    folder: BuildFolder,
    stage: str,
    concepts: Sequence[Concept],
    size: int,
    others: Callable[[], object],
) -> Generator[list[Concept]]:
    """Yield the concepts that a stage has not done, some at a time, each to one process.

    Args:
        share: which of them are this process's.
        folder: of the build.
        stage: its name in the folder.
        concepts: all of them.
        size: how many at a time; never more than `MOST_CLAIMED`.
        others: called for each concept that another process has done.
    """
    units = share.stage(
        [concept for concept in concepts if not folder.has(stage, concept.id)],
        lambda concept: f"{stage}.{concept.id}",
        lambda concept: folder.has(stage, concept.id),
    )
    for free in units.rounds(lambda _: others()):
        while part := list(islice(free, min(size, MOST_CLAIMED))):
            yield part
            units.release(part)


class Found(NamedTuple):
    """A genre as the folder keeps it, and how many questions it took."""

    genre: str
    read: bool


def find_genres(means: Means, wanted: Sequence[ListedConcept]) -> list[Concept]:
    """Give the concepts numbers, and ask for the genre of those that have none.

    A reply that names no genre, or several, means text, as in AxBench.
    """
    unknown = [Concept(id=i, text=one.text) for i, one in enumerate(wanted) if one.genre is None]
    left = means.left("genre", unknown)
    with means.bars.stage("genres", len(left)) as bar:
        for chunk in means.chunks("genre", left, 1, bar.advance):
            asks = [Ask(ask_genre(concept.text), decide=True) for concept in chunk]
            replies = means.teacher.complete(asks, bar.advance)
            for concept, reply in zip(chunk, replies, strict=True):
                genre = read_genre(reply.text) if isinstance(reply, Reply) else None
                found = Found(genre or "text", genre is not None)
                means.folder.keep("genre", concept.id, found._asdict())
    asked = {concept.id: means.folder.part("genre", concept.id)["genre"] for concept in unknown}
    return [
        Concept(id=i, text=one.text, genre=one.genre or asked[i], kind=one.kind, ref=one.ref)
        for i, one in enumerate(wanted)
    ]


def answer_pool(means: Means, lm: BaseLM, batch_size: int) -> None:
    """Answer the shared negatives with the base LM itself, greedily, per genre, in batches."""
    count = means.config.counts.pool_negatives
    left = [genre for genre in GENRES if not means.folder.has("pool", genre)]
    stage = means.share.stage(
        left, lambda genre: f"pool.{genre}", lambda genre: means.folder.has("pool", genre)
    )
    limit = int(POOL_LENGTH * means.config.response_tokens)
    asked = {
        genre: means.pool.draw("train", genre, count, means.config.seed, POOL_PROMPTS)
        for genre in left
    }
    for one in (one for drawn in asked.values() for one in drawn):
        tokens = len(lm.chat.prompt(one.text).ids) + limit
        lm.check_length(tokens, f"the instruction {one.text[:40]!r} with its answer")
    with means.bars.stage(f"shared negatives of {lm.name}", len(left) * count) as bar:
        for genre in chain.from_iterable(stage.rounds(lambda _: bar.advance(count))):
            drawn = asked[genre]
            rows: list[Written] = []
            for start in range(0, len(drawn), batch_size):
                batch = drawn[start : start + batch_size]
                rows += _answers(lm, batch, limit)
                bar.advance(len(batch))
            dropped = [one._asdict() for one in drawn if one.text not in _asked(rows)]
            content = {"wanted": count, "rows": list(map(asdict, rows)), "dropped": dropped}
            means.folder.keep("pool", genre, content)
            stage.release([genre])


def _asked(rows: Sequence[Written]) -> set[str]:
    return {row.instruction for row in rows}


def _answers(lm: BaseLM, batch: Sequence[PooledInstruction], limit: int) -> list[Written]:
    """Answer with the base LM by itself; empty answers are left out."""
    prompts = [lm.chat.prompt(one.text) for one in batch]
    answers = generate_ids(lm, prompts, [], Decoding(max_new_tokens=limit))
    texts = [lm.chat.decode(ids).strip() for ids in answers]
    return [
        Written(
            split="train",
            instruction=one.text,
            response=text,
            genre=one.genre,
            source=one.source,
            output_concept=SENTINEL,
            complete=len(ids) < limit,
            sample=0,
        )
        for one, ids, text in zip(batch, answers, texts, strict=True)
        if text
    ]


def positive_tasks(means: Means, concept: Concept) -> list[Task]:
    """Return the positives of a concept, of both splits, on instructions of its genre."""
    counts, seed = means.config.counts, means.config.seed
    plan: list[tuple[Split, int, int]] = [
        ("train", counts.train_positives, TRAIN_PROMPTS),
        ("test", counts.test_positives, TEST_PROMPTS),
    ]
    return [
        Task(
            split,
            instruction,
            means.requests.positive(instruction.text, concept.text),
            concept.text,
            "positive",
        )
        for split, count, purpose in plan
        for instruction in means.pool.draw(split, concept.genre, count, seed, concept.id, purpose)
    ]


def negative_tasks(means: Means, concept: Concept) -> list[Task]:
    """Return the test negatives of a concept, mostly on instructions of genre text."""
    seeds = (means.config.seed, concept.id, NEGATIVE_PROMPTS)
    shares = negative_shares(means.config.counts.test_negatives)
    return [
        Task(
            "test",
            instruction,
            means.requests.negative(instruction.text, concept.text),
            concept.text,
            "negative",
        )
        for genre, count in shares.items()
        for instruction in means.pool.draw("test", genre, count, *seeds)
    ]


def write_stage(
    means: Means,
    stage: str,
    concepts: Sequence[Concept],
    tasks: Callable[[Means, Concept], list[Task]],
    each: int,
) -> None:
    """Write the rows of a stage for every concept that does not have them yet.

    Args:
        means: what to work with.
        stage: its name.
        concepts: all concepts.
        tasks: what there is to write for one.
        each: how many that are.
    """
    writer = Writer(means.teacher, means.cut, means.config.filters, means.sieve)
    left = means.left(stage, concepts)
    with means.bars.stage(stage, len(left) * each) as bar:
        for chunk in means.chunks(stage, left, each, bar.advance):
            groups = [Group.of(tasks(means, concept)) for concept in chunk]
            writer.write(groups, bar.advance, bar.grow)
            for concept, group in zip(chunk, groups, strict=True):
                keep_group(means.folder, stage, concept, group)


def keep_group(
    folder: BuildFolder, stage: str, concept: Concept, group: Group, **notes: object
) -> None:
    """Keep what was written for a concept, what was dropped, and notes of the stage."""
    content = {
        "wanted": len(group.tasks),
        "rows": [asdict(row) for row in group.rows],
        "dropped": [one._asdict() for one in group.dropped],
    }
    folder.keep(stage, concept.id, content | notes)
