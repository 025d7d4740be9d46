"""How well a head's conditions tell texts apart: of conditions that it never learnt from."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hypersteer.conditions.head import ConditionHead
from hypersteer.conditions.lessons import Lesson
from hypersteer.stats import Interval, auroc, bootstrap


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadMeasured:
    """One condition in its first wording, on its own texts.

    Attributes:
        condition: its words.
        kind: its kind.
        auroc: how often a text inside scores above one that is not.
        f1: at the threshold that the head writes.
        near: share of near misses that fire; None where there are none.
        off: share of the other texts outside that fire.
    """

    condition: str
    kind: str
    auroc: float
    f1: float
    near: float | None
    off: float


@torch.no_grad()
def head_logits(head: ConditionHead, lesson: Lesson, wording: int = 0) -> Float[Tensor, " T"]:
    """Return the logits of the probability that a condition holds of each of its texts."""
    written = head(lesson.words[wording : wording + 1])
    return head.logits(written, lesson.texts, lesson.described.about)


def measure_head(head: ConditionHead, lessons: Sequence[Lesson]) -> list[HeadMeasured]:
    """Measure a head on conditions, each in its first wording.

    Args:
        head: the head.
        lessons: conditions read for it; take held-out ones.
    """
    return [measured_by(lesson, head_logits(head, lesson)) for lesson in lessons]


def measured_by(lesson: Lesson, logits: Float[Tensor, " T"]) -> HeadMeasured:
    """Return how scores of a condition's texts, which fire above 0, tell them apart."""
    inside, near = lesson.inside, lesson.near
    fired = logits > 0
    hits, alarms = int(fired[inside].sum()), int(fired[~inside].sum())
    return HeadMeasured(
        condition=lesson.described.condition,
        kind=lesson.described.kind,
        auroc=float(auroc(logits[inside], logits[~inside])),
        f1=2 * hits / (hits + alarms + int(inside.sum())),
        near=float(fired[near].float().mean()) if bool(near.any()) else None,
        off=float(fired[~inside & ~near].float().mean()),
    )


def mean_of(measured: Sequence[HeadMeasured], name: str) -> Interval:
    """Return the mean of a figure over conditions, with the bootstrap's 95 % over conditions."""
    found = [value for one in measured if (value := getattr(one, name)) is not None]
    return bootstrap(found)
