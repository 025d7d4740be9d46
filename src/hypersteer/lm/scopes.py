"""Scopes as masks over the tokens of a batch."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from hypersteer.edits.sites import NamedScope, Scope
from hypersteer.errors import SteeringError
from hypersteer.lm.chat import PromptIds, Spans

DECODED: tuple[NamedScope, ...] = ("all", "everywhere", "response")
"""Scopes that touch response tokens after the prefill."""
ENDS = 2
"""Tokens at either end of the prompt that the scope `prompt_ends` touches."""


def scope_mask(scopes: Sequence[Scope | None], spans: Spans) -> Bool[Tensor, "B T"]:
    """Mark the tokens that each row's scope touches, none for None; never padding.

    Raises:
        SteeringError: if a boolean scope is not as long as the row's prefix and prompt.
    """
    masks = []
    parts = (spans.prefix, spans.prompt, spans.response)
    for scope, prefix, prompt, response in zip(scopes, *parts, strict=True):
        if scope is None:
            masks.append(torch.zeros_like(prompt))
        elif scope == "all":
            masks.append(prompt | response)
        elif scope == "everywhere":
            masks.append(prefix | prompt | response)
        elif scope == "prompt":
            masks.append(prompt)
        elif scope == "response":
            masks.append(response)
        elif scope in ("last_prompt", "prompt_ends"):
            place, count = prompt.long().cumsum(0), prompt.sum()
            if scope == "last_prompt":
                masks.append(prompt & (place == count))
            else:
                masks.append(prompt & ((place <= ENDS) | (place > count - ENDS)))
        else:
            before = prefix | prompt
            masks.append(_explicit(scope, before))
    return torch.stack(masks)


def check_scope_length(scope: Scope, prompt: PromptIds) -> None:
    """Refuse a boolean scope that is not as long as prefix and prompt.

    Raises:
        SteeringError: naming both lengths.
    """
    if not isinstance(scope, str) and len(scope) != len(prompt.ids):
        raise SteeringError(
            f"the scope mask has {len(scope)} entries, but prefix and prompt have "
            f"{len(prompt.ids)} tokens; give one entry for each"
        )


def _explicit(scope: "str | tuple[bool, ...]", before: Tensor) -> Tensor:
    count = int(before.sum())
    if count and len(scope) != count:
        raise SteeringError(
            f"the scope mask has {len(scope)} entries, but prefix and prompt have {count} tokens"
        )
    mask = torch.zeros_like(before)
    if count:
        mask[before] = torch.tensor(scope, dtype=torch.bool, device=before.device)
    return mask
