"""Which tokens of a prompt decided: how much each adds to the score of a condition.

The score of a mean is a sum over what is averaged. With c the direction, and u_t = (h_t - m) / s
the centred state of token t of T, cos(mean u, c) = sum over t of (u_t . c) / (T |mean u|): one
share a token, and the shares add up to the score.
Shapes: B prompts, T tokens, K layers that are read, D width.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hypersteer.conditions.checks import check_condition
from hypersteer.conditions.condition import Condition
from hypersteer.conditions.rules import Rules
from hypersteer.conditions.score import SMALLEST
from hypersteer.edits.sites import Site
from hypersteer.errors import SteeringError
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import PromptIds, collate
from hypersteer.lm.hooks import ReadWrite
from hypersteer.lm.pooling import masked_sum, pool_mask, run_to


class TokenShare(NamedTuple):
    """What one token adds to the score of a condition.

    Attributes:
        text: the token.
        share: what it adds; the shares of a text sum to its score.
    """

    text: str
    share: float


def deciding_tokens(condition: Condition, prompt: Any, *, lm: BaseLM) -> list[TokenShare]:
    """Return what each token of a prompt adds to the score of a condition.

    It costs one pass over the prompt, up to the highest layer that the condition reads.

    Args:
        condition: about the prompt; its scorer is `cosine`.
        prompt: text, or a list of chat messages.
        lm: the base LM that it was made for.

    Returns:
        The tokens that its pooling averages, in the order of the prompt. The template's tokens
        behind the prompt are among them.

    Raises:
        CheckpointError: if the condition is for another base LM.
        SteeringError: if it is about the answer, or its score is `legacy`, which is no sum.
    """
    check_condition(lm, condition)
    if why := _no_sum(condition):
        raise SteeringError(f"the score of condition '{condition.name}' {why}")
    return token_shares(lm, [condition], [lm.chat.prompt(prompt)])[0][0]


def shares_of_rules(
    lm: BaseLM, prompts: Sequence[PromptIds], rows: Sequence[Rules | None]
) -> dict[int, dict[str, list[TokenShare]]]:
    """Return what tokens add to the scores of the conditions of rules that ask for it, by row.

    Conditions about the answer, and those whose score is no sum, are left out.

    Args:
        lm: the base LM.
        prompts: B tokenised prompts.
        rows: the rules of each.
    """
    found: dict[int, dict[str, list[TokenShare]]] = {}
    for rules in dict.fromkeys(one for one in rows if one is not None and one.tokens):
        named = {name: one for name, one in rules.conditions.items() if not _no_sum(one)}
        if not named:
            continue
        members = [row for row, one in enumerate(rows) if one is rules]
        shares = token_shares(lm, list(named.values()), [prompts[row] for row in members])
        found |= {
            row: dict(zip(named, of, strict=True)) for row, of in zip(members, shares, strict=True)
        }
    return found


@torch.no_grad()
def token_shares(
    lm: BaseLM, conditions: Sequence[Condition], prompts: Sequence[PromptIds]
) -> list[list[list[TokenShare]]]:
    """Return shares by prompt, condition and token, read in one pass over the prompts."""
    batch = collate(prompts, pad_id=lm.chat.pad_id).to(lm.device)
    masks = {one.pooling: pool_mask(batch.spans, one.pooling) for one in conditions}  # type: ignore[arg-type]
    parts: dict[tuple[int, int], Tensor] = {}

    def reader(layer: int) -> ReadWrite:
        def read(hidden: Tensor) -> None:
            for number, one in enumerate(conditions):
                for own in (own for own in one.layers if own % lm.depth == layer):
                    parts[number, own] = _layer_shares(one, own, hidden, masks[one.pooling])

        return read

    layers = sorted({layer % lm.depth for one in conditions for layer in one.layers})
    run_to(lm, batch, [(Site(layer), reader(layer)) for layer in layers])
    found: list[list[list[TokenShare]]] = [[] for _ in prompts]
    for number, one in enumerate(conditions):
        shares = _joined(one, torch.stack([parts[number, layer] for layer in one.layers]))
        for row, mask in enumerate(masks[one.pooling]):
            ids = batch.ids[row][mask].tolist()
            texts = [str(lm.chat.tokenizer.decode([token])) for token in ids]
            pairs = zip(texts, shares[row][mask].tolist(), strict=True)
            found[row].append([TokenShare(text, share) for text, share in pairs])
    return found


def _layer_shares(
    condition: Condition, layer: int, hidden: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """Return what each token adds to a layer's score; 0 for tokens that are not averaged."""
    row = condition.fitted.index(layer)
    direction, mean = (t[row].to(hidden.device) for t in (condition.directions, condition.means))
    scale = 1.0 if condition.scales is None else condition.scales[row].to(hidden.device)
    mask = mask.to(hidden.device)
    counts = mask.sum(1, keepdim=True)
    pooled = (masked_sum(hidden, mask) / counts - mean) / scale
    norms = torch.linalg.vector_norm(pooled, dim=-1, keepdim=True).clamp_min(SMALLEST)
    along = ((hidden.float() - mean) / scale) @ direction
    return (along / (counts * norms)).where(mask, 0).to(mask.device)


def _joined(condition: Condition, shares: Float[Tensor, "K B T"]) -> Float[Tensor, "B T"]:
    """Return shares of the score that is compared with the threshold."""
    if condition.joined == "mean":
        return shares.mean(0)
    scores = shares.sum(-1)
    decides = scores.argmax(0) if condition.fires == "above" else scores.argmin(0)
    return shares[decides, torch.arange(shares.shape[1], device=shares.device)]


def _no_sum(condition: Condition) -> str:
    """Return why the score of a condition is no sum over tokens of the prompt; "" if it is one."""
    if condition.pooling == "response":
        return "is about the answer, of which no token decided yet"
    if condition.scorer == "legacy":
        return "is legacy, which is no sum over tokens"
    return ""
