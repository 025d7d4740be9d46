"""What an evaluation found, as reports read it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypersteer.evaluation.detection_metrics import Detection
from hypersteer.evaluation.records import Held, Judged
from hypersteer.learning.values import Cost

HELD: tuple[Held, ...] = ("held_out", "held_in")
Place = tuple[str, Held]
"""A method on one held set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What an evaluation found.

    Attributes:
        rows: judged answers of all methods, of at least two prompts per concept.
        config: the resolved configuration of the run, of JSON types.
        compare_to: method that the others are compared with.
        methods: order of the report; others follow in the order of the rows.
        about: what was run, in a few lines of name and value (base LM, judge, concepts).
        costs: method -> cost per concept.
        gaps: concept gaps, in nats per token, where measured.
        detection: detection figures, where measured.
    """

    rows: Sequence[Judged]
    config: Mapping[str, Any]
    compare_to: str
    methods: Sequence[str] = ()
    about: Mapping[str, str] = field(default_factory=dict)
    costs: Mapping[str, Cost] = field(default_factory=dict)
    gaps: Mapping[Place, float] = field(default_factory=dict)
    detection: Mapping[Place, Detection] = field(default_factory=dict)
