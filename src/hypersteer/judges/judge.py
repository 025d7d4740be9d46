"""The interface of every judge: an answer in, three scores from 0 to 2 out, with reasons."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from hypersteer.judges.lexical import words_of

DIMENSIONS = ("concept", "instruction", "fluency")
"""What is scored: is the concept in the answer, does it answer, and does it read well."""


class Answer(NamedTuple):
    """What is judged: a response, the instruction it answers, and the concept it should show.

    Attributes:
        concept: what it should show.
        instruction: what it answers.
        response: the answer itself.
        plain: what the unsteered model answered, where it is known; judges may compare with it.
    """

    concept: str
    instruction: str
    response: str
    plain: str = ""


class Rating(NamedTuple):
    """A score in [0, 2], and why."""

    score: float
    reason: str


EMPTY = Rating(0.0, "The response is empty.")
"""What an empty response gets in every dimension, from every judge."""
FEW_WORDS = 4
"""Below as many words, a measured fluency score falls in proportion."""


class Judgement(NamedTuple):
    """The ratings of one answer."""

    concept: Rating
    instruction: Rating
    fluency: Rating

    @property
    def overall(self) -> float:
        """Harmonic mean of the three scores (AxBench); 0 if one of them is 0."""
        return harmonic_mean([rating.score for rating in self])


class Failure(NamedTuple):
    """An answer that could not be judged, and why; never a score of 0."""

    error: str


class Judge(Protocol):
    """Scores answers. `name` identifies the judge and its settings in results and caches."""

    name: str

    def judge(
        self, answers: Sequence[Answer], done: Callable[[int], object] | None = None
    ) -> list[Judgement | Failure]:
        """Judge answers, in their order.

        Args:
            answers: what to judge.
            done: told how many more answers are finished, for progress bars.

        Raises:
            SteeringError: where no answer can be judged at all (no key, no endpoint).
        """
        ...


def in_few_words(fluency: Rating, response: str) -> Rating:
    """Return a measured rating of fluency, lowered where the response is too short to read as one.

    Args:
        fluency: as measured.
        response: what was measured.
    """
    words = len(words_of(response))
    if words >= FEW_WORDS:
        return fluency
    reason = f"Lowered, since it has {words} of the {FEW_WORDS} words that a sentence needs."
    return Rating(fluency.score * words / FEW_WORDS, reason)


def harmonic_mean(scores: Sequence[float]) -> float:
    """Return the harmonic mean of scores that are 0 or more; 0 if one of them is 0."""
    if not scores or min(scores) <= 0:
        return 0.0
    return len(scores) / sum(1 / score for score in scores)
