"""Run a hypernetwork: from steering prompts, base prompts and states to parameters of edits.

Shapes: R rows, B base prompts, T base tokens, D width.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from hypersteer.config import HypernetConfig
from hypersteer.edits.sites import Site
from hypersteer.hypernet.activation_prior import read_concept_states
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import PromptIds, Spans, collate


def read_steering(
    lm: BaseLM, config: HypernetConfig, site: Site, steering: Sequence[Sequence[int]]
) -> Float[Tensor, "R D"] | None:
    """What `write_edits` wants as `concept_states`: None without the activation prior."""
    return read_concept_states(lm, site, steering) if config.prior == "activation" else None


def write_edits(
    network: nn.Module,
    lm: BaseLM,
    config: HypernetConfig,
    steering: Sequence[Sequence[int]],
    prompts: Sequence[PromptIds],
    hidden: Float[Tensor, "B T D"] | None = None,
    spans: Spans | None = None,
    concept_states: Float[Tensor, "R D"] | None = None,
) -> list[dict[str, Tensor]]:
    """Parameters [R, ...] at each site, for R steering prompts and B base prompts, in one pass.

    Args:
        network: the hypernetwork, or a distributed wrapper around it.
        lm: the base LM.
        config: the hypernetwork's configuration.
        steering: R lists of token ids; R is a multiple of B, and row r belongs to base row r mod B.
        prompts: B base prompts.
        hidden: the base LM's states at the first site; only the cross-attention variant needs them.
        spans: what each base token is; needed with `hidden`.
        concept_states: what `read_steering` gives for these steering prompts.
    """
    copies = len(steering) // len(prompts)
    if config.variant == "in-context":
        steering = [
            [*ids, *prompt.ids[prompt.prefix :]]
            for ids, prompt in zip(steering, [*prompts] * copies, strict=True)
        ]
    rows = [PromptIds([*lm.chat.lead, *ids], 0) for ids in steering]
    read = collate(rows, pad_id=lm.chat.pad_id).to(lm.device)
    embeds = lm.embeddings(read.ids)
    if config.variant != "cross-attention":
        return network(embeds, read.spans.real, concept_states=concept_states)
    assert hidden is not None
    assert spans is not None
    # Response tokens and outer padding are cut off before anything is computed on them.
    columns = spans.prompt.any(0).nonzero().squeeze(1)
    window = slice(int(columns[0]), int(columns[-1]) + 1)
    states = hidden[:, window].detach().repeat(copies, 1, 1)
    readable = spans.prompt[:, window].repeat(copies, 1)
    return network(embeds, read.spans.real, states, readable, concept_states)
