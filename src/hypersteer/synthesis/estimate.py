"""What a build will ask and cost, before it asks anything."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from hypersteer.config.synthesis import SynthesisConfig
from hypersteer.synthesis import prompts
from hypersteer.synthesis.folder import BuildFolder
from hypersteer.synthesis.invention import BATCH
from hypersteer.synthesis.pools import Pool
from hypersteer.synthesis.prompts import Message, word_limit
from hypersteer.synthesis.sources import Wanted

CHARS_PER_TOKEN = 4.0
TOKENS_PER_WORD = 1.35
MESSAGE_TOKENS = 8
"""What a chat template adds to a message, about."""
SAMPLE = 50
"""Concepts and instructions whose requests are measured."""
CONCEPT_WORDS = 10
DECISION_TOKENS, WORD_TOKENS, MEANING_TOKENS = 2, 3, 25
DISTINCT = 0.6
"""Share of the words of hard negatives that live to the fourth step, about."""


@dataclass(frozen=True, slots=True)
class StageEstimate:
    """One stage: requests, and tokens of each."""

    name: str
    calls: int
    sent: float
    received: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """All that is left to ask. Repeats of dropped responses are not in it.

    Attributes:
        stages: by stage.
        dollars: cost, or None where no prices are set.
    """

    stages: Sequence[StageEstimate]
    dollars: float | None

    @property
    def calls(self) -> int:
        """Requests of all stages."""
        return sum(stage.calls for stage in self.stages)

    def table(self, teacher: str) -> Table:
        """The estimate as a table."""
        price = "" if self.dollars is None else f", about ${self.dollars:,.2f}"
        title = f"to ask of {teacher}: {self.calls:,} calls{price}"
        table = Table(title=title, title_justify="left", title_style="bold")
        table.add_column("stage")
        for name in ("calls", "tokens sent", "tokens received"):
            table.add_column(name, justify="right")
        for stage in self.stages:
            sent, received = stage.calls * stage.sent, stage.calls * stage.received
            table.add_row(stage.name, f"{stage.calls:,}", f"{sent:,.0f}", f"{received:,.0f}")
        return table


def estimate(
    config: SynthesisConfig, folder: BuildFolder, wanted: Sequence[Wanted] | None, pool: Pool
) -> Estimate:
    """Count what is left to ask, from the real requests of some concepts and instructions.

    Args:
        config: the settings.
        folder: what is done already costs nothing more.
        wanted: the concepts; None where they have yet to be invented.
        pool: the instructions.
    """
    concepts = _Concepts(config, folder, wanted)
    counts, limit = config.counts, word_limit(config.response_tokens, by_words=False)
    instruction = _typical([one.text for half in pool.halves.values() for one in half])
    text = concepts.typical
    written = min(config.response_tokens, limit * TOKENS_PER_WORD)
    senses = counts.hard_negatives
    hard = concepts.left("hard negatives") if senses else 0
    positives = counts.train_positives + counts.test_positives
    plan = [
        ("inventing concepts", concepts.to_invent, prompts.ask_concepts(text, BATCH, [text] * 50),
         BATCH * CONCEPT_WORDS * TOKENS_PER_WORD),
        ("genres", concepts.without_genre, prompts.ask_genre(text), DECISION_TOKENS),
        ("positives", positives * concepts.left("positives"),
         prompts.ask_positive(instruction, text, limit), written),
        ("negatives", counts.test_negatives * concepts.left("negatives"),
         prompts.ask_negative(instruction, text, limit), written),
        ("hard negatives: words", hard, prompts.ask_related_words(text, senses),
         senses * WORD_TOKENS),
        ("hard negatives: meanings", hard * senses, prompts.ask_other_meaning("word", text),
         MEANING_TOKENS),
        ("hard negatives: distinct", hard * senses,
         prompts.ask_distinct("word", instruction, text), DECISION_TOKENS),
        ("hard negatives", round(hard * senses * DISTINCT),
         prompts.ask_hard_negative(instruction, text, "word", instruction, limit), written),
    ]  # fmt: skip
    stages = [
        StageEstimate(name, calls, _tokens(message), received)
        for name, calls, message, received in plan
        if calls
    ]
    return Estimate(stages, _dollars(config, stages))


class _Concepts:
    """How many concepts are left in each stage."""

    def __init__(
        self, config: SynthesisConfig, folder: BuildFolder, wanted: Sequence[Wanted] | None
    ) -> None:
        self._folder = folder
        self._count = config.invent if wanted is None else len(wanted)
        self.to_invent = math.ceil(config.invent / BATCH) if wanted is None else 0
        self.typical = _typical([one.text for one in wanted]) if wanted else "x" * 6 * CONCEPT_WORDS
        ids = range(self._count) if wanted is None else _without_genre(wanted)
        self.without_genre = sum(not folder.has("genre", i) for i in ids)

    def left(self, stage: str) -> int:
        """Concepts that a stage has not done."""
        return sum(not self._folder.has(stage, i) for i in range(self._count))


def _without_genre(wanted: Sequence[Wanted]) -> list[int]:
    return [i for i, one in enumerate(wanted) if one.genre is None]


def _typical(texts: Sequence[str]) -> str:
    """A stand-in of the mean length of some texts, evenly taken."""
    some = texts[:: max(1, len(texts) // SAMPLE)]
    return "x" * round(sum(map(len, some)) / len(some))


def _tokens(message: Message) -> float:
    return MESSAGE_TOKENS + len(message[0]["content"]) / CHARS_PER_TOKEN


def _dollars(config: SynthesisConfig, stages: Sequence[StageEstimate]) -> float | None:
    teacher = config.teacher
    if teacher.kind == "local" or teacher.input_price is None or teacher.output_price is None:
        return None
    sent = sum(stage.calls * stage.sent for stage in stages)
    received = sum(stage.calls * stage.received for stage in stages)
    return (sent * teacher.input_price + received * teacher.output_price) / 1e6
