"""What a build will ask and cost, and what it kept and dropped."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from hypersteer.concepts import Concept
from hypersteer.config.synthesis import SynthesisConfig
from hypersteer.data.schema import GENRES
from hypersteer.endpoint.replies import Usage
from hypersteer.synthesis import prompts
from hypersteer.synthesis.filters import REASONS
from hypersteer.synthesis.folder import BuildFolder
from hypersteer.synthesis.pools import Pool
from hypersteer.synthesis.prompts import TEMPLATE_VERSION, Message
from hypersteer.synthesis.requests import Requests
from hypersteer.synthesis.served import on_this_machine
from hypersteer.synthesis.sources import BATCH, ListedConcept
from hypersteer.synthesis.stages import ROW_STAGES

EXAMPLES = 3
"""Dropped texts shown per reason."""


def make_report(
    folder: BuildFolder, concepts: Sequence[Concept], *, teacher: str, seed: int, pool: str
) -> dict[str, Any]:
    """Count everything in a folder, as plain JSON types.

    Args:
        folder: of the build.
        concepts: all concepts.
        teacher: who wrote.
        seed: of the build.
        pool: where the instructions come from.

    Returns:
        `stages` has, by stage, how many rows were wanted and kept, how many replies were dropped by
        reason, and which rows stayed missing; `examples` has a few dropped texts by reason.
    """
    stages, short = {}, []
    examples: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for stage in ROW_STAGES:
        dropped: Counter[str] = Counter()
        wanted = kept = 0
        for concept in concepts:
            part = folder.part(stage, concept.id)
            if part is None:
                continue
            wanted, kept = wanted + part["wanted"], kept + len(part["rows"])
            dropped.update(one["reason"] for one in part["dropped"])
            if missing := part["wanted"] - len(part["rows"]):
                short.append({"concept_id": concept.id, "stage": stage, "missing": missing})
            for one in part["dropped"]:
                if len(examples[one["reason"]]) < EXAMPLES:
                    examples[one["reason"]].append({"concept": concept.text, **one})
        stages[stage] = {"wanted": wanted, "kept": kept, "dropped": dict(dropped)}
    stages["shared negatives"] = _shared(folder)
    return {
        "concepts": len(concepts),
        "genres": dict(Counter(concept.genre for concept in concepts)),
        "genre_unread": sum(_unread(folder, concept) for concept in concepts),
        "stages": stages,
        "hard_negative_steps": _steps(folder, concepts),
        "missing": short,
        "examples": dict(examples),
        "teacher": teacher,
        "template_version": TEMPLATE_VERSION,
        "seed": seed,
        "instructions": pool,
        "usage": asdict(folder.usage()),
    }


def _shared(folder: BuildFolder) -> dict[str, Any]:
    """Count the shared negatives, of which only empty answers are dropped."""
    parts = [part for genre in GENRES if (part := folder.part("pool", genre)) is not None]
    dropped = sum(len(part["dropped"]) for part in parts)
    return {
        "wanted": sum(part["wanted"] for part in parts),
        "kept": sum(len(part["rows"]) for part in parts),
        "dropped": {"empty": dropped} if dropped else {},
    }


def _steps(folder: BuildFolder, concepts: Sequence[Concept]) -> dict[str, int]:
    """Return how many words passed each step of the hard negatives."""
    steps: Counter[str] = Counter()
    for concept in concepts:
        steps.update((folder.part("hard negatives", concept.id) or {}).get("steps", {}))
    return dict(steps)


def _unread(folder: BuildFolder, concept: Concept) -> bool:
    """Return whether a concept counts as text since the teacher named no genre."""
    return not (folder.part("genre", concept.id) or {"read": True})["read"]


def report_table(report: dict[str, Any]) -> Table:
    """Lay out the counts by stage, and a line for every reason that dropped something."""
    table = Table(title="rows", title_justify="left", title_style="bold")
    table.add_column("")
    shown = [name for name, stage in report["stages"].items() if stage["wanted"]]
    for name in shown:
        table.add_column(name, justify="right")
    stages = [report["stages"][name] for name in shown]
    table.add_row("wanted", *(f"{stage['wanted']:,}" for stage in stages))
    table.add_row("kept", *(f"{stage['kept']:,}" for stage in stages), end_section=True)
    for reason in REASONS:
        counts = [stage["dropped"].get(reason, 0) for stage in stages]
        if any(counts):
            table.add_row(f"dropped: {reason}", *(f"{count:,}" for count in counts))
    return table


def usage_line(usage: Usage) -> str:
    """Return what was asked, in one line."""
    cost = "" if usage.cost is None else f", ${usage.cost:,.4f}"
    return (
        f"{usage.calls:,} calls ({usage.retries:,} retries, {usage.failures:,} failed), "
        f"{usage.cache_hits:,} from the cache, {usage.input_tokens:,} tokens sent, "
        f"{usage.output_tokens:,} received{cost}"
    )


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
        """Lay out the estimate as a table."""
        price = "" if self.dollars is None else f", about ${self.dollars:,.2f}"
        name = Path(teacher).name if teacher.endswith(".gguf") else teacher  # or it is folded
        title = f"to ask of {name}: {self.calls:,} calls{price}"
        table = Table(title=title, title_justify="left", title_style="bold")
        table.add_column("stage")
        for heading in ("calls", "tokens sent", "tokens received"):
            table.add_column(heading, justify="right")
        for stage in self.stages:
            sent, received = stage.calls * stage.sent, stage.calls * stage.received
            table.add_row(stage.name, f"{stage.calls:,}", f"{sent:,.0f}", f"{received:,.0f}")
        return table


def estimate(
    config: SynthesisConfig, folder: BuildFolder, wanted: Sequence[ListedConcept] | None, pool: Pool
) -> Estimate:
    """Count what is left to ask, from the real requests of some concepts and instructions.

    Args:
        config: the settings.
        folder: what is done already costs nothing more.
        wanted: the concepts; None where they have yet to be invented.
        pool: the instructions.
    """
    concepts = _Concepts(config, folder, wanted)
    counts, requests = config.counts, Requests(config)
    instruction = _typical(pool.instructions())
    text = concepts.typical
    written = min(config.response_tokens, requests.limit * TOKENS_PER_WORD)
    senses = counts.hard_negatives
    hard = concepts.left("hard negatives") if senses else 0
    positives = counts.train_positives + counts.test_positives
    plan = [
        ("inventing concepts", concepts.to_invent, prompts.ask_concepts(text, BATCH, [text] * 50),
         BATCH * CONCEPT_WORDS * TOKENS_PER_WORD),
        ("genres", concepts.without_genre, prompts.ask_genre(text), DECISION_TOKENS),
        ("positives", positives * concepts.left("positives"),
         requests.positive(instruction, text), written),
        ("negatives", counts.test_negatives * concepts.left("negatives"),
         requests.negative(instruction, text), written),
        ("hard negatives: words", hard, prompts.ask_related_words(text, senses),
         senses * WORD_TOKENS),
        ("hard negatives: meanings", hard * senses, prompts.ask_other_meaning("word", text),
         MEANING_TOKENS),
        ("hard negatives: distinct", hard * senses,
         prompts.ask_distinct("word", instruction, text), DECISION_TOKENS),
        ("hard negatives", round(hard * senses * DISTINCT),
         requests.hard_negative(instruction, text, "word", instruction), written),
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
        self, config: SynthesisConfig, folder: BuildFolder, wanted: Sequence[ListedConcept] | None
    ) -> None:
        self._folder = folder
        self._count = config.invent if wanted is None else len(wanted)
        self.to_invent = math.ceil(config.invent / BATCH) if wanted is None else 0
        self.typical = _typical([one.text for one in wanted]) if wanted else "x" * 6 * CONCEPT_WORDS
        ids = range(self._count) if wanted is None else _without_genre(wanted)
        self.without_genre = sum(not folder.has("genre", i) for i in ids)

    def left(self, stage: str) -> int:
        """Return concepts that a stage has not done."""
        return sum(not self._folder.has(stage, i) for i in range(self._count))


def _without_genre(wanted: Sequence[ListedConcept]) -> list[int]:
    return [i for i, one in enumerate(wanted) if one.genre is None]


def _typical(texts: Sequence[str]) -> str:
    """Return a stand-in of the mean length of some texts, evenly taken."""
    some = texts[:: max(1, len(texts) // SAMPLE)]
    return "x" * round(sum(map(len, some)) / len(some))


def _tokens(message: Message) -> float:
    return sum(MESSAGE_TOKENS + len(one["content"]) / CHARS_PER_TOKEN for one in message)


def _dollars(config: SynthesisConfig, stages: Sequence[StageEstimate]) -> float | None:
    teacher = config.teacher
    free = teacher.kind == "local" or on_this_machine(teacher)
    if free or teacher.input_price is None or teacher.output_price is None:
        return None
    sent = sum(stage.calls * stage.sent for stage in stages)
    received = sum(stage.calls * stage.received for stage in stages)
    return (sent * teacher.input_price + received * teacher.output_price) / 1e6
