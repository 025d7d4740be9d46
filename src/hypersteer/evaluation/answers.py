"""Answers of a method to questions, at every strength, with their likelihood under the base LM."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hypersteer.baselines.method import Adapts, Asked, Learned, Learner, Steering, can_steer
from hypersteer.config import ProtocolConfig
from hypersteer.edits import Site
from hypersteer.evaluation.plan import Question
from hypersteer.evaluation.rows import Row
from hypersteer.lm.base import BaseLM
from hypersteer.lm.generate import Decoding, generate_ids
from hypersteer.lm.likelihood import in_batches, response_token_losses

SCORED_TOGETHER = 24
"""Rows whose likelihood is computed at once; the vocabulary makes their logits large."""


class Prepared(NamedTuple):
    """A method that has learnt what it can.

    Attributes:
        name: as reports call it.
        method: the method, or what only detects.
        learned: what it learnt.
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
        """How it steers questions; not for what only detects."""
        assert can_steer(self.method)
        asked = [Asked(question.concept, question.instruction) for question in questions]
        return self.method.steer(self.lm, self.site, self.learned, asked)


def answer(
    prepared: Prepared, questions: Sequence[Question], protocol: ProtocolConfig
) -> list[Row]:
    """Answer all questions in one batch, or concept by concept where each has its own model.

    A row's sampling has its own seed, so an answer does not depend on the rows beside it. All
    strengths of a question share the seed, the edit, and the prefill below the site.

    Args:
        prepared: who answers.
        questions: what is asked, of any concepts.
        protocol: strengths and decoding.

    Returns:
        one row per question and strength, in the order of the questions.
    """
    if not isinstance(prepared.method, Adapts):
        return _answer_together(prepared, questions, protocol)
    rows: dict[int, list[Row]] = {}
    for concept_id in dict.fromkeys(question.concept.id for question in questions):
        places = [i for i, question in enumerate(questions) if question.concept.id == concept_id]
        found = _answer_together(prepared, [questions[i] for i in places], protocol)
        each = len(found) // len(places)
        rows |= {place: found[n * each : (n + 1) * each] for n, place in enumerate(places)}
    return [row for place in range(len(questions)) for row in rows[place]]


def _answer_together(
    prepared: Prepared, questions: Sequence[Question], protocol: ProtocolConfig
) -> list[Row]:
    """What `answer` does, with one model for all questions."""
    steering = prepared.steer(questions)
    prompts = [steering.lm.chat.prompt(prompt) for prompt in steering.prompts]
    strengths = list(protocol.strengths) if prepared.scales else None
    copies = len(strengths or [None])
    decoding = Decoding(
        max_new_tokens=protocol.max_new_tokens,
        temperature=protocol.temperature,
        top_p=protocol.top_p,
        seed=tuple(question.seed for question in questions) * copies,
    )
    ids = generate_ids(steering.lm, prompts, steering.writers, decoding, strengths)
    losses = _nll(prepared.lm, [question.instruction for question in questions] * copies, ids)
    rows = [
        _row(prepared, questions[i % len(questions)], steering.prompts[i % len(questions)], ids[i])
        | {"nll": losses[i], "strength": strengths[i // len(questions)] if strengths else None}
        for i in range(len(ids))
    ]
    by_question = [i for q in range(len(questions)) for i in range(q, len(ids), len(questions))]
    return [Row(**rows[i]) for i in by_question]


def batches(
    parts: Sequence[list[Question]], answers_each: int, batch_size: int
) -> Iterator[list[list[Question]]]:
    """Whole concepts that make batches of about `batch_size` answers, at least one a batch.

    Args:
        parts: the questions of each concept.
        answers_each: answers per question.
        batch_size: most answers together.
    """
    batch: list[list[Question]] = []
    for part in parts:
        if batch and answers_each * sum(map(len, [*batch, part])) > batch_size:
            yield batch
            batch = []
        batch.append(part)
    if batch:
        yield batch


def _row(prepared: Prepared, question: Question, given: object, ids: Sequence[int]) -> dict:
    rewritten = isinstance(given, str) and given != question.instruction
    return {
        "method": prepared.name,
        "held": question.held,
        "concept_id": question.concept.id,
        "concept": question.concept.text,
        "prompt_id": question.prompt_id,
        "instruction": question.instruction,
        "seed": question.seed,
        "given": given if rewritten else "",
        "response": prepared.lm.chat.decode(ids),
        "tokens": len(ids),
    }


def _nll(lm: BaseLM, instructions: Sequence[str], responses: Sequence[list[int]]) -> list[float]:
    """Mean loss per token of each response after its instruction; NaN for an empty one."""
    prompts = [lm.chat.prompt(text) for text in instructions]

    def run(part: list[int]) -> list[Tensor]:
        return response_token_losses(lm, [prompts[i] for i in part], [responses[i] for i in part])

    lengths = [len(p.ids) + len(r) for p, r in zip(prompts, responses, strict=True)]
    losses = in_batches(lengths, SCORED_TOGETHER, run)
    return [float(row.mean()) if len(row) else float(torch.nan) for row in losses]
