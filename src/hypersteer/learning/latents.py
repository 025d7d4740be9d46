"""The edit of ReFT-r1 in training: each row moves along its direction as far as its latents say."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hypersteer.lm.writers import add_vectors


class Changed(NamedTuple):
    """Hidden states after the edit, and the penalty on latents outside the top k."""

    hidden: Float[Tensor, "B T D"]
    penalty: Float[Tensor, " B"]


def change(
    hidden: Float[Tensor, "B T D"],
    directions: Float[Tensor, "B D"],
    marks: Bool[Tensor, "B T"],
    top_k: int,
) -> Changed:
    """`h + mean(TopK(ReLU(h . w))) w` on the marked tokens, each row with its own `w`.

    Args:
        hidden: states at the site.
        directions: of the rows, float32.
        marks: the tokens after the chat prefix; no other is pooled or changed.
        top_k: latents in the mean; all of them in a row that has fewer.

    Returns:
        The changed states, and per row the mean over marked tokens of the latents outside the
        top k, counted as 0 inside.
    """
    latents = torch.einsum("btd,bd->bt", hidden.float(), directions).relu() * marks
    top = latents.topk(min(top_k, latents.shape[1]), dim=1).values.sum(1)
    counts = marks.sum(1)
    strengths = top / counts.clamp(max=top_k)
    changed = add_vectors(hidden, strengths[:, None] * directions, marks)
    return Changed(changed, (latents.sum(1) - top) / counts)
