"""Guided decoding: answer as under one prompt, pushed further away from another.

    log p'(t) = log p(t | prompt) + guidance * (log p(t | prompt) - log p(t | plain)) + constant

(classifier-free guidance for language models, Sanchez et al. 2023, arXiv 2306.17806). Only tokens
that are likely under the prompt itself stay possible (contrastive decoding, Li et al. 2022, arXiv
2210.15097), since a ratio of two tiny probabilities means nothing.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from hypersteer.engine.batch import sampler_of
from hypersteer.engine.decoding import Decoding
from hypersteer.engine.generate import check_room
from hypersteer.engine.running import RunningRows
from hypersteer.engine.stopping import Endings
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import PromptIds

PLAUSIBLE = 0.05
"""Tokens less likely than this share of the likeliest one, under the prompt, are ruled out."""


def guided_logits(
    prompted: Float[Tensor, "B V"], plain: Float[Tensor, "B V"], guidance: float
) -> Float[Tensor, "B V"]:
    """Return the logits of the guided next token; impossible tokens have -inf."""
    with_prompt, without = prompted.float().log_softmax(-1), plain.float().log_softmax(-1)
    likeliest = with_prompt.amax(-1, keepdim=True)
    pushed = with_prompt + guidance * (with_prompt - without)
    return pushed.masked_fill(with_prompt < likeliest + math.log(PLAUSIBLE), -torch.inf)


def guided_ids(
    lm: BaseLM,
    prompts: Sequence[PromptIds],
    plain: Sequence[PromptIds],
    decoding: Decoding,
    guidance: float,
) -> list[list[int]]:
    """Response ids of every row, without the end of turn; the rest as `decode` has it.

    Both prompts of a row run side by side in one batch, and get the same response tokens.

    Args:
        lm: the base LM.
        prompts: B prompts to answer.
        plain: B prompts to move away from.
        decoding: how to decode.
        guidance: how far; 0 answers `prompts` as they are (but for tokens ruled out).

    Raises:
        SteeringError: if a prompt and the new tokens do not fit the context window.
    """
    check_room(lm, [*prompts, *plain], decoding)
    rows = len(prompts)
    responses: list[list[int]] = [[] for _ in prompts]
    decodings, endings = decoding.each(rows), Endings(lm)
    for row, own in enumerate(decodings):
        endings.watch(row, own, None)
    sampler = sampler_of(decodings, prompts)
    running = RunningRows(lm, list(range(2 * rows)), [*prompts, *plain], [])
    while len(endings.reasons) < rows:
        with_prompt, without = running.advance().split(rows)
        logits = guided_logits(with_prompt, without, guidance)
        chosen = sampler(logits)
        for row, token in endings.take(range(rows), chosen, logits).items():
            responses[row].append(token)
        running.append(chosen.repeat(2))
    return responses
