"""Held-out concepts with instructions that no training data have, and their answers judged."""

from collections.abc import Sequence
from pathlib import Path

import hypersteer as hs
from hypersteer.cli.evaluate import main as evaluate_command
from hypersteer.concepts import Concept
from hypersteer.data.sources import load_concepts
from hypersteer.judges.judge import Answer, Judge, Judgement
from hypersteer.lm.bfloat16 import bf16_is_faster
from hypersteer.steering import Steerer
from hypersteer.synthesis.pools import load_pool

SEED = 42
TWENTY = (3, 18, 23, 32, 49, 59, 61, 75, 93, 95, 122, 153, 157, 164, 171, 178, 184, 208, 210, 219)
"""The held-out concepts that recipes are made on; nothing is looked at on the other 20."""

Asked = tuple[str, str]
"""A steering prompt, and an instruction."""


def load_steerer(checkpoint: str) -> Steerer:
    """Load a checkpoint, in bfloat16 where the processor has it natively."""
    return hs.load(checkpoint, dtype="bfloat16" if bf16_is_faster() else None)


def held_out_concepts() -> list[Concept]:
    """The bundled concepts that are marked held out."""
    return [concept for concept in load_concepts("bundled").concepts if concept.held_out]


def asked_of(concepts: Sequence[Concept], prompts: int, *seeds: int) -> list[Asked]:
    """So many instructions under each concept, of those that evaluations ask."""
    pool = load_pool("bundled", SEED)
    return [
        (concept.text, one.text)
        for concept in concepts
        for one in pool.draw("test", concept.genre or "text", prompts, SEED, concept.id, *seeds)
    ]


def judged(
    judge: Judge, asked: Sequence[Asked], texts: Sequence[str], plain: Sequence[str]
) -> list[tuple[Answer, Judgement]]:
    """The answers that could be judged, and how; `plain` is what the unsteered model says."""
    answers = [
        Answer(*pair, text, own) for pair, text, own in zip(asked, texts, plain, strict=True)
    ]
    found = zip(answers, judge.judge(answers), strict=True)
    return [(one, verdict) for one, verdict in found if isinstance(verdict, Judgement)]


def evaluate_twenty(methods: Sequence[str], folder: Path) -> None:
    """Judge methods, and every checkpoint of a folder, on the twenty: two instructions, greedy."""
    runs = sorted(str(path.parent) for path in folder.glob("*/config.json"))
    evaluate_command([
        "experiments/held_out_cpu.toml", "--methods", *methods, *runs,
        "--data.held-out-concepts", *map(str, TWENTY), "--protocol.held-out-concepts", "20",
        "--protocol.prompts", "2", "--protocol.strengths", "1", "--protocol.temperature", "0",
        "--protocol.repetition-penalty", "1.15", "--protocol.skill-items", "0",
        "--protocol.refusal-requests", "0", "--out", str(folder / "judged"),
    ])  # fmt: skip
