"""What a judge lets pass of the responses that show a concept; its scores are kept as they come."""

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import NamedTuple

from hypersteer.config.synthesis import JudgedConfig
from hypersteer.judges.judge import Answer, Failure, Judge, harmonic_mean
from hypersteer.synthesis.filters import NO_CONCEPT, NOT_FLUENT, NOT_JUDGED, OFF_TASK
from hypersteer.synthesis.folder import BuildFolder

STAGE = "judged"
AT_ONCE = 16
"""Answers judged between two writes: as many are judged again after a kill, at most."""

Scores = tuple[float, float, float]
"""Concept, instruction and fluency, each from 0 to 2."""


class Verdict(NamedTuple):
    """What a judge found of an answer.

    Attributes:
        reason: why it is dropped; None where it passes.
        overall: the harmonic mean of its scores; 0 where it was not judged.
    """

    reason: str | None
    overall: float


class Sieve:
    """Lets answers pass whose scores are high enough.

    Args:
        judge: who scores.
        limits: the least scores.
        folder: keeps the scores of each concept, so that nothing is judged twice.
    """

    def __init__(self, judge: Judge, limits: JudgedConfig, folder: BuildFolder) -> None:
        self._judge = judge
        self._limits = limits
        self._folder = folder

    def sift(
        self, answers: Sequence[Answer], done: Callable[[int], object] | None = None
    ) -> list[Verdict]:
        """Judge answers that show one concept, in their order.

        Args:
            answers: to one concept.
            done: told how many more are finished.

        Raises:
            EndpointError: if the judge can judge nothing; what it judged is kept.
        """
        if not answers:
            return []
        place = _hash([answers[0].concept])
        kept: dict[str, Scores] = self._kept(place)
        keys = [_hash(list(answer)) for answer in answers]
        left = {key: answer for key, answer in zip(keys, answers, strict=True) if key not in kept}
        if done is not None:
            done(len(answers) - len(left))
        names = list(left)
        for start in range(0, len(names), AT_ONCE):
            part = names[start : start + AT_ONCE]
            found = self._judge.judge([left[key] for key in part])
            for key, judgement in zip(part, found, strict=True):
                if not isinstance(judgement, Failure):
                    concept, instruction, fluency = (rating.score for rating in judgement)
                    kept[key] = (concept, instruction, fluency)
            self._folder.keep(STAGE, place, {"judge": self._judge.name, "scores": kept})
            if done is not None:
                done(len(part))
        return [self._verdict(kept.get(key)) for key in keys]

    def _kept(self, place: str) -> dict[str, Scores]:
        """Return the scores that this judge has given; another judge's count for nothing."""
        content = self._folder.part(STAGE, place)
        if content is None or content["judge"] != self._judge.name:
            return {}
        return {key: tuple(scores) for key, scores in content["scores"].items()}

    def _verdict(self, scores: Scores | None) -> Verdict:
        if scores is None:
            return Verdict(NOT_JUDGED, 0.0)
        return Verdict(_fault(scores, self._limits), harmonic_mean(scores))


def _fault(scores: Scores, limits: JudgedConfig) -> str | None:
    """Return the first score that is too low, or None."""
    concept, instruction, fluency = scores
    if concept < limits.min_concept:
        return NO_CONCEPT
    if instruction < limits.min_instruction:
        return OFF_TASK
    return NOT_FLUENT if fluency < limits.min_fluency else None


def _hash(parts: list[str]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]
