"""What is written into the hidden states of a running batch: one vector per row at a site."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hypersteer.edits import Scope, Site
from hypersteer.lm.chat import Spans, scope_mask
from hypersteer.lm.hooks import at_sites

MakeVectors = Callable[[Tensor, Spans], Tensor]
"""Hidden states [B, T, D] at the site and their spans -> vectors [B, D], strength included."""


def add_vectors(
    hidden: Float[Tensor, "B T D"], vectors: Float[Tensor, "B D"], mask: Bool[Tensor, "B T"]
) -> Float[Tensor, "B T D"]:
    """Add each row's vector to the hidden states of the row's marked tokens."""
    delta = vectors.to(hidden.device, hidden.dtype)[:, None]
    return hidden + delta * mask.to(hidden.device)[..., None].to(hidden.dtype)


class VectorWriter:
    """Adds one vector per row at one site, on the tokens of each row's scope.

    The first forward pass (the prefill) fixes the vectors, made from the hidden states at the site
    where `vectors` is a function; later passes hold response tokens only and reuse them.

    Attributes:
        site: where it writes.
        vectors: [B, D], strength included; None until the prefill if they are made from states.
    """

    def __init__(self, site: Site, vectors: Tensor | MakeVectors, scopes: Sequence[Scope]) -> None:
        self.site = site
        self.vectors = vectors if isinstance(vectors, Tensor) else None
        self._make = None if isinstance(vectors, Tensor) else vectors
        self._scopes = tuple(scopes)
        self._step: Tensor | None = None

    def prefill(self, hidden: Tensor, spans: Spans) -> Tensor:
        """Write into the states [B, T, D] of whole rows."""
        if self.vectors is None and self._make is not None:
            self.vectors = self._make(hidden, spans)
        assert self.vectors is not None
        return add_vectors(hidden, self.vectors, scope_mask(self._scopes, spans))

    def step(self, hidden: Tensor) -> Tensor:
        """Write into the states [B, 1, D] of response tokens after the prefill."""
        if self._step is None:
            assert self.vectors is not None
            touched = torch.tensor([s in ("all", "response") for s in self._scopes])
            vectors = self.vectors.to(hidden.device, hidden.dtype)
            self._step = (vectors * touched.to(vectors)[:, None])[:, None]
        return hidden + self._step

    def keep_rows(self, rows: list[int]) -> None:
        """Forget all rows but these, in this order; called when rows have finished."""
        self._scopes = tuple(self._scopes[row] for row in rows)
        self._step = None
        if self.vectors is not None:
            self.vectors = self.vectors[rows]


@contextmanager
def written(
    blocks: nn.ModuleList, writers: Sequence[VectorWriter], spans: Spans | None
) -> Generator[None]:
    """Let the writers act on the forward passes in the context.

    Args:
        blocks: the base LM's decoder blocks.
        writers: what to write, in order.
        spans: what each token is, or None where all are response tokens after the prefill.
    """

    def act(writer: VectorWriter) -> Callable[[Tensor], Tensor]:
        if spans is None:
            return writer.step
        return lambda hidden: writer.prefill(hidden, spans)

    with at_sites(blocks, [(writer.site, act(writer)) for writer in writers]):
        yield
