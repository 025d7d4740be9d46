"""The offline judge: no API, only a base LM whose likelihoods and states are calibrated to scores.

It ranks answers; it does not understand them. docs/judges.md has its figures and its limits.
"""

from collections.abc import Callable, Sequence

from hypersteer.config import JudgeConfig
from hypersteer.errors import ConfigError, nearest
from hypersteer.judges.calibration import RECIPE, Calibration, Scale
from hypersteer.judges.judge import (
    DIMENSIONS,
    EMPTY,
    Answer,
    Failure,
    Judgement,
    Rating,
    in_few_words,
)
from hypersteer.judges.lm_signals import SignalReader, Signals
from hypersteer.lm.base import BaseLM

AT_ONCE = 64
"""Answers between two calls of `done`; they are sorted by length among themselves."""


MEANING = {
    "match": "likeness of the response's states to the concept's",
    "deep_match": "likeness of the response's deeper states to the concept's",
    "gain": "likelihood that the response adds to the concept's text (nats per token)",
    "task_match": "likeness of the response's states to the instruction's",
    "deep_task_match": "likeness of the response's deeper states to the instruction's",
    "task_gain": "likelihood that the instruction adds to the response (nats per token)",
    "familiarity": "mean log-likelihood of the response's tokens (nats)",
    "novelty": "repeated sequences of three tokens (share, negative)",
    "own_words": "words taken from the concept's text (share, negative)",
}


class LikelihoodJudge:
    """Scores answers from signals of a base LM (`hypersteer.judges.lm_signals`).

    A score is twice the expected label under the calibration: positives of the calibration data
    count 1; negatives, responses to other instructions and corrupted responses count 0. Equal
    answers always get equal scores, and no answer is a failure.

    Attributes:
        name: the base LM with its fingerprint, and the version of the calibration.

    Args:
        lm: the base LM; that of the steered texts or any other.
        calibration: constants made for this base LM; the bundled ones by default.

    Raises:
        ConfigError: if the calibration was made with another base LM.
    """

    def __init__(self, lm: BaseLM, calibration: Calibration | None = None) -> None:
        self._calibration = calibration or Calibration.load()
        made_for = self._calibration
        named = f"the likelihood judge's calibration {made_for.version}"
        if difference := lm.difference(made_for.identity or made_for.fingerprint, named):
            raise ConfigError(
                f"{named} was made with {made_for.base_lm}, another base LM than {lm.name} "
                f"({lm.fingerprint}): {difference}; make one with {RECIPE} and give it as "
                "judge.calibration"
            )
        for dimension, scale in made_for.scales.items():
            if unknown := set(scale.signals) - MEANING.keys():
                raise ConfigError(
                    f"the calibration's {dimension} reads the unknown signal '{min(unknown)}'"
                    f"{nearest(min(unknown), MEANING)}"
                )
        self.name = f"likelihood ({lm.name} {lm.fingerprint}, calibration {made_for.version})"
        self._reader = SignalReader(lm, made_for.background)

    @classmethod
    def from_config(cls, config: JudgeConfig, lm: BaseLM) -> "LikelihoodJudge":
        """Make the judge that an evaluation's settings describe."""
        return cls(lm, Calibration.load(config.calibration))

    def judge(
        self, answers: Sequence[Answer], done: Callable[[int], object] | None = None
    ) -> list[Judgement | Failure]:
        """Judge answers, in their order; equal answers are read once.

        Args:
            answers: what to judge.
            done: told how many more answers are finished, for progress bars.
        """
        counts: dict[Answer, int] = {}
        for answer in answers:
            counts[answer] = counts.get(answer, 0) + 1
        # Long and short answers apart, so that little is padded.
        distinct = sorted(counts, key=lambda answer: len(answer.response) + len(answer.concept))
        found: dict[Answer, Judgement] = {}
        for start in range(0, len(distinct), AT_ONCE):
            part = distinct[start : start + AT_ONCE]
            for answer, signals in zip(part, self._reader.read(part), strict=True):
                found[answer] = judgement(answer, signals, self._calibration)
            if done is not None:
                done(sum(counts[answer] for answer in part))
        return [found[answer] for answer in answers]


def judgement(answer: Answer, signals: Signals, calibration: Calibration) -> Judgement:
    """Return the scores that signals stand for, under a calibration."""
    if not answer.response.strip():
        return Judgement(EMPTY, EMPTY, EMPTY)
    rated = {name: _rating(calibration.scales[name], signals.by_name()) for name in DIMENSIONS}
    rated["fluency"] = in_few_words(rated["fluency"], answer.response)
    return Judgement(**rated)


def _rating(scale: Scale, values: dict[str, float]) -> Rating:
    """Return a score, and the signal that moved it furthest from the calibration mean."""
    parts = scale.parts(values)
    score = scale.score(values)
    first = max(parts, key=lambda name: abs(parts[name]))
    usual = scale.mean[scale.signals.index(first)]
    reason = (
        f"{score:.2f} of 2, {'raised' if parts[first] > 0 else 'lowered'} most by {first} "
        f"{values[first]:.2f} against a usual {usual:.2f}: {MEANING[first]}."
    )
    return Rating(score, reason)
