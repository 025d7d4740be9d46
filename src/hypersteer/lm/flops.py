"""Floating-point operations of passes through a base LM: those of its matrix products.

Counted as torch's `FlopCounterMode` counts them: two for each multiply-add, the whole square of
attention though half of it is masked, padding included since it runs, and nothing for norms,
activations and sums. They follow from the shapes of the weights and the configuration alone, so
weights need not be there (they may be on the meta device).

Two assumptions. Attention is softmax attention with `num_attention_heads` heads of `head_dim`
numbers; of what mixes tokens in another way, only the products with weights are counted. And
sub-layers run one after the other: where a block has them side by side (GPT-NeoX, Phi), an edit at
the `attention` site of that very block is taken to reach its MLP.

Shapes: R rows of T tokens each, padding included.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from torch import nn
from transformers import PreTrainedModel

from hypersteer.edits.sites import Site
from hypersteer.errors import ModelError
from hypersteer.lm.base import BaseLM
from hypersteer.lm.blocks import attends, find_blocks, sublayer

MULTIPLY_ADD = 2
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
"""How configurations call the number of experts."""


class Half(NamedTuple):
    """What half a block costs forward: up to the attention site, or from there on.

    Attributes:
        token: operations for each token, of products with weights.
        pair: operations for each pair of tokens of a row, of products of queries, keys and values.
    """

    token: int
    pair: int

    def forward(self, rows: int, length: int) -> int:
        """Count operations of a pass forward over R rows of T tokens."""
        return rows * length * (self.token + length * self.pair)

    def backward(self, rows: int, length: int, *, weights: bool) -> int:
        """Count those of the way back: to states, and to `weights` too where these are trained."""
        return rows * length * ((1 + weights) * self.token + 2 * length * self.pair)


@dataclass(frozen=True, slots=True)
class LMFlops:
    """What passes through a base LM cost.

    Places in it are counted in half blocks: 2 l is before block l, 2 l + 1 at its attention site,
    2 l + 2 at its MLP and residual sites.

    Attributes:
        width: D.
        heads: attention heads of a block; None where there are none.
        halves: of all blocks, in order.
        head: operations for each token of the vocabulary head.
    """

    width: int
    heads: int | None
    halves: tuple[Half, ...]
    head: int

    @classmethod
    def of(cls, model: PreTrainedModel, blocks: nn.ModuleList | None = None) -> "LMFlops":
        """Work them out from a model's shapes.

        Args:
            model: a causal LM; its weights may be on the meta device.
            blocks: its decoder blocks; by default found by structure.

        Raises:
            ModelError: if no blocks are found.
        """
        config = model.config.get_text_config()
        found = find_blocks(model) if blocks is None else blocks
        halves = [half for block in found for half in _halves(block, config)]
        head = sum(_products(cast(nn.Module, model.get_output_embeddings()), 1.0))
        heads = getattr(config, "num_attention_heads", None)
        return cls(config.hidden_size, heads, tuple(halves), MULTIPLY_ADD * round(head))

    @classmethod
    def of_lm(cls, lm: BaseLM) -> "LMFlops":
        """Work them out for a base LM."""
        return cls.of(lm.model, lm.blocks)

    @property
    def top(self) -> int:
        """The place above all blocks."""
        return len(self.halves)

    def forward(self, rows: int, length: int, stop: int, *, start: int = 0) -> int:
        """Count a pass forward from a place up to another over R rows of T tokens."""
        return sum(half.forward(rows, length) for half in self.halves[start:stop])

    def backward(
        self, rows: int, length: int, stop: int, *, start: int = 0, weights: bool = False
    ) -> int:
        """Count the way back over the same, see `Half.backward`."""
        halves = self.halves[start:stop]
        return sum(half.backward(rows, length, weights=weights) for half in halves)

    def generating(self, prompt: int, answer: int) -> int:
        """Count an answer of so many tokens to a prompt of so many, greedy or sampled.

        The prompt runs in one pass, every token but the last behind it by itself, with keys and
        values of what came before in a cache; the head runs once for each token of the answer.
        """
        fed = max(0, answer - 1)
        pairs = prompt**2 + fed * prompt + fed * (fed + 1) // 2
        blocks = sum((prompt + fed) * half.token + pairs * half.pair for half in self.halves)
        return blocks + answer * self.head


def place(site: Site) -> int:
    """Return where a site is, see `LMFlops`."""
    return 2 * site.layer + (1 if site.kind == "attention" else 2)


def width_of(lengths: Sequence[int]) -> int:
    """Return the length T that rows are padded to."""
    return max(lengths, default=0)


def _halves(block: nn.Module, config: Any) -> tuple[Half, Half]:
    """Return both halves of a block."""
    share = _share(config)
    whole = sum(_products(block, share))
    try:
        mixer = sublayer(block, "attention")
    except ModelError:  # nobody can edit inside such a block, so it does not matter where it is cut
        return Half(MULTIPLY_ADD * round(whole), 0), Half(0, 0)
    own = sum(_products(mixer, share))
    numbers = _heads(config) if attends(block) else 0
    first = Half(MULTIPLY_ADD * round(own), 2 * MULTIPLY_ADD * numbers)
    return first, Half(MULTIPLY_ADD * round(whole - own), 0)


def _products(module: nn.Module, share: float) -> Iterator[float]:
    """Yield the weights that each token is multiplied with, of every matrix in a module."""
    for name, part in module.named_modules():
        factor = share if "experts" in name.split(".") else 1.0
        if isinstance(part, nn.Linear):  # quantised ones hold their weights in other shapes
            yield factor * part.in_features * part.out_features
        elif not isinstance(part, nn.Embedding):
            own = part.parameters(recurse=False)
            yield from (factor * weight.numel() for weight in own if weight.ndim > 1)


def _share(config: Any) -> float:
    """Return the share of a block's experts that a token runs through."""
    chosen = getattr(config, "num_experts_per_tok", None)
    counts = (getattr(config, name, None) for name in EXPERTS)
    count = next((number for number in counts if number), None)
    return chosen / count if chosen and count else 1.0


def _heads(config: Any) -> int:
    """Return the numbers of all queries of a token: heads times the width of one."""
    heads = getattr(config, "num_attention_heads", None) or 1
    return heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
