"""Decides rules in a worker, which has the base LM: conditions made, prompts read in one pass."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from hypersteer.conditions.ahead import decide_ahead
from hypersteer.conditions.checks import check_condition, layers_read
from hypersteer.conditions.condition import Condition
from hypersteer.conditions.head import head_for
from hypersteer.conditions.rules import Rules, rules
from hypersteer.conditions.written import condition
from hypersteer.errors import CheckpointError, SteeringError
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import length_batches
from hypersteer.vllm_plugin.questions import Answer, Question, Told, answered, questions_of

TOGETHER = 2048
"""Tokens of prompts that are read at once, padding included, as those of conditions' texts are."""


class Deciding:
    """Decides rules on prompts.

    Attributes:
        lm: the base LM.
        blocks: how many of the base LM's blocks it reads, from the lowest on.

    Args:
        lm: the base LM, whole; from now on it needs those blocks only.
        conditions: those that rules may name.
        head: file of the head that makes conditions of words; by default the one that ships.

    Raises:
        CheckpointError: if a condition or the head is for another base LM, or there is neither.
    """

    def __init__(
        self, lm: BaseLM, conditions: Mapping[str, Condition], head: Path | None = None
    ) -> None:
        self.lm, self._make = lm, partial(condition, lm=lm, head=head)
        self._conditions = {name: _settled(lm, name, one) for name, one in conditions.items()}
        layers = {layer for one in self._conditions.values() for layer in one.layers}
        try:
            config = head_for(lm, head)[1].config
        except CheckpointError:
            if head is not None or not conditions:
                raise
        else:
            layers |= {lm.site(one).layer for one in (*config.words_layers, *config.layers)}
        self.blocks = max(layers) + 1

    def answer(self, text: str) -> str:
        """Return the answers to questions; see `hypersteer.vllm_plugin.questions`.

        Raises:
            SteeringError: for a text that holds no questions.
        """
        return answered(self.answers(questions_of(text)))

    @torch.no_grad()
    def answers(self, questions: Sequence[Question]) -> list[Answer]:
        """Return what is decided, or why it cannot be, question by question.

        Prompts of similar lengths are read together; one that is at fault leaves the others be.
        """
        made = {one.rules: self._made(one.rules) for one in questions}
        found: dict[int, Answer] = {}
        rows: dict[int, Rules] = {}
        for number, one in enumerate(questions):
            given = made[one.rules]
            if isinstance(given, str):
                found[number] = given
            else:
                rows[number] = given
        numbers = list(rows)
        sizes = [len(questions[number].prompt.ids) for number in numbers]
        for part in length_batches(sizes, tokens=TOGETHER):
            own = [numbers[place] for place in part]
            prompts = [questions[number].prompt for number in own]
            checks = decide_ahead(self.lm, prompts, [rows[number] for number in own])
            found |= {own[row]: check for row, check in checks.items()}
        return [found[number] for number in range(len(questions))]

    def _made(self, told: Told) -> Rules | str:
        """Return rules with conditions in place of words, or why they cannot be decided."""
        try:
            made = rules(
                told.text,
                conditions=self._conditions,
                edits={name: name for name in told.names},  # what they hold decides nothing
                tokens=told.tokens,
            ).ready(self._make)
            layers_read(self.lm, made)
        except SteeringError as error:
            return str(error)
        return made


def _settled(lm: BaseLM, name: str, given: Condition) -> Condition:
    """Return a condition with layers counted from the lowest: the highest will not stay.

    Raises:
        SteeringError: if it is not for this base LM.
    """
    check_condition(lm, given, name)
    fitted, layers = (
        tuple(layer % lm.depth for layer in one) for one in (given.fitted, given.layers)
    )
    return replace(given, fitted=fitted, layers=layers)
