"""Held-out concepts with instructions that no training data have, and their answers judged."""

from collections.abc import Sequence

import hypersteer as hs
from hypersteer.concepts import Concept
from hypersteer.data.sources import load_concepts
from hypersteer.judges.judge import Answer, Judge, Judgement
from hypersteer.lm.load import has_native_bf16
from hypersteer.steering import Steerer
from hypersteer.synthesis.pools import load_pool

SEED = 42

Asked = tuple[str, str]
"""A steering prompt, and an instruction."""


def load_steerer(checkpoint: str) -> Steerer:
    """Load a checkpoint, in bfloat16 where the processor has it natively."""
    return hs.load(checkpoint, dtype="bfloat16" if has_native_bf16() else None)


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
