"""The formulas of what is minimised, on tensors alone; `objectives` says what they are taken of.

Shapes: B rows, N response tokens, D width, P numbers of an edit.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


def contrastive(
    right: Float[Tensor, " B"],
    wrong: Float[Tensor, " B"],
    weights: Float[Tensor, " B"],
    beta: float,
) -> Float[Tensor, ""]:
    """Return `sum w softplus(-beta (CE_wrong - CE_right)) / beta`: the right prompt must win.

    Args:
        right: each row's mean cross-entropy under its own steering prompt, in nats.
        wrong: the same row's under another row's steering prompt.
        weights: of the rows, 1 over their number for the mean.
        beta: sharpness, per nat.
    """
    return (weights * F.softplus(-beta * (wrong - right))).sum() / beta


def preference(
    win: Float[Tensor, " B"], lose: Float[Tensor, " B"], reference: Float[Tensor, "B 2"]
) -> Float[Tensor, ""]:
    """Return `mean softplus(beta CE_win - CE_lose)` (RePS: Wu et al. 2025, arXiv 2505.20809).

    `beta = max(log p(lose) - log p(win), 1)` under the unsteered base LM: what it finds the more
    unlikely is wanted the more.

    Args:
        win: each row's mean cross-entropy, under the edit, of the response that is wanted.
        lose: that of the other response.
        reference: summed log-likelihoods of both under the unsteered base LM, the wanted one first.
    """
    beta = (reference[:, 1] - reference[:, 0]).clamp(min=1)
    return F.softplus(beta * win - lose).mean()


def similarity(changes: Float[Tensor, "B D"], concepts: Int[Tensor, " B"]) -> Float[Tensor, ""]:
    """Return the mean cosine between what rows of different concepts add (FLAS's diversity term).

    Args:
        changes: what each row's edit adds to the states, over its tokens.
        concepts: which concept each row is of; with a single one there is nothing to tell apart.
    """
    directions = F.normalize(changes.float(), dim=-1)
    others = concepts[:, None] != concepts
    return ((directions @ directions.T) * others).sum() / others.sum().clamp(min=1)


def matching(
    states: Float[Tensor, "N D"],
    wanted: Float[Tensor, "N D"],
    plain: Float[Tensor, "N D"],
    lengths: Sequence[int],
    excess: Float[Tensor, " D"],
) -> Float[Tensor, ""]:
    """Return the mean of `sum |h - t|^2 / sum |t - h0|^2`, each sum over the tokens of a row.

    That is the share of what prompting changes that edits do not make; states that edits did not
    touch give 1. A row's share depends on no other row.

    Args:
        states: edited states h.
        wanted: states t of the prompted base LM.
        plain: states h0 of the base LM on the plain prompts.
        lengths: tokens of each row, N together.
        excess: what states are divided by, so that a few massive dimensions do not decide.
    """
    left = ((states.float() - wanted) / excess).pow(2).sum(-1).split(list(lengths))
    whole = ((wanted - plain) / excess).pow(2).sum(-1).split(list(lengths))
    tiny = torch.finfo(torch.float32).tiny
    shares = [
        far.sum() / change.sum().clamp(min=tiny) for far, change in zip(left, whole, strict=True)
    ]
    return torch.stack(shares).mean()


def reconstruction(
    written: Float[Tensor, "B P"], targets: Float[Tensor, "B P"]
) -> Float[Tensor, ""]:
    """Return `mean (1 - cos(v, t) + |v - t|^2)` (paper, section 3, no-context variant).

    Args:
        written: the P numbers of each edit.
        targets: those it should have.
    """
    distance = (written - targets).pow(2).sum(-1)
    return (1 - F.cosine_similarity(written, targets, dim=-1) + distance).mean()
