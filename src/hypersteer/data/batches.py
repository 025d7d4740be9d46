"""Token rows of a training run, and which of them make up each step.

The composition of a step is a pure function of (seed, step), so that resuming needs only the step
number, and a run on several processes sees the same global batches as a run on one.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from hypersteer.data.showing import AS_IT_IS, Showing
from hypersteer.data.sources import ConceptData
from hypersteer.errors import DataError, SteeringError
from hypersteer.lm.chat import Chat, PromptIds
from hypersteer.lm.messages import prompted

BUCKET = 16
"""Batches that are sorted by length together: more saves padding, fewer mixes rows better."""


class TrainingRow(NamedTuple):
    """A tokenised example with the steering prompt it shows, and one that it does not.

    `prompt` is what the base LM reads under the edit: the example's own prompt, which `plain` is in
    any case, or the one that says the steering prompt, too, which is `prompted`; that is None where
    nobody wants it. `strength` is that of its edits in this step; where the row is `negated` they
    are to undo what the steering prompt says, and the base LM's own answer is what is wanted.
    `contrast` is the weight of its contrastive term, 0 where that is not measured.
    """

    prompt: PromptIds
    response: list[int]
    steering: list[int]
    wrong: list[int]
    concept_id: int
    plain: PromptIds
    prompted: PromptIds | None = None
    strength: float = 1.0
    negated: bool = False
    contrast: float = 1.0


class Tokenised:
    """Turns rows of concept data into token ids.

    Attributes:
        data: see below.
        beside: see below.

    Args:
        data: where the rows are.
        chat: the base LM's templates.
        max_prompt_tokens: rows with longer prompts count as unusable.
        max_response_tokens: responses are cut here, and then have no end of turn.
        prompting: whether rows carry their prompted form, which costs one more template each.
        window: the base LM's context window; rows in which something longer would be read count as
            unusable.
        together: whether the hypernetwork reads the steering prompt and the base prompt as one.
        beside: whether edits act on prompts that say the steering prompt, too.
    """

    def __init__(
        self,
        data: ConceptData,
        chat: Chat,
        max_prompt_tokens: int,
        max_response_tokens: int,
        *,
        prompting: bool = False,
        window: int = 2**31,
        together: bool = False,
        beside: bool = False,
    ) -> None:
        self.data = data
        self._chat = chat
        self._max_prompt = max_prompt_tokens
        self._max_response = max_response_tokens
        self._prompting = prompting or beside
        self.beside = beside
        self._window = window
        self._together = together
        self._lead = len(chat.lead)
        # The same few steering prompts come again and again, right and wrong.
        self._steering = lru_cache(maxsize=None)(lambda id_: chat.text(self.text(id_)))

    def row(self, index: int, wrong_concept: int) -> TrainingRow | None:
        """Return the row with another concept's steering prompt beside its own; None if unusable.

        Unusable is what is too long, and what has no response.

        Raises:
            DataError: if the chat template refuses its prompt, naming the row.
        """
        example = self.data.example(index)
        if not example.response.strip():
            return None
        plain = self._prompt(index, example.prompt)
        response = self._chat.response(example.response, ends=example.complete)
        response = response[: self._max_response]
        if len(plain.ids) > self._max_prompt or not response:
            return None
        steering, wrong = self.steering(example.concept_id), self.steering(wrong_concept)
        given = self.prompted(index, example.concept_id) if self._prompting else None
        prompt = given if given is not None and self.beside else plain
        own = len(prompt.ids) - prompt.prefix if self._together else 0
        if self._lead + max(len(steering), len(wrong)) + own > self._window:
            return None
        if given is not None and not self.fits(given, response):
            return None
        return TrainingRow(prompt, response, steering, wrong, example.concept_id, plain, given)

    def prompted(self, index: int, concept_id: int) -> PromptIds:
        """Return the row's prompt with a steering prompt put into the user turn.

        Raises:
            DataError: if the chat template refuses it, naming the row.
        """
        text = prompted(self.data.example(index).prompt, self.text(concept_id))
        return self._prompt(index, text)

    def fits(self, prompt: PromptIds, response: Sequence[int]) -> bool:
        """Return whether a prompt and a response together fit the context window."""
        return len(prompt.ids) + len(response) <= self._window

    def _prompt(self, index: int, text: str) -> PromptIds:
        try:
            return self._chat.prompt(text)
        except SteeringError as error:
            raise DataError(f"{self.data.where(index)}: {error}") from error

    def steering(self, concept_id: int) -> list[int]:
        """Return token ids of a concept's text."""
        return self._steering(concept_id)

    def read_alone(self, concept_id: int) -> int:
        """Count the tokens read of a concept's text: its own, and one that begins a text."""
        return self._lead + len(self.steering(concept_id))

    def text(self, concept_id: int) -> str:
        """Return a concept's text, which is the steering prompt."""
        return self.data.concept(concept_id).text


class TrainingBatches:
    """Shuffled batches of like length over the training rows, epoch after epoch.

    Args:
        tokens: the tokeniser of rows.
        rows: training rows.
        concepts: ids that wrong steering prompts are drawn from.
        size: rows of a global batch (all processes together).
        seed: all choices follow from it.
        showing: how rows are shown, which is drawn anew in every step.

    Raises:
        DataError: if there are no rows.
    """

    def __init__(
        self,
        tokens: Tokenised,
        rows: np.ndarray,
        concepts: Sequence[int],
        size: int,
        seed: int,
        showing: Showing = AS_IT_IS,
    ) -> None:
        if not len(rows):
            raise DataError(f"{tokens.data.name} leaves no rows to train on; raise the limits")
        self._tokens = tokens
        self._rows = rows
        self._lengths = tokens.data.lengths(rows)
        self._concepts = np.asarray(concepts)
        self._size = size
        self._seed = seed
        self._showing = showing
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch; rows that do not fill a batch wait for another epoch's shuffle."""
        return max(1, len(self._rows) // self._size)

    def batch(self, step: int, share: tuple[int, int] = (0, 1)) -> list[TrainingRow]:
        """Return the global batch of a step, counted from 0, or the part of one process.

        Args:
            step: which step.
            share: the process's number and the number of processes; rows of the others are not
                tokenised.
        """
        epoch, within = divmod(step, self.per_epoch)
        picked = self._epoch(epoch)[within].tolist()
        number, processes = share
        random = np.random.default_rng([self._seed, step, 1])
        # All draws of a step, whoever's they are: what a row is shown depends on no other row.
        wrong = [self._wrong(position, random) for position in picked]
        shown = self._showing.draw(self._seed, step, len(picked))
        rows = []
        for place in range(number, len(picked), processes):
            row, how = self._usable(step, place, picked[place], wrong[place]), shown[place]
            prompt = row.plain if how.alone else row.prompt
            drawn = {"strength": how.strength, "negated": how.negated, "contrast": how.contrast}
            rows.append(row._replace(prompt=prompt, **drawn))
        return rows

    def each(self) -> Iterator[TrainingRow]:
        """Yield every usable training row once, as it is before a step shows it."""
        for index in self._rows.tolist():
            row = self._tokens.row(index, self._tokens.data.concept_id(index))
            if row is not None:
                yield row

    def _make_epoch(self, epoch: int) -> np.ndarray:
        """Return positions [batches, size] into the rows: batches of like length, shuffled."""
        random = np.random.default_rng([self._seed, epoch, 0])
        wanted = self.per_epoch * self._size
        order = random.permutation(len(self._rows))
        order = np.resize(order, wanted)
        span = BUCKET * self._size
        pieces = [order[start : start + span] for start in range(0, wanted, span)]
        order = np.concatenate([p[np.argsort(self._lengths[p], kind="stable")] for p in pieces])
        return random.permutation(order.reshape(self.per_epoch, self._size))

    def _wrong(self, position: int, random: np.random.Generator) -> int:
        """Draw the id of another concept than that of the row at a position, if there is one."""
        own = self._tokens.data.concept_id(int(self._rows[position % len(self._rows)]))
        others = self._concepts[self._concepts != own]
        return int(random.choice(others)) if len(others) else own

    def _usable(self, step: int, place: int, position: int, wrong: int) -> TrainingRow:
        """Return the row at a position, or the next one that fits."""
        random = np.random.default_rng([self._seed, step, 1, place])
        for offset in range(len(self._rows)):
            if offset:
                wrong = self._wrong(position + offset, random)
            row = self._tokens.row(int(self._rows[(position + offset) % len(self._rows)]), wrong)
            if row is not None:
                return row
        raise DataError(
            f"no row of {self._tokens.data.name} fits: every prompt is too long for the context "
            "window of the base LM or for data.max_prompt_tokens; raise it"
        )


def tokens_of(rows: Sequence[TrainingRow]) -> int:
    """Count the tokens of prompts and responses together."""
    return sum(len(row.prompt.ids) + len(row.response) for row in rows)


class ValidationRow(NamedTuple):
    """A validation row, and its prompt with either steering prompt put into the user turn.

    `wrong_prompt` is what the base LM reads under the edit of the wrong steering prompt.
    """

    row: TrainingRow
    prompted: PromptIds
    wrongly_prompted: PromptIds
    wrong_prompt: PromptIds


def validation_rows(
    tokens: Tokenised, rows: np.ndarray, concepts: Sequence[int], seed: int
) -> list[ValidationRow]:
    """Tokenise validation rows with fixed wrong steering prompts, sorted by length.

    Left out are rows that are unusable, or that do not fit the context window with a steering
    prompt in the user turn.

    Args:
        tokens: the tokeniser of rows.
        rows: held-in or held-out rows.
        concepts: ids that the wrong steering prompts are drawn from.
        seed: of that draw.
    """
    random = np.random.default_rng([seed, 2])
    kept = []
    for index in rows[np.argsort(tokens.data.lengths(rows), kind="stable")]:
        own = tokens.data.concept_id(index)
        others = [concept for concept in concepts if concept != own]
        wrong = int(random.choice(others)) if others else own
        row = tokens.row(int(index), wrong)
        if row is not None:
            right, other = (tokens.prompted(int(index), c) for c in (own, wrong))
            if tokens.fits(right, row.response) and tokens.fits(other, row.response):
                read = other if tokens.beside else row.prompt
                kept.append(ValidationRow(row, right, other, read))
    return kept


def chunks(rows: Sequence[ValidationRow], size: int) -> Iterator[Sequence[ValidationRow]]:
    """Consecutive batches of at most `size` rows."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
