"""The memory of a training step, from shapes alone: weights, optimizer, and what autograd keeps.

What autograd keeps is not guessed: a step's forward pass runs on torch's meta device, with real
hooks and the real hypernetwork, and the tensors that it saves for the way back are weighed. Bytes
throughout, of one process.

Shapes: R rows, T tokens of prompt and response, C tokens of a steering prompt, D width.
"""

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from hypersteer.config import LossConfig
from hypersteer.edits.kinds import act, new_memory
from hypersteer.hypernet.network import Hypernet
from hypersteer.hypernet.step_flops import RowLengths
from hypersteer.lm.hooks import at_input, at_sites, capture
from hypersteer.lm.likelihood import token_cross_entropy
from hypersteer.lm.skeleton import Skeleton

FLOAT32, HALF = 4, 2
MOMENTS = 2
"""Running means that AdamW keeps of each weight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes of one process.

    Attributes:
        base_lm: the frozen weights, whole on every process.
        weights: of the hypernetwork, float32.
        copies: of its weights in 16 bits, which mixed precision makes for products.
        optimizer: AdamW's two running means.
        gradients: one for each weight.
        buckets: of gradients, through which processes that each have all weights exchange them.
        activations: what autograd keeps of a step's part, and the gradients of the logits; None
            where the architecture does not run on the meta device.
        update: what AdamW holds for a moment beside all that, on a GPU.
        gathered: weights that are split among processes, while blocks run.
    """

    base_lm: int
    weights: int
    copies: int
    optimizer: int
    gradients: int
    buckets: int
    activations: int | None
    update: int
    gathered: int = 0

    @property
    def held(self) -> int:
        """What is there all the time."""
        return self.base_lm + self.weights + self.optimizer + self.buckets + self.gathered

    def peak(self, parts: int) -> int:
        """Return the most that is there at once.

        Gradients come into being while activations go, unless an earlier part left some.

        Args:
            parts: that a step's rows are run in.
        """
        running = (self.activations or 0) + self.copies + (self.gradients if parts > 1 else 0)
        return self.held + max(running, self.gradients + self.copies, self.gradients + self.update)


def memory_of(
    lm: Skeleton,
    hypernet: Hypernet,
    activations: int | None,
    *,
    mixed: bool,
    processes: int = 1,
    split: bool = False,
) -> Memory:
    """Return the memory of one process.

    Args:
        lm: the base LM, in the dtype of the run.
        hypernet: the hypernetwork, on the meta device.
        activations: see `Memory`.
        mixed: whether products are in 16 bits.
        processes: how many there are.
        split: whether they split the hypernetwork, its gradients and its optimizer (FSDP2), or
            each has it whole (DDP).
    """
    numbers = sum(weight.numel() for weight in hypernet.parameters())
    matrices = sum(weight.numel() for weight in hypernet.parameters() if weight.ndim > 1)
    largest = max(sum(p.numel() for p in part.parameters()) for part in _units(hypernet))
    share = processes if split else 1
    own = math.ceil(FLOAT32 * numbers / share)
    return Memory(
        base_lm=sum(w.numel() * w.element_size() for w in lm.model.parameters()),
        weights=own,
        copies=0 if split or not mixed else HALF * matrices,
        optimizer=MOMENTS * own,
        gradients=own,
        buckets=own if processes > 1 and not split else 0,
        activations=activations,
        update=own,
        gathered=2 * FLOAT32 * largest if split and processes > 1 else 0,  # one runs, one arrives
    )


def _units(hypernet: Hypernet) -> list[nn.Module]:
    """Return the parts that are gathered one after the other: its blocks, and what is beside."""
    blocks = hypernet.trunk.get_submodule(cast(str, hypernet.trunk.blocks_path))
    others = [part for name, part in hypernet.named_children() if name not in ("trunk", "cross")]
    return [*cast(nn.ModuleList, blocks), *hypernet.cross, *others]


def kept_activations(
    lm: Skeleton, hypernet: Hypernet, loss: LossConfig, rows: Sequence[RowLengths]
) -> int | None:
    """Return the bytes that autograd keeps when these rows run together, and those of the logits.

    Arithmetic of the hypernetwork is taken to be in float32, which is a little too much where it is
    mixed.

    Args:
        lm: the base LM.
        hypernet: the hypernetwork, on the meta device.
        loss: what is minimised.
        rows: lengths of the rows of a step's part.
    """
    copied = math.ceil(loss.contrast_share * len(rows)) if loss.contrast else 0
    count = len(rows) * (2 if loss.objective == "preference" else 1) + copied
    answers = [max(r.wanted, r.own if loss.objective == "preference" else 0) for r in rows]
    length = max(r.prompt + n for r, n in zip(rows, answers, strict=True))
    beside = hypernet.config.variant == "in-context"
    read = 1 + max(max(r.steering, r.wrong) + beside * (r.prompt - r.prefix) for r in rows)
    response = math.ceil(sum(answers) / len(rows))
    states = max(r.prompt for r in rows)
    for mask in _masks(lm, count, length):
        try:
            return _weighed(lm, hypernet, loss, mask, (count, length, read, states, response))
        except (RuntimeError, ValueError):  # a family that looks into masks, or at values
            continue
    return None


def _masks(lm: Skeleton, rows: int, length: int) -> list[Tensor]:
    """Return attention masks, of the forms that architectures take on the meta device."""
    whole = torch.zeros(rows, 1, length, length, dtype=lm.model.dtype, device="meta")
    return [whole, torch.ones(rows, length, dtype=torch.long, device="meta")]


def _weighed(
    lm: Skeleton,
    hypernet: Hypernet,
    loss: LossConfig,
    mask: Tensor,
    sizes: tuple[int, int, int, int, int],
) -> int:
    rows, length, read, states, response = sizes
    made: list[Any] = []

    def like(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(*shape, dtype=dtype, device="meta")

    def at(number: int) -> Callable[[Tensor], Tensor]:
        def write(hidden: Tensor) -> Tensor:
            if not number:
                made[:] = written(hidden[:, :states])
            kind, marks = hypernet.kinds[number], like(rows, length, dtype=torch.bool)
            memory = new_memory(kind)
            return act(kind, hidden, made[number], marks, like(rows), marks, memory)

        return write

    def written(seen: Tensor) -> list[dict[str, Tensor]]:
        embeds = like(rows, read, lm.width, dtype=lm.model.dtype)
        marks, readable = (like(rows, n, dtype=torch.bool) for n in (read, seen.shape[1]))
        concept = like(rows, lm.width) if hypernet.prior is not None else None
        four = mask.ndim == 4
        trunk = like(rows, 1, read, read) if four else like(rows, read, dtype=torch.long)
        with at_input(hypernet.trunk, lambda args, kwargs: (args, _masked(kwargs, trunk))):
            return hypernet(embeds, marks, seen.detach(), readable, concept)

    hypernet.train()
    with _weighing(lm.model, hypernet) as total:
        if loss.objective == "reconstruction":
            written(like(rows, states, lm.width))
            return total()
        acts = [(site, at(number)) for number, site in enumerate(hypernet.sites)]
        inputs: dict[str, Any] = {
            "inputs_embeds": like(rows, length, lm.width, dtype=lm.model.dtype),
            "attention_mask": mask,
            "use_cache": False,
        }
        with at_sites(lm.blocks, acts):
            if loss.objective == "activations":
                with capture(lm.blocks, [hypernet.sites[-1]], stop=True):
                    lm.model(**inputs)
                return total()
            logits = lm.model(**inputs, logits_to_keep=response).logits.flatten(0, 1)
        token_cross_entropy(logits, like(len(logits), dtype=torch.long))
        whole = logits.numel() * logits.element_size()
        taught = whole if loss.objective == "distillation" else 0
        return total() + (1 + _are_worked_on(logits)) * whole + taught


def _are_worked_on(logits: Tensor) -> bool:
    """Return whether logits are more than the head's product, capped or scaled, say.

    Their gradient then stands beside that of the product for a moment.
    """
    node = logits.grad_fn
    while node is not None and "Mm" not in node.name() and "Bmm" not in node.name():
        if not any(part in node.name() for part in ("View", "Squeeze", "Transpose", "TBackward")):
            return True
        node = node.next_functions[0][0]
    return False


def _masked(kwargs: dict, mask: Tensor) -> dict:
    return {**kwargs, "attention_mask": mask}


@contextmanager
def _weighing(*modules: nn.Module) -> Generator[Callable[[], int]]:
    """Weigh what autograd saves while the context lasts, each storage once, weights left out."""
    tensors = [t for module in modules for t in (*module.parameters(), *module.buffers())]
    own = {tensor.untyped_storage()._cdata for tensor in tensors}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        yield lambda: sum(storage.nbytes() for storage in kept.values())
