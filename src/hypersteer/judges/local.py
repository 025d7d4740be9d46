"""The local judge: a model that is not the steered one, asked three short questions.

Each dimension is asked for with Yes or No and read by the probability of the answer
(`hypersteer.judges.yes_no`), after a few answered examples. A third model, not the steered one
either, reads how near the states of the response are to the concept's (`hypersteer.judges
.lm_signals`) and how whole the text is (`hypersteer.judges.fluency`): asked alone, a small model
takes garbled text for well written. Examples and response come
before the question, so that an engine with a prefix cache reads them once. docs/judges.md has the
figures.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

from hypersteer.endpoint.replies import Failed, Messages
from hypersteer.judges.calibration import Background, Calibration, Scale
from hypersteer.judges.examples import EXAMPLES
from hypersteer.judges.fluency import FluencyReader, FluencySignals
from hypersteer.judges.judge import EMPTY, Answer, Failure, Judgement, Rating, in_few_words
from hypersteer.judges.lm_signals import SignalReader, Signals
from hypersteer.judges.local_calibration import LocalCalibration, probability
from hypersteer.judges.yes_no import Asker, EndpointAsker
from hypersteer.lm.base import BaseLM

VERSION = 2
"""Raise it with every change of wording: it is part of the judge's name."""
MOST_CHARACTERS = 2000
"""Most characters of a response that are shown; what is longer is cut."""
QUESTIONS = {
    "concept": "The writer was told: {concept}\nDid the writer clearly do it?",
    "instruction": "Does the text deal with this request: {instruction}",
    "fluency": "Is the text well written: whole sentences that make sense, with no repetition and "
    "no garbled words?",
}
"""The dimensions that are asked for, with the question of each."""


def _asking(text: str, asked: str) -> str:
    return f"Text:\n{text}\n\n{asked}\nAnswer Yes or No."


SHOWN: Messages = [
    message
    for name, reply, text, about in EXAMPLES
    for message in (
        {
            "role": "user",
            "content": _asking(text, QUESTIONS[name].format(concept=about, instruction=about)),
        },
        {"role": "assistant", "content": reply},
    )
]
"""The examples, as every question begins with them."""


class LocalJudge:
    """Scores answers by an asked model's probabilities and another's likelihoods.

    Attributes:
        name: both models, the version of the questions and of the calibration.
        runs_engine: whether an engine of ours answers, which takes all cores of the machine.

    Args:
        asker: who answers the questions.
        lm: who reads states and measures fluency.
        calibration: turns log-odds and signals into scores.
        shares: says where a model that judges is the steered one; part of the name.

    Raises:
        ConfigError: if there are no scales for the model that measures.
    """

    def __init__(
        self, asker: Asker, lm: BaseLM, calibration: LocalCalibration, shares: str = ""
    ) -> None:
        self._asker = asker
        self.runs_engine = isinstance(asker, EndpointAsker) and asker.endpoint.own_engine
        self._measured = calibration.of(lm)
        self._scales = self._measured.of_asker(asker.name)
        self._lm = lm
        named = "" if self._scales else ", not calibrated"
        self.name = (
            f"local ({asker.name}, questions {VERSION}{named}; measured by {lm.name} "
            f"{lm.fingerprint}, calibration {calibration.version}{shares})"
        )

    # Both read everyday texts first, which a run that has nothing left to judge need not wait for.
    @cached_property
    def _states(self) -> SignalReader:
        return SignalReader(self._lm, background(self._measured.layers), concept_only=True)

    @cached_property
    def _fluency(self) -> FluencyReader:
        texts = background(self._measured.layers).texts
        return FluencyReader(self._lm, texts, self._measured.plain_likelihood)

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
        states, whole = self._states.read(full), self._fluency.read(full)
        found = iter(
            self._judgement(
                answer, {name: odds[i, name] for name in QUESTIONS}, states[i], whole[i]
            )
            for i, answer in enumerate(full)
        )
        empty = Judgement(EMPTY, EMPTY, EMPTY)
        return [next(found) if answer.response.strip() else empty for answer in answers]

    def _judgement(
        self,
        answer: Answer,
        replies: Mapping[str, float | Failed],
        states: Signals,
        whole: FluencySignals,
    ) -> Judgement | Failure:
        failed = [f"{name}: {r.error}" for name, r in replies.items() if isinstance(r, Failed)]
        if failed:
            return Failure("; ".join(failed))
        odds = {name: r for name, r in replies.items() if not isinstance(r, Failed)}
        values = states.by_name() | odds
        return Judgement(
            concept=self._asked("concept", values),
            instruction=self._asked("instruction", values),
            fluency=self._whole(answer, whole.by_name() | odds),
        )

    def _asked(self, dimension: str, values: Mapping[str, float]) -> Rating:
        share = probability(values[dimension])
        scale: Scale | None = getattr(self._scales, dimension, None)
        score = 2 * share if scale is None else scale.score(values)
        return Rating(score, f"{score:.2f} of 2; the judge says Yes with probability {share:.2f}.")

    def _whole(self, answer: Answer, values: Mapping[str, float]) -> Rating:
        scale = self._scales.fluency if self._scales else self._measured.fluency
        score = scale.score(values)
        parts = scale.parts(values)
        first = min(parts, key=lambda name: parts[name])
        what = "what the judge says" if first in QUESTIONS else first.replace("_", " ")
        reason = f"Least good in {what}: {values[first]:.2f}."
        return in_few_words(Rating(score, reason), answer.response)


def background(layers: Sequence[int]) -> Background:
    """Return what states are compared with: the texts that the likelihood judge has, too.

    Args:
        layers: the two blocks that are compared.
    """
    return replace(Calibration.load().background, layers=tuple(layers))


def in_order(count: int) -> list[tuple[int, str]]:
    """Return the places of answers and the names of questions, in the order to ask them.

    All questions about an answer come one after another, so that its text is still at hand.

    Args:
        count: answers.
    """
    return [(i, name) for i in range(count) for name in QUESTIONS]


def question(name: str, answer: Answer) -> Messages:
    """Return a question about an answer.

    Args:
        name: one of `QUESTIONS`.
        answer: what is judged.
    """
    text = answer.response.strip()[:MOST_CHARACTERS]
    texts = {"concept": answer.concept.strip(), "instruction": answer.instruction.strip()}
    asked = _asking(text, QUESTIONS[name].format(**texts))
    return [*SHOWN, {"role": "user", "content": asked}]


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
