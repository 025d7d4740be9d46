"""The local judge: a model that is not the steered one, asked short questions.

Concept and instruction are asked for with Yes or No, each once and once the other way round, and
read by the probability of the answer (`hypersteer.judges.yes_no`): what says Yes to everything says
it to both. Fluency is measured (`hypersteer.judges.fluency`). Questions begin with the response, so
that an engine with a prefix cache reads it once. docs/judges.md has the figures.
"""

from collections.abc import Callable, Mapping, Sequence

from hypersteer.endpoint.local_server import EngineSettings
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
AT_ONCE = EngineSettings().parallel
QUESTIONS = {
    "concept": "Is the text mainly about this, or written in this way: {concept}?",
    "no_concept": "Somebody says that the text has no trace of this: {concept}. Is that true?",
    "instruction": "Does the text deal with this request: {instruction}",
    "no_instruction": "Somebody says that the text ignores this request: {instruction}\n"
    "Is that true?",
}
"""Signals by name, and the question that each is the log-odds of Yes to."""
DIMENSIONS_ASKED = {
    "concept": ("concept", "no_concept"),
    "instruction": ("instruction", "no_instruction"),
}
"""Which signals a dimension is read from; those of `no_` count the other way."""


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
        asked = in_order(len(full))
        replies = self._asker.ask([question(name, full[i]) for i, name in asked], _in_answers(done))
        odds = dict(zip(asked, replies, strict=True))
        signals = self._reader.read(full)
        found = iter(
            self._judgement(answer, {name: odds[i, name] for name in QUESTIONS}, signals[i])
            for i, answer in enumerate(full)
        )
        empty = Judgement(EMPTY, EMPTY, EMPTY)
        return [next(found) if answer.response.strip() else empty for answer in answers]

    def _judgement(
        self, answer: Answer, replies: Mapping[str, float | Failed], signals: FluencySignals
    ) -> Judgement | Failure:
        failed = [f"{name}: {r.error}" for name, r in replies.items() if isinstance(r, Failed)]
        if failed:
            return Failure("; ".join(failed))
        values = asked_signals(replies)
        rated = {name: self._asked(name, values) for name in DIMENSIONS_ASKED}
        return Judgement(**rated, fluency=self._measured(answer, signals))

    def _asked(self, dimension: str, values: Mapping[str, float]) -> Rating:
        scale, own = self._scales.get(dimension), DIMENSIONS_ASKED[dimension]
        if scale is None:
            score = 2 * probability(sum(values[name] for name in own) / len(own))
        else:
            score = scale.score(values)
        shares = " and ".join(f"{probability(values[name]):.2f}" for name in own)
        return Rating(
            score, f"Asked for it, and the other way round, the judge is sure to {shares}."
        )

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


def asked_signals(replies: Mapping[str, float | Failed]) -> dict[str, float]:
    """Return signals that all point upwards from the log-odds of Yes to the questions."""
    return {
        name: -reply if name.startswith("no_") else reply
        for name, reply in replies.items()
        if not isinstance(reply, Failed)
    }


def in_order(count: int) -> list[tuple[int, str]]:
    """Return the places of answers and the names of questions, in the order to ask them.

    Answers come in groups of what an engine reads at once, each group under one question after
    another, so that the text of an answer is still at hand when its next question comes.

    Args:
        count: answers.
    """
    return [
        (i, name)
        for start in range(0, count, AT_ONCE)
        for name in QUESTIONS
        for i in range(start, min(start + AT_ONCE, count))
    ]


def question(name: str, answer: Answer) -> Messages:
    """Return a question about an answer.

    Args:
        name: one of `QUESTIONS`.
        answer: what is judged.
    """
    text = answer.response.strip()[:MOST_CHARACTERS]
    texts = {"concept": answer.concept.strip(), "instruction": answer.instruction.strip()}
    asked = QUESTIONS[name].format(**texts)
    return [{"role": "user", "content": f"Text:\n{text}\n\n{asked}\nAnswer Yes or No."}]


def _in_answers(done: Callable[[int], object] | None) -> Callable[[int], object] | None:
    """Turn counts of questions into counts of answers."""
    if done is None:
        return None
    asked = 0

    def count(more: int) -> None:
        nonlocal asked
        before, asked = asked, asked + more
        if finished := asked // len(QUESTIONS) - before // len(QUESTIONS):
            done(finished)

    return count
