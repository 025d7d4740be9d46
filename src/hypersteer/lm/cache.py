"""A key-value cache that does not copy itself at every step."""

from typing import Any

from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

CHUNK = 64
"""Tokens of room added when a layer is full."""


class RoomyLayer(DynamicLayer):
    """A dynamic cache layer with spare room at its end.

    transformers' own layer concatenates all keys and values at every step: at batch 32 and 100
    tokens that copies about 150 MB a step of SmolLM2. This one copies once per `CHUNK`.
    """

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append the new keys and values [B, H, T, D_head]; return all of them."""
        del args, kwargs
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._room: tuple[Tensor, Tensor] | None = None
        old = self.get_seq_length()
        new = old + key_states.shape[-2]
        if self._room is None or self._room[0].shape[-2] < new:
            self._room = (
                self._grown(self.keys, key_states, old, new),
                self._grown(self.values, value_states, old, new),
            )
        for room, fresh in zip(self._room, (key_states, value_states), strict=True):
            room[..., old:new, :] = fresh
        self.keys, self.values = (room[..., :new, :] for room in self._room)
        return self.keys, self.values

    def join(self, other: DynamicLayer) -> None:
        """Put another layer's rows behind its own, the shorter ones padded on the left with 0."""
        one: Any = self  # both hold keys and values
        two: Any = other
        size = max(one.keys.shape[-2], two.keys.shape[-2])
        self._room = (_beside(one.keys, two.keys), _beside(one.values, two.values))
        self.keys, self.values = (room[..., :size, :] for room in self._room)

    def forget_room(self) -> None:
        """Begin with new room at the next step, since keys and values are other ones."""
        self._room = None

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Pick rows by number, in any order, some of them several times or never."""
        self.forget_room()
        super().reorder_cache(beam_idx)  # type: ignore[arg-type]

    @staticmethod
    def _grown(held: Tensor | None, fresh: Tensor, old: int, new: int) -> Tensor:
        *lead, _, width = fresh.shape
        room = fresh.new_empty(*lead, new + CHUNK, width)
        if held is not None and old:
            room[..., :old, :] = held
        return room


def _beside(one: Tensor, other: Tensor) -> Tensor:
    """Return the rows of both in one tensor with spare room, copied once; all end alike."""
    size = max(one.shape[-2], other.shape[-2])
    room = one.new_empty(len(one) + len(other), one.shape[1], size + CHUNK, one.shape[-1])
    for rows, held in ((room[: len(one)], one), (room[len(one) :], other)):
        start = size - held.shape[-2]
        rows[..., :start, :] = 0  # masked, but it is multiplied by 0, so it must be finite
        rows[..., start:size, :] = held
    return room


def new_cache(model: PreTrainedModel) -> DynamicCache:
    """Return an empty cache for a model, with roomy layers in the place of plain ones."""
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    cache.layers = [
        RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers
    ]
    return cache


def holds_attention_alone(cache: DynamicCache) -> bool:
    """Return whether several tokens may follow what ran before, as if all had run together.

    Linear attention and convolutions go on by single tokens only.
    """
    return all(type(one) in (RoomyLayer, DynamicSlidingWindowLayer) for one in cache.layers)
