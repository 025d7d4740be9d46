"""What a build kept, what it dropped and why, and what it cost."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from hypersteer.concepts import Concept
from hypersteer.endpoint.replies import Usage
from hypersteer.synthesis.filters import REASONS
from hypersteer.synthesis.folder import BuildFolder
from hypersteer.synthesis.pools import GENRES
from hypersteer.synthesis.prompts import TEMPLATE_VERSION
from hypersteer.synthesis.stages import ROW_STAGES

EXAMPLES = 3
"""Dropped texts shown per reason."""


def make_report(
    folder: BuildFolder, concepts: Sequence[Concept], *, teacher: str, seed: int, pool: str
) -> dict[str, Any]:
    """Counts of everything in a folder, as plain JSON types.

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
    """The shared negatives, of which only empty answers are dropped."""
    parts = [part for genre in GENRES if (part := folder.part("pool", genre)) is not None]
    dropped = sum(len(part["dropped"]) for part in parts)
    return {
        "wanted": sum(part["wanted"] for part in parts),
        "kept": sum(len(part["rows"]) for part in parts),
        "dropped": {"empty": dropped} if dropped else {},
    }


def _steps(folder: BuildFolder, concepts: Sequence[Concept]) -> dict[str, int]:
    """How many words passed each step of the hard negatives."""
    steps: Counter[str] = Counter()
    for concept in concepts:
        steps.update((folder.part("hard negatives", concept.id) or {}).get("steps", {}))
    return dict(steps)


def _unread(folder: BuildFolder, concept: Concept) -> bool:
    """Whether a concept counts as text since the teacher named no genre."""
    return not (folder.part("genre", concept.id) or {"read": True})["read"]


def report_table(report: dict[str, Any]) -> Table:
    """The counts by stage, and a line for every reason that dropped something."""
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
    """What was asked, in one line."""
    cost = "" if usage.cost is None else f", ${usage.cost:,.4f}"
    return (
        f"{usage.calls:,} calls ({usage.retries:,} retries, {usage.failures:,} failed), "
        f"{usage.cache_hits:,} from the cache, {usage.input_tokens:,} tokens sent, "
        f"{usage.output_tokens:,} received{cost}"
    )
