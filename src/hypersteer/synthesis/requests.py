"""Requests for responses: the question itself, and the worked examples before it."""

from collections.abc import Iterable

from hypersteer.config.synthesis import NO_LM, SynthesisConfig
from hypersteer.synthesis.examples import (
    ask_short_positive,
    hard_negative_examples,
    negative_examples,
    positive_examples,
)
from hypersteer.synthesis.prompts import (
    MAX_CONCEPT_WORDS,
    Message,
    ask_concepts,
    ask_hard_negative,
    ask_negative,
    ask_positive,
    word_limit,
)
from hypersteer.synthesis.served import examples

LONG_WORD = "x" * 24
LONG_MEANING = "x" * 240
CONCEPT_BYTES = 8 * MAX_CONCEPT_WORDS
"""Of the longest concept that a teacher invents."""
KNOWN_BYTES = 64
"""Of the usual one, which a request for others names by the dozen."""


class Requests:
    """Makes the requests of a build.

    Attributes:
        limit: how many words a response may have.

    Args:
        config: the settings.
    """

    def __init__(self, config: SynthesisConfig) -> None:
        by_words = config.base_lm.name == NO_LM
        self.limit = word_limit(config.response_tokens, by_words=by_words)
        self._theme = config.theme or ""
        shown = examples(config.teacher)
        self._positive = positive_examples(shown, self.limit)
        self._negative = negative_examples(shown, self.limit)
        self._hard_negative = hard_negative_examples(shown, self.limit)

    def positive(self, instruction: str, concept: str) -> Message:
        """Ask for a response that shows a concept."""
        ask = ask_short_positive if self._positive else ask_positive
        return [*self._positive, *ask(instruction, concept, self.limit)]

    def negative(self, instruction: str, concept: str) -> Message:
        """Ask for a response that keeps away from a concept."""
        return [*self._negative, *ask_negative(instruction, concept, self.limit)]

    def hard_negative(self, instruction: str, concept: str, word: str, meaning: str) -> Message:
        """Ask for a response with a word of the concept in another meaning."""
        asked = ask_hard_negative(instruction, concept, word, meaning, self.limit)
        return [*self._hard_negative, *asked]

    def longest(
        self, concepts: Iterable[str] | None, instructions: Iterable[str], invented: int, known: int
    ) -> Message:
        """Return a request that is as long as the longest of a build.

        Args:
            concepts: all of them; None where they have yet to be invented.
            instructions: all that may be asked.
            invented: how many concepts a request asks for, where they are invented.
            known: how many a request names that are known.
        """
        instruction = _longest(instructions)
        concept = "x" * CONCEPT_BYTES if concepts is None else _longest(concepts)
        asked = [
            self.positive(instruction, concept),
            self.negative(instruction, concept),
            self.hard_negative(instruction, concept, LONG_WORD, LONG_MEANING),
        ]
        if concepts is None:
            asked.append(ask_concepts(self._theme, invented, ["x" * KNOWN_BYTES] * known))
        return max(asked, key=_size)


def _longest(texts: Iterable[str]) -> str:
    return max(texts, key=lambda text: len(text.encode()), default="")


def _size(message: Message) -> int:
    return sum(len(one["content"].encode()) for one in message)
