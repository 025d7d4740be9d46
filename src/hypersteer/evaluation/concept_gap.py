"""The concept gap of any method: loss under another concept minus loss under the right one.

Measured on data that show the concept, not on answers: the same rows, the same responses, steered
towards the right concept and towards another one at the strength chosen for the right one. A
method that only teaches a style has none.
"""

from collections.abc import Sequence

import numpy as np
import torch

from hypersteer.concepts import Concept
from hypersteer.data.schema import Example
from hypersteer.evaluation.answers import SCORED_TOGETHER, Prepared, even_parts
from hypersteer.evaluation.protocol import Question
from hypersteer.lm.likelihood import response_token_losses


def concept_gap(
    prepared: Prepared,
    examples: Sequence[Example],
    right: Concept,
    wrong: Concept,
    strength: float | None,
    max_response_tokens: int,
    batch_size: int = SCORED_TOGETHER,
) -> float:
    """Return the mean of (loss under `wrong` minus loss under `right`), nats per response token.

    Args:
        prepared: the method.
        examples: rows that show `right`.
        right: their concept.
        wrong: another concept that the method can steer towards.
        strength: of both; None for methods without one.
        max_response_tokens: responses are cut here, as in training.
        batch_size: most rows of a forward pass; never more than `SCORED_TOGETHER`.
    """
    gaps: list[float] = []
    for part in even_parts(examples, min(batch_size, SCORED_TOGETHER)):
        losses = [
            _losses(prepared, part, concept, strength, max_response_tokens)
            for concept in (wrong, right)
        ]
        gaps += (losses[0] - losses[1]).tolist()
    return float(np.mean(gaps))


def _losses(
    prepared: Prepared,
    examples: Sequence[Example],
    concept: Concept,
    strength: float | None,
    max_response_tokens: int,
) -> torch.Tensor:
    """Return the mean loss [B] of each row's response under a concept."""
    chat = prepared.lm.chat
    questions = [
        Question("held_in", concept, number, example.prompt, 0)
        for number, example in enumerate(examples)
    ]
    steering = prepared.steer(questions)
    prompts = [steering.lm.chat.prompt(prompt) for prompt in steering.prompts]
    responses = [
        chat.response(example.response, ends=example.complete)[:max_response_tokens]
        for example in examples
    ]
    writers = [w if strength is None else w.at([strength]) for w in steering.writers]
    losses = response_token_losses(steering.lm, prompts, responses, writers)
    return torch.stack([row.mean() for row in losses])
