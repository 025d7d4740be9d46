"""The logit lens of an edit: the words that it raises and lowers.

What an edit writes is put in the place of the last block's output, and the base LM's own final norm
and output embedding turn it into logits (nostalgebraist 2020, "interpreting GPT: the logit lens").
So it tells what the edit would do to the next word if no block above changed it: much for a site
near the top, little for one near the bottom.

Shapes: N vectors, D width, V vocabulary.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from hypersteer.learning.nearness import Measure
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import PromptIds, collate
from hypersteer.lm.hooks import at_sites

WORDS = 8
"""Words that are told on either side."""
NEAREST = 5
"""Training concepts that are told."""
TOGETHER = 16


class Word(NamedTuple):
    """A token's text, and how far its logit is from the mean of all."""

    text: str
    logit: float


class Lens(NamedTuple):
    """The words that an edit raises and lowers most at a site, the strongest first."""

    site: str
    raised: list[Word]
    lowered: list[Word]


@torch.no_grad()
def readout(lm: BaseLM, vectors: Float[Tensor, "N D"]) -> Float[Tensor, "N V"]:
    """Return the logits that the base LM reads from vectors in place of its last block's output.

    Those of zeros are subtracted, so that a bias of the norm or of the head is no word of the
    edit's; and the mean over the vocabulary, which softmax does not see. Float32 on the CPU.
    """
    rows = torch.cat([torch.zeros(1, vectors.shape[1]), vectors.float().cpu()])
    top, found = lm.site(lm.depth - 1), []
    for part in rows.split(TOGETHER):
        empty = [PromptIds([lm.chat.pad_id], 0)] * len(part)
        batch = collate(empty, pad_id=lm.chat.pad_id).to(lm.device)

        def replace(hidden: Tensor, part: Tensor = part) -> Tensor:
            return part[:, None].to(hidden)

        with at_sites(lm.blocks, [(top, replace)]):
            found.append(lm.logits(batch)[:, 0].float().cpu())
    logits = torch.cat(found)
    changed = logits[1:] - logits[:1]
    return changed - changed.mean(-1, keepdim=True)


def lens_of(lm: BaseLM, site: str, logits: Float[Tensor, " V"], words: int = WORDS) -> Lens:
    """Return the words at both ends of the logits."""
    most = min(words, len(logits) // 2)
    sides = []
    for sign in (1.0, -1.0):
        values, places = (sign * logits).topk(most)
        texts = [str(lm.tokenizer.decode([one])) for one in places.tolist()]
        sides.append([Word(*one) for one in zip(texts, (sign * values).tolist(), strict=True)])
    return Lens(site, sides[0], sides[1])


def nearest_concepts(
    lm: BaseLM, known: Sequence[str], texts: Sequence[str]
) -> dict[str, list[tuple[str, float]]]:
    """Return the training concepts nearest to each text; see `learning.nearness`."""
    if not known:
        return {}
    measure = Measure.of(lm)
    own = measure.unit(known)
    return {
        text: [(known[place], value) for place, value in measure.nearest(text, own, NEAREST)]
        for text in texts
    }
