"""What is found out about a base LM before anyone relies on it."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hypersteer.edits.sites import Site
from hypersteer.errors import ModelError, one_line
from hypersteer.lm.cache import new_cache
from hypersteer.lm.chat import Chat, PromptIds, TokenBatch, collate
from hypersteer.lm.hooks import capture

CLOSE = {torch.float32: 1e-2}
CLOSE_IN_HALF = 0.5
"""Largest relative distance of logits that are to be equal. In half precision the experts of a
token may change with the last bits, so only gross differences tell something there."""

LENGTHS = (5, 2)
"""Tokens of the two rows that are tried."""


@runtime_checkable
class Runs(Protocol):
    """What is tried of a base LM."""

    @property
    def name(self) -> str:
        """How messages call it."""
        ...

    @property
    def model(self) -> PreTrainedModel:
        """The Hugging Face model."""
        ...

    @property
    def chat(self) -> Chat:
        """Prompts as token ids."""
        ...

    @property
    def blocks(self) -> nn.ModuleList:
        """Its decoder blocks."""
        ...

    @property
    def width(self) -> int:
        """Width D of the hidden states."""
        ...

    @property
    def vocab(self) -> int:
        """Number V of token ids that the model knows."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the inputs go."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Type of the hidden states."""
        ...

    def forward(self, batch: TokenBatch, **extra: Any) -> Any:
        """Run the model on a batch."""
        ...


def check_runs(lm: Runs) -> None:
    """Refuse a model that cannot be run as the package runs it.

    Some architectures swallow the cache that they are given, or ignore the attention mask, and
    would answer garbage without a word. So two short rows run each by itself in one pass, and then
    together, padded on the left, with the last token of each run by itself from the cache. The
    logits must agree.

    Raises:
        ModelError: if they do not, are not finite, or the model fails; or if its blocks hand on
            something else than one state per token.
    """
    try:
        apart, shapes = _apart(lm)
        prefilled, stepped = _together(lm)
    except (
        Exception
    ) as error:  # each architecture that keeps its own kind of cache fails its own way
        raise ModelError(
            f"{_named(lm)} cannot be run with transformers' key-value cache "
            f"({type(error).__name__}: {one_line(error)}); choose another base LM"
        ) from error
    wanted = [(1, length, lm.width) for length in LENGTHS]
    if shapes != wanted:
        raise ModelError(
            f"the blocks of {_named(lm)} hand on states of shape {list(shapes[0])}, not "
            f"{list(wanted[0])} (rows, tokens, width), so there is nothing to steer; choose another"
        )
    if not all(bool(torch.isfinite(one).all()) for one in apart):
        raise ModelError(
            f"the logits of {_named(lm)} in {_dtype(lm)} are not finite: its weights are damaged, "
            "or too large for that dtype; try dtype='float32'"
        )
    limit = CLOSE.get(lm.dtype, CLOSE_IN_HALF)
    before, last = [one[-2] for one in apart], [one[-1] for one in apart]
    for got, expected, what in (
        (prefilled, before, "does not leave out padding: a row in a padded batch gives"),
        (stepped, last, "ignores the cache that it is given: a token run from it gives"),
    ):
        off = max(_distance(one, other) for one, other in zip(got, expected, strict=True))
        if not off <= limit:
            raise ModelError(
                f"{_named(lm)} {what} other logits (off by {100 * off:.2g} %), so its answers "
                "would be wrong; choose another base LM"
            )


@torch.no_grad()
def _apart(lm: Runs) -> tuple[list[Tensor], list[tuple[int, ...]]]:
    """Return logits [T, V] of each row by itself, and shapes of the states between its blocks."""
    logits, shapes = [], []
    for ids in trial_rows(lm.vocab, LENGTHS):
        batch = collate([PromptIds(ids, 0)], pad_id=lm.chat.pad_id).to(lm.device)
        with capture(lm.blocks, [Site(0)]) as states:
            logits.append(lm.forward(batch).logits[0].float())
        shapes.append(tuple(states[Site(0)].shape))
    return logits, shapes


@torch.no_grad()
def _together(lm: Runs) -> tuple[Tensor, Tensor]:
    """Return logits [B, V] of the last token but one and the last, in a batch with a cache."""
    rows = trial_rows(lm.vocab, LENGTHS)
    first = collate([PromptIds(ids[:-1], 0) for ids in rows], pad_id=lm.chat.pad_id, side="left")
    whole = collate([PromptIds(ids, 0) for ids in rows], pad_id=lm.chat.pad_id, side="left")
    first, whole = first.to(lm.device), whole.to(lm.device)
    cache = new_cache(lm.model)
    prefilled = lm.forward(first, cache=cache).logits[:, -1]
    step = first._replace(ids=whole.ids[:, -1:])
    mask, positions = whole.spans.real.long(), whole.positions[:, -1:]
    stepped = lm.forward(step, cache=cache, attention_mask=mask, position_ids=positions)
    return prefilled.float(), stepped.logits[:, -1].float()


def trial_rows(vocab: int, lengths: Sequence[int]) -> list[list[int]]:
    """Return ids of rows to try a model with; which ones does not matter, but they differ."""
    known = min(vocab, 97)
    return [[(7 * at + 3 * length) % known for at in range(length)] for length in lengths]


def _distance(got: Tensor, expected: Tensor) -> float:
    """Distance of two rows of logits, relative to how much the logits of a row differ."""
    return float((got - expected).norm() / (expected - expected.mean()).norm().clamp(min=1e-9))


def _named(lm: Runs) -> str:
    return f"{lm.name} ({type(lm.model).__name__})"


def _dtype(lm: Runs) -> str:
    return str(lm.dtype).removeprefix("torch.")
