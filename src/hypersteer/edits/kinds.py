"""What a kind of edit is: named parameters, and how they apply to hidden states.

A new kind is one file with a class that has these members, and a line in
`hypersteer.edits.registry`. Nothing else knows what the parameters mean: one writer
(`hypersteer.lm.writers`) serves all kinds, in training, prefill and decoding.

Shapes: B rows, T tokens, D width. An edit's own parameters have no leading B; those of several
edits are stacked, shorter dimensions filled with zeros (`stacked`), so zeros must add nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hypersteer.edits.memory import Memory
from hypersteer.errors import SteeringError

Params = Mapping[str, Tensor]
"""Parameters by name."""


@runtime_checkable
class Applies(Protocol):
    """How parameters change hidden states: all that a running batch needs of a kind.

    Attributes:
        added: names of the parameters that end up in the states as they are, times the strength,
            so that their numbers must fit the states' dtype.
    """

    added: ClassVar[tuple[str, ...]]

    def apply(
        self,
        hidden: Float[Tensor, "B T D"],
        params: Params,
        mask: Bool[Tensor, "B T"],
        strength: Float[Tensor, " B"],
    ) -> Float[Tensor, "B T D"]:
        """Return the states after the edit, as before where `mask` is false or `strength` 0.

        Args:
            hidden: states at the site.
            params: parameters [B, ...] of each row's edit, on the states' device.
            mask: which tokens are edited.
            strength: of each row.
        """
        ...


@runtime_checkable
class Recalls(Protocol):
    """How parameters change hidden states where a token's edit depends on the tokens before it.

    Attributes:
        added: see `Applies`.
    """

    added: ClassVar[tuple[str, ...]]

    def recall(
        self,
        hidden: Float[Tensor, "B T D"],
        params: Params,
        mask: Bool[Tensor, "B T"],
        strength: Float[Tensor, " B"],
        memory: Memory,
    ) -> Float[Tensor, "B T D"]:
        """Return the states after the edit, as `Applies.apply` does.

        Args:
            hidden: states at the site.
            params: parameters [B, ...] of each row's edit, on the states' device.
            mask: which tokens are edited.
            strength: of each row.
            memory: of the tokens before; its pass over these has begun.
        """
        ...


Acts = Applies | Recalls
"""How edits act, with a memory or without."""


def new_memory(kind: Acts) -> Memory | None:
    """Return the memory that rows begin with; None for a kind that looks at one token alone."""
    return Memory() if isinstance(kind, Recalls) else None


def act(
    kind: Acts,
    hidden: Float[Tensor, "B T D"],
    params: Params,
    mask: Bool[Tensor, "B T"],
    strength: Float[Tensor, " B"],
    real: Bool[Tensor, "B T"],
    memory: Memory | None,
) -> Float[Tensor, "B T D"]:
    """Return the states after edits of any kind.

    Args:
        kind: of the edits.
        hidden: states at the site.
        params: parameters [B, ...] of each row's edit, on the states' device.
        mask: which tokens are edited.
        strength: of each row.
        real: which tokens are no padding.
        memory: what `new_memory` gave as the rows began; it takes in these tokens.
    """
    if memory is None:
        return cast(Applies, kind).apply(hidden, params, mask, strength)
    memory.begin(real)
    return cast(Recalls, kind).recall(hidden, params, mask, strength, memory)


@runtime_checkable
class EditKind(Applies, Protocol):
    """A kind of edit that can be made, kept in a file, combined, and written by a hypernetwork.

    Attributes:
        name: as files and settings call it.
    """

    name: ClassVar[str]

    def check(self, params: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return one edit's parameters as they are kept: float32 (or bool) copies on the CPU.

        Raises:
            SteeringError: if one is missing or unknown, has a wrong shape, or is not finite.
        """
        ...

    def width(self, params: Params) -> int:
        """Width D of the states that one edit's parameters are for."""
        ...

    def scaled(self, params: Params, factor: float) -> dict[str, Tensor]:
        """Return parameters of the edit that does `factor` times as much.

        Raises:
            SteeringError: if the kind has none.
        """
        ...

    def summed(self, one: Params, other: Params) -> dict[str, Tensor]:
        """Return parameters of the edit that does what both do.

        Raises:
            SteeringError: if the kind has none, or the two do not fit together.
        """
        ...

    def shapes(self, width: int, rank: int) -> dict[str, tuple[int, ...]]:
        """Return what a hypernetwork writes for one edit: shapes by name.

        Args:
            width: D.
            rank: directions of the edit, where the kind has a rank.
        """
        ...

    def in_units(self, params: Params, unit: Tensor, excess: Tensor) -> dict[str, Tensor]:
        """Return parameters [B, ...] for states of size `unit`, from those for states of size 1.

        Args:
            params: as a hypernetwork writes them.
            unit: a number.
            excess: [D], how many times as large as others each dimension of the states is, 1 for
                most; see `hypersteer.lm.units.excess`.
        """
        ...


def check_names(params: Mapping[str, Any], names: Sequence[str], kind: str) -> None:
    """Refuse parameters of an edit that are not the ones its kind has.

    Raises:
        SteeringError: naming both.
    """
    if set(params) != set(names):
        raise SteeringError(
            f"an edit of the kind '{kind}' has the parameters {', '.join(names)}, "
            f"not {', '.join(map(str, params)) or 'none'}"
        )


def latents(
    hidden: Float[Tensor, "B T D"], directions: Float[Tensor, "B R D"]
) -> Float[Tensor, "B T R"]:
    """Return what each row's directions read of its states.

    In this order the product of a decoding step is one per row that no threads share: a pool of
    threads woken for so small a product costs more than the product.
    """
    return (directions @ hidden.transpose(1, 2)).transpose(1, 2)


def plus(
    hidden: Float[Tensor, "B T D"],
    delta: Float[Tensor, "B T D"],
    mask: Bool[Tensor, "B T"],
    strength: Float[Tensor, " B"],
) -> Float[Tensor, "B T D"]:
    """Return the states plus `strength * delta` on the marked tokens.

    Where nothing is added the state stays as it is, bit for bit, whatever `delta` says.
    """
    factors = (mask * strength[:, None])[..., None]
    changed = hidden + factors.to(hidden.dtype) * delta.to(hidden.dtype)
    return torch.where(factors == 0, hidden, changed)


def stacked(rows: Sequence[Params | None]) -> dict[str, Tensor]:
    """Stack the parameters [B, ...] of B edits of one kind, zeros where a row has none or less.

    Args:
        rows: each row's own parameters; at least one row has some.
    """
    first = next(row for row in rows if row is not None)
    made = {}
    for name, like in first.items():
        own = [None if row is None else row[name] for row in rows]
        sizes = [one.shape for one in own if one is not None]
        shape = tuple(map(max, zip(*sizes, strict=True)))
        made[name] = like.new_zeros(len(rows), *shape)
        for place, one in zip(made[name], own, strict=True):
            if one is not None:
                place[tuple(map(slice, one.shape))] = one
    return made


def joined(one: Params, other: Params) -> dict[str, Tensor]:
    """Join the parameters [B + C, ...] of two batches of one kind; zeros fill the shorter ones."""
    made = {}
    for name, first in one.items():
        second = other[name].to(first)
        shape = tuple(map(max, zip(first.shape[1:], second.shape[1:], strict=True)))
        parts = [_filled(part, shape) for part in (first, second)]
        made[name] = torch.cat(parts)
    return made


def _filled(part: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return a batch of parameters with zeros up to the given shape."""
    if part.shape[1:] == shape:
        return part
    whole = part.new_zeros(len(part), *shape)
    whole[(slice(None), *map(slice, part.shape[1:]))] = part
    return whole
