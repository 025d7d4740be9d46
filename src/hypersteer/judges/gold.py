"""Answers that readers labelled, to hold judges to: `data/gold`, of which docs/judges.md tells."""

import json
from dataclasses import dataclass
from typing import Any

from hypersteer.files import package_data, read_lines
from hypersteer.judges.judge import DIMENSIONS, Answer

CHOSEN_ON = "answers.jsonl"
UNSEEN = "unseen.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldAnswer:
    """An answer of some method, and what a reader who did not see the method says of it.

    Attributes:
        id: eight hex digits.
        lm: the base LM.
        method: who answered.
        strength: at which strength; None where there is none.
        kind: what sort of concept it is.
        answer: the response, what it answers, the concept, and the unsteered model's own answer.
        labels: 0, 1 or 2 for each of concept, instruction and fluency.
        second: the labels of another reading, where there was one.
    """

    id: str
    lm: str
    method: str
    strength: float | None
    kind: str
    answer: Answer
    labels: dict[str, int]
    second: dict[str, int] | None


def gold_answers(*, unseen: bool = False) -> list[GoldAnswer]:
    """Read the labelled answers, in the order in which they were read.

    Args:
        unseen: those that no judge was chosen or fitted on, instead of those that one was.
    """
    file = package_data("data", "gold", UNSEEN if unseen else CHOSEN_ON)
    return [_gold(json.loads(line)) for line in read_lines(file)]


def _gold(entry: dict[str, Any]) -> GoldAnswer:
    texts = {name: str(entry[name]) for name in Answer._fields}
    second = entry.get("second")
    return GoldAnswer(
        id=entry["id"],
        lm=entry["lm"],
        method=entry["method"],
        strength=entry["strength"],
        kind=entry["kind"],
        answer=Answer(**texts),
        labels={name: int(entry["labels"][name]) for name in DIMENSIONS},
        second=None if second is None else {name: int(second[name]) for name in DIMENSIONS},
    )
