"""Log-probabilities of chosen tokens, as an answer's readers want them beside its text."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class TokenLogprob(NamedTuple):
    """A token of an answer under the model's own distribution, before temperature and penalties.

    Attributes:
        token: its id.
        logprob: of the token, in nats.
        likeliest: ids and log-probabilities of the likeliest tokens in its place, best first.
    """

    token: int
    logprob: float
    likeliest: tuple[tuple[int, float], ...]


@torch.no_grad()
def token_logprobs(
    logits: Float[Tensor, "R V"], chosen: Int[Tensor, " R"], most: int
) -> list[TokenLogprob]:
    """Return what each row's chosen token was worth, and its `most` likeliest rivals."""
    scores = logits.float().log_softmax(-1)
    own = scores.gather(1, chosen[:, None]).squeeze(1).tolist()
    values, ids = scores.topk(min(most, scores.shape[-1]), -1)
    return [
        TokenLogprob(token, logprob, tuple(zip(names, best, strict=True)))
        for token, logprob, names, best in zip(
            chosen.tolist(), own, ids.tolist(), values.tolist(), strict=True
        )
    ]
