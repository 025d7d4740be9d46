"""Answers of a method to questions, at every strength, with their likelihood under the base LM."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from hypersteer.config import ProtocolConfig
from hypersteer.edits.sites import Site
from hypersteer.engine.decoding import Decoding
from hypersteer.engine.generate import generate_ids
from hypersteer.evaluation.protocol import Question
from hypersteer.evaluation.records import Answered
from hypersteer.learning.values import Asked, Learned, Steering
from hypersteer.lm.base import BaseLM
from hypersteer.lm.likelihood import in_batches, response_token_losses
from hypersteer.methods.protocol import Adapts, Learner, can_steer

T = TypeVar("T")

SCORED_TOGETHER = 24
"""Most rows whose likelihood is computed at once; the vocabulary makes their logits large."""


class Prepared(NamedTuple):
    """A fitted method.

    Attributes:
        name: as reports call it.
        method: the method, or what only detects.
        learned: its stored parameters, notes and cost.
        lm: the base LM.
        site: where baselines act.
    """

    name: str
    method: Learner
    learned: Learned
    lm: BaseLM
    site: Site

    @property
    def scales(self) -> bool:
        """Whether its answers depend on a strength."""
        return can_steer(self.method) and self.method.scales

    def steer(self, questions: Sequence[Question]) -> Steering:
        """Return how it steers questions; not for what only detects."""
        assert can_steer(self.method)
        asked = [Asked(question.concept, question.instruction) for question in questions]
        return self.method.steer(self.lm, self.site, self.learned, asked)


def answer(
    prepared: Prepared, questions: Sequence[Question], protocol: ProtocolConfig
) -> list[Answered]:
    """Answer all questions, never more than `protocol.batch_size` answers at a time.

    A row's sampling has its own seed, so an answer does not depend on the rows beside it, nor on
    how many there are. All strengths of a question share the seed, the edit, and, as far as they
    fit into a batch, the prefill below the site.

    Args:
        prepared: who answers.
        questions: what is asked, of any concepts.
        protocol: strengths and decoding.

    Returns:
        one row per question and strength, in the order of the questions.
    """
    every = range(len(questions))
    groups = [list(every)]
    if isinstance(prepared.method, Adapts):
        ids = dict.fromkeys(question.concept.id for question in questions)
        groups = [[i for i in every if questions[i].concept.id == id_] for id_ in ids]
    rows: dict[int, list[Answered]] = {}
    for places in groups:
        found = _answer_together(prepared, [questions[i] for i in places], protocol)
        rows |= zip(places, found, strict=True)
    return [row for place in every for row in rows[place]]


def _answer_together(
    prepared: Prepared, questions: Sequence[Question], protocol: ProtocolConfig
) -> list[list[Answered]]:
    """Answer questions with one model; return the rows of each question."""
    strengths = list(protocol.strengths) if prepared.scales else [None]
    together = max(1, protocol.batch_size // len(strengths))
    found: list[list[Answered]] = []
    for part, steering in steerings(prepared, questions, together):
        rows: list[list[Answered]] = [[] for _ in part]
        for some in even_parts(strengths, protocol.batch_size):
            for own, new in zip(
                rows, _answer_batch(prepared, part, steering, some, protocol), strict=True
            ):
                own += new
        found += rows
    return found


def steerings(
    prepared: Prepared, questions: Sequence[Question], together: int
) -> Iterator[tuple[Sequence[Question], Steering]]:
    """Yield questions in parts, and how each is steered; a concept's own model is made once.

    Args:
        prepared: who is asked.
        questions: of one concept, where the method `Adapts`.
        together: most questions of a part.
    """
    parts = even_parts(questions, together)
    whole = prepared.steer(questions) if isinstance(prepared.method, Adapts) else None
    start = 0
    for part in parts:
        if whole is None or (whole.writers and len(parts) > 1):
            yield part, prepared.steer(part)
        else:
            prompts = whole.prompts[start : start + len(part)]
            yield part, Steering(whole.lm, prompts, whole.writers)
        start += len(part)


def _answer_batch(
    prepared: Prepared,
    questions: Sequence[Question],
    steering: Steering,
    strengths: Sequence[float | None],
    protocol: ProtocolConfig,
) -> list[list[Answered]]:
    """Answer questions at these strengths, all in one batch; return the rows of each question."""
    prompts = [steering.lm.chat.prompt(prompt) for prompt in steering.prompts]
    copies = len(strengths)
    decoding = Decoding(
        max_new_tokens=protocol.max_new_tokens,
        temperature=protocol.temperature,
        top_p=protocol.top_p,
        repetition_penalty=protocol.repetition_penalty,
        seed=tuple(question.seed for question in questions) * copies,
    )
    scaled = [strength for strength in strengths if strength is not None] or None
    ids = generate_ids(steering.lm, prompts, steering.writers, decoding, scaled)
    instructions = [question.instruction for question in questions] * copies
    losses = _nll(prepared.lm, instructions, ids, protocol.batch_size)
    count = len(questions)
    rows = [
        Answered(
            **_row(prepared, questions[i % count], steering.prompts[i % count], ids[i]),
            nll=losses[i],
            strength=strengths[i // count],
        )
        for i in range(len(ids))
    ]
    return [rows[place::count] for place in range(count)]


def even_parts(items: Sequence[T], most: int) -> list[Sequence[T]]:
    """Return consecutive parts of at most `most` items, as few and as equal as can be."""
    count = max(1, -(-len(items) // most))
    ends = [len(items) * part // count for part in range(count + 1)]
    return [items[start:end] for start, end in pairwise(ends)]


def batches(
    parts: Iterable[list[Question]], answers_each: int, batch_size: int
) -> Iterator[list[list[Question]]]:
    """Yield whole concepts whose answers fit a batch together; one that does not comes alone.

    Args:
        parts: the questions of each concept.
        answers_each: answers per question.
        batch_size: most answers together; `answer` splits the concept that has more.
    """
    batch: list[list[Question]] = []
    for part in parts:
        if batch and answers_each * sum(map(len, [*batch, part])) > batch_size:
            yield batch
            batch = []
        batch.append(part)
    if batch:
        yield batch


def by_concept(
    rows: Sequence[Answered], batch: Sequence[list[Question]], answers_each: int
) -> Iterator[Sequence[Answered]]:
    """Yield the rows of each concept of a batch.

    Args:
        rows: answers to all questions of the batch, in their order.
        batch: the questions of each concept.
        answers_each: answers per question.
    """
    start = 0
    for part in batch:
        end = start + answers_each * len(part)
        yield rows[start:end]
        start = end


def rewritten(given: object, prompt: str) -> str:
    """Return the prompt that was given instead of another one; "" where it is the same.

    Of chat messages it is each one's role and text.
    """
    if isinstance(given, list):
        return "\n\n".join(f"{one['role']}: {one['content']}" for one in given)
    return given if isinstance(given, str) and given != prompt else ""


def _row(prepared: Prepared, question: Question, given: object, ids: Sequence[int]) -> dict:
    return {
        "method": prepared.name,
        "held": question.held,
        "concept_id": question.concept.id,
        "concept": question.concept.text,
        "prompt_id": question.prompt_id,
        "instruction": question.instruction,
        "seed": question.seed,
        "given": rewritten(given, question.instruction),
        "response": prepared.lm.chat.decode(ids),
        "tokens": len(ids),
    }


def _nll(
    lm: BaseLM, instructions: Sequence[str], responses: Sequence[list[int]], batch_size: int
) -> list[float]:
    """Return each response's mean loss per token after its instruction; NaN for an empty one."""
    prompts = [lm.chat.prompt(text) for text in instructions]

    def run(part: list[int]) -> list[Tensor]:
        return response_token_losses(lm, [prompts[i] for i in part], [responses[i] for i in part])

    lengths = [len(p.ids) + len(r) for p, r in zip(prompts, responses, strict=True)]
    losses = in_batches(lengths, min(SCORED_TOGETHER, batch_size), run)
    return [float(row.mean()) if len(row) else float(torch.nan) for row in losses]
