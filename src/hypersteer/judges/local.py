"""The local judge: a model that is not the steered one, asked one short question per dimension.

Concept and instruction are asked with Yes or No and read by the probability of the answer
(`hypersteer.judges.yes_no`); fluency is measured (`hypersteer.judges.fluency`). A question begins
with the response, so that an engine with a prefix cache reads it once for both. docs/judges.md has
the figures.
"""

from collections.abc import Callable, Sequence

from hypersteer.endpoint.replies import Failed, Messages
from hypersteer.judges.fluency import FluencyReader, FluencySignals, Plain
from hypersteer.judges.judge import Answer, Failure, Judgement, Rating
from hypersteer.judges.lexical import words_of
from hypersteer.judges.local_calibration import FluencyScale, LocalCalibration, probability
from hypersteer.judges.yes_no import Asker
from hypersteer.lm.base import BaseLM

VERSION = 1
"""Raise it with every change of wording: it is part of the judge's name."""
MOST_CHARACTERS = 2000
"""Most characters of a response that are shown; what is longer is cut."""
FEW_WORDS = 4
"""Below as many words, the fluency score falls in proportion."""
EMPTY = Rating(0.0, "The response is empty.")
ASKED = ("concept", "instruction")
"""The dimensions that are asked for; fluency is measured."""


class LocalJudge:
    """Scores answers by an asked model's probabilities and another's likelihoods.

    Attributes:
        name: both models, the version of the questions and of the calibration.

    Args:
        asker: who answers the questions.
        lm: who measures fluency.
        calibration: turns log-odds and signals into scores.
        shares: says where a model that judges is the steered one; part of the name.

    Raises:
        ConfigError: if there is no fluency scale for the model that measures it.
    """

    def __init__(
        self, asker: Asker, lm: BaseLM, calibration: LocalCalibration, shares: str = ""
    ) -> None:
        self._asker = asker
        self._scales = calibration.asked(asker.name)
        self._fluency: FluencyScale = calibration.fluency_of(lm)
        plain = Plain(self._fluency.plain_likelihood, self._fluency.plain_worst)
        self._reader = FluencyReader(lm, plain)
        named = "" if self._scales else ", not calibrated"
        self.name = (
            f"local ({asker.name}, questions {VERSION}{named}; fluency by {lm.name} "
            f"{lm.fingerprint}, calibration {calibration.version}{shares})"
        )

    def judge(
        self, answers: Sequence[Answer], done: Callable[[int], object] | None = None
    ) -> list[Judgement | Failure]:
        """Judge answers, in their order; equal questions are asked once, also over runs.

        Args:
            answers: what to judge.
            done: told how many more answers are finished, for progress bars.

        Raises:
            EndpointError: where no answer can be judged at all; what was answered is kept on disk.
        """
        full = [answer for answer in answers if answer.response.strip()]
        if done is not None and len(full) < len(answers):
            done(len(answers) - len(full))
        questions = [question(name, answer) for answer in full for name in ASKED]
        replies = self._asker.ask(questions, _halves(done))
        signals = self._reader.read(full)
        found = iter(
            self._judgement(answer, replies[2 * i : 2 * i + 2], signals[i])
            for i, answer in enumerate(full)
        )
        empty = Judgement(EMPTY, EMPTY, EMPTY)
        return [next(found) if answer.response.strip() else empty for answer in answers]

    def _judgement(
        self, answer: Answer, replies: Sequence[float | Failed], signals: FluencySignals
    ) -> Judgement | Failure:
        ratings: dict[str, Rating] = {}
        errors: list[str] = []
        for name, reply in zip(ASKED, replies, strict=True):
            if isinstance(reply, Failed):
                errors.append(f"{name}: {reply.error}")
            else:
                ratings[name] = self._asked(name, reply)
        if errors:
            return Failure("; ".join(errors))
        return Judgement(**ratings, fluency=self._measured(answer, signals))

    def _asked(self, name: str, odds: float) -> Rating:
        share = probability(odds)
        scale = self._scales.get(name)
        score = 2 * share if scale is None else scale.score({"log_odds": odds})
        return Rating(score, f"The judge says Yes with probability {share:.2f}.")

    def _measured(self, answer: Answer, signals: FluencySignals) -> Rating:
        scale, values = self._fluency.scale, signals.by_name()
        score = scale.score(values)
        parts = scale.parts(values)
        first = min(parts, key=lambda name: parts[name])
        reason = f"Least good in {first.replace('_', ' ')}: {values[first]:.2f}."
        words = len(words_of(answer.response))
        if words < FEW_WORDS:
            score *= words / FEW_WORDS
            reason = f"It has {words} of the {FEW_WORDS} words that a sentence needs."
        return Rating(score, reason)


def question(dimension: str, answer: Answer) -> Messages:
    """Return the question of one dimension.

    Args:
        dimension: `concept` or `instruction`.
        answer: what is judged.
    """
    text = answer.response.strip()[:MOST_CHARACTERS]
    if dimension == "concept":
        asked = f"Does the text clearly show this: {answer.concept.strip()}?"
    else:
        asked = f"Does the text deal with this request: {answer.instruction.strip()}"
    return [{"role": "user", "content": f"Text:\n{text}\n\n{asked}\nAnswer Yes or No."}]


def _halves(done: Callable[[int], object] | None) -> Callable[[int], object] | None:
    """Turn counts of questions into counts of answers."""
    if done is None:
        return None
    asked = 0

    def count(more: int) -> None:
        nonlocal asked
        before, asked = asked, asked + more
        if finished := asked // len(ASKED) - before // len(ASKED):
            done(finished)

    return count
