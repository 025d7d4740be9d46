"""What an edit does at each strength: how far it moves next tokens, and when the text breaks.

Shapes: N tokens of an answer, V vocabulary.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch
from jaxtyping import Float
from torch import Tensor

from hypersteer.analysis.subject import Subject
from hypersteer.config.analysis import AnalysisConfig
from hypersteer.engine.generate import generate_ids
from hypersteer.engine.requests import as_request
from hypersteer.judges.lexical import repetition
from hypersteer.lm.base import BaseLM
from hypersteer.lm.likelihood import (
    answer_logits,
    response_token_losses,
    token_cross_entropy,
    token_divergence,
)

PROMPTS = 4
"""Base prompts that are answered at each strength."""
PENALTY = 1.15
"""Repetition penalty, as `hypersteer generate` has it: small models go round in circles without."""
OWN_PROMPTS = 16
"""Base prompts whose unsteered answers say how likely whole text is."""
EXCESS_NATS, REPEATED = 1.4, 0.15
"""A text that is so much less likely per token than the base LM's own answers is broken, or one of
which a larger share of three-token sequences was there before. Of 432 answers that readers labelled
(docs/analysis.md) these limits take 70 % of the broken, 29 % of the flawed, 10 % of the whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token of a steered answer, and how far steering moved the distribution that it is from."""

    text: str
    kl: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SteeredAnswer:
    """A steered answer, read with the edit and without.

    Attributes:
        steer: the steering prompt.
        prompt: the base prompt.
        strength: of the edit.
        response: what was answered.
        tokens: of the answer, with the divergence of each in nats.
        perplexity: of the answer under the unsteered base LM.
        repeated: share of three-token sequences that were there before.
    """

    steer: str
    prompt: str
    strength: float
    response: str
    tokens: list[Token]
    perplexity: float
    repeated: float

    @property
    def mean_kl(self) -> float:
        """Mean divergence over the tokens, in nats."""
        return sum(token.kl for token in self.tokens) / len(self.tokens)


def steered_answers(
    subject: Subject, steer: str, strength: float, config: AnalysisConfig
) -> list[SteeredAnswer]:
    """Answer a few base prompts greedily under an edit, and read the answers with and without it.

    Where the checkpoint's edits were learnt beside prompts that say the steering prompt, both
    readings have it said, so that what is measured is the edit alone. Empty answers are left out.

    Raises:
        SteeringError: if a prompt and its answer do not fit the context window.
    """
    steerer, lm = subject.steerer, subject.steerer.lm
    prompts = subject.prompts[:PROMPTS]
    said = [subject.said(prompt, steer) for prompt in prompts]
    request = as_request(lm, said, steer, strength, decoding=_decoding(config))
    written = generate_ids(lm, request.prompts, steerer.writers(request), request.decodings)
    full = [row for row, ids in enumerate(written) if ids]
    if not full:
        return []
    ids = [written[row] for row in full]
    kept = as_request(lm, [said[row] for row in full], steer, strength)
    after = answer_logits(lm, kept.prompts, ids, steerer.writers(kept))
    before = answer_logits(lm, kept.prompts, ids)
    return [
        _read(lm, steer, prompts[row], strength, own, steered, plain)
        for row, own, steered, plain in zip(full, ids, after, before, strict=True)
    ]


def whole_limit(subject: Subject, config: AnalysisConfig) -> float:
    """Return the perplexity above which a text counts as broken.

    That is `EXCESS_NATS` more than the unsteered base LM's own answers have in the mean, made by
    the same decoding.

    Raises:
        SteeringError: if a prompt and its answer do not fit the context window.
    """
    lm, decoding = subject.steerer.lm, _decoding(config)
    request = as_request(lm, subject.prompts[:OWN_PROMPTS], None, 1.0, decoding=decoding)
    written = generate_ids(lm, request.prompts, (), request.decodings)
    full = [row for row, ids in enumerate(written) if ids]
    if not full:
        return math.inf
    ids = [written[row] for row in full]
    losses = response_token_losses(lm, [request.prompts[row] for row in full], ids)
    nats = sum(float(one.mean()) for one in losses) / len(losses)
    return math.exp(nats + EXCESS_NATS)


def _decoding(config: AnalysisConfig) -> dict[str, int | float]:
    return {"max_new_tokens": config.max_new_tokens, "repetition_penalty": PENALTY}


def _read(
    lm: BaseLM,
    steer: str,
    prompt: str,
    strength: float,
    ids: Sequence[int],
    after: Float[Tensor, "N V"],
    before: Float[Tensor, "N V"],
) -> SteeredAnswer:
    """Compare two readings of an answer."""
    moved = token_divergence(before, teacher=after).clamp(min=0).tolist()
    losses = token_cross_entropy(before, torch.tensor(ids))
    texts = [str(lm.tokenizer.decode([one])) for one in ids]
    return SteeredAnswer(
        steer=steer,
        prompt=prompt,
        strength=strength,
        response=lm.chat.decode(ids),
        tokens=[Token(text=text, kl=kl) for text, kl in zip(texts, moved, strict=True)],
        perplexity=float(losses.mean().exp()),
        repeated=repetition(ids),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """The answers at one strength, summed up.

    Attributes:
        strength: of the edit.
        mean_kl: mean over answers of their tokens' mean divergence, in nats.
        perplexity: median over answers, under the unsteered base LM.
        repeated: median over answers of the share of repeated sequences.
        broken: why the text counts as broken; empty where it does not.
    """

    strength: float
    mean_kl: float
    perplexity: float
    repeated: float
    broken: str


def point(answers: Sequence[SteeredAnswer], limit: float) -> Point:
    """Sum up the answers at one strength.

    Args:
        answers: at least one, of one strength.
        limit: perplexity above which a text counts as broken.
    """
    perplexity = median([answer.perplexity for answer in answers])
    repeated = median([answer.repeated for answer in answers])
    broken = ""
    if not perplexity <= limit:
        broken = "perplexity"
    elif repeated > REPEATED:
        broken = "repetition"
    return Point(
        strength=answers[0].strength,
        mean_kl=sum(answer.mean_kl for answer in answers) / len(answers),
        perplexity=perplexity,
        repeated=repeated,
        broken=broken,
    )


def breaking_strength(points: Sequence[Point]) -> float | None:
    """Return the lowest strength whose text is broken; None where none is."""
    return min((one.strength for one in points if one.broken), default=None)
