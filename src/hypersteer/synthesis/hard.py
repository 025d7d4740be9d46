"""Hard negatives, in AxBench's four steps: a word of the concept, used in another meaning."""

from collections.abc import Sequence
from typing import NamedTuple

from hypersteer.concepts import Concept
from hypersteer.progress import ProgressBar
from hypersteer.synthesis.pools import PooledInstruction
from hypersteer.synthesis.prompts import (
    Message,
    ask_distinct,
    ask_other_meaning,
    ask_related_words,
    read_meaning,
    read_words,
    read_yes,
)
from hypersteer.synthesis.stages import TEST_PROMPTS, Means, keep_group
from hypersteer.synthesis.teacher import Ask, Reply
from hypersteer.synthesis.writing import Group, Task, Writer

STAGE = "hard negatives"
STEPS = ("words", "other meaning", "distinct")


class Sense(NamedTuple):
    """A word that belongs to a concept, in a meaning that may not."""

    concept: Concept
    word: str
    meaning: str = ""


def write_hard_negatives(means: Means, concepts: Sequence[Concept]) -> None:
    """Write the hard negatives of every concept that does not have them yet.

    How many there are depends on the concept: from none to `counts.hard_negatives`.
    """
    most = means.config.counts.hard_negatives
    left = means.left(STAGE, concepts)
    writer = Writer(means.teacher, means.cut, means.config.filters)
    with means.bars.stage(STAGE, len(left)) as bar:
        for chunk in means.chunks(STAGE, left, most, lambda _: bar.advance(1)):
            listed = _words(means, chunk, bar)
            meant = _meanings(means, listed, bar)
            distinct = _distinct(means, meant, bar)
            groups = [_group(means, concept, distinct) for concept in chunk]
            bar.grow(sum(len(group.tasks) for group in groups))
            writer.write(groups, bar.advance, bar.grow)
            for concept, group in zip(chunk, groups, strict=True):
                found = (listed, meant, distinct)
                steps = [sum(sense.concept.id == concept.id for sense in one) for one in found]
                keep_group(
                    means.folder, STAGE, concept, group, steps=dict(zip(STEPS, steps, strict=True))
                )


def _words(means: Means, concepts: Sequence[Concept], bar: ProgressBar) -> list[Sense]:
    """Ask for words that are typical of the concept (first step)."""
    most = means.config.counts.hard_negatives
    texts = _decide(means, [ask_related_words(concept.text, most) for concept in concepts], bar)
    return [
        Sense(concept, word)
        for concept, text in zip(concepts, texts, strict=True)
        for word in read_words(text, most)
    ]


def _meanings(means: Means, senses: Sequence[Sense], bar: ProgressBar) -> list[Sense]:
    """Ask which of them have another meaning (second step)."""
    bar.grow(len(senses))
    texts = _decide(means, [ask_other_meaning(s.word, s.concept.text) for s in senses], bar)
    meanings = map(read_meaning, texts)
    return [s._replace(meaning=m) for s, m in zip(senses, meanings, strict=True) if m]


def _distinct(means: Means, senses: Sequence[Sense], bar: ProgressBar) -> list[Sense]:
    """Keep those whose other meaning lies outside the concept (third step)."""
    bar.grow(len(senses))
    asks = [ask_distinct(s.word, s.meaning, s.concept.text) for s in senses]
    texts = _decide(means, asks, bar)
    return [sense for sense, text in zip(senses, texts, strict=True) if read_yes(text)]


def _group(means: Means, concept: Concept, senses: Sequence[Sense]) -> Group:
    """Lay out the fourth step: one response per sense, on test instructions not used yet."""
    mine = [sense for sense in senses if sense.concept.id == concept.id]
    instructions = _unused(means, concept, len(mine))
    return Group.of(
        [
            Task(
                "test",
                instruction,
                means.requests.hard_negative(
                    instruction.text, concept.text, sense.word, sense.meaning
                ),
                concept.text,
                "hard negative",
                sense.word,
                sense.meaning,
            )
            for sense, instruction in zip(mine, instructions, strict=True)
        ]
    )


def _unused(means: Means, concept: Concept, count: int) -> list[PooledInstruction]:
    """Test instructions of the concept's genre after those that its positives took."""
    taken, seeds = means.config.counts.test_positives, (means.config.seed, concept.id, TEST_PROMPTS)
    return means.pool.draw("test", concept.genre, taken + count, *seeds)[taken:]


def _decide(means: Means, messages: Sequence[Message], bar: ProgressBar) -> list[str]:
    """Ask for short answers; an empty one where there is none."""
    replies = means.teacher.complete([Ask(one, decide=True) for one in messages], bar.advance)
    return [reply.text if isinstance(reply, Reply) else "" for reply in replies]
