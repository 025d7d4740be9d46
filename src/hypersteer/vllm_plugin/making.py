"""Make the edits of newly scheduled requests, all in one pass of the hypernetwork."""

import gc
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hypersteer.edits.edit_set import parts_of
from hypersteer.edits.kinds import Params
from hypersteer.errors import ModelError
from hypersteer.hypernet.maker import EditMaker
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import PromptIds
from hypersteer.lm.load import load_lm
from hypersteer.steering import load
from hypersteer.vllm_plugin.deciding import Deciding
from hypersteer.vllm_plugin.front import Front
from hypersteer.vllm_plugin.payload import Steered, decoded, payload_of, unpacked
from hypersteer.vllm_plugin.table import Entry, Place, Row

Wanted = tuple[str, tuple[int, ...]]
"""What a generated edit depends on: the steering prompt, and the base prompt if it is read."""


class New(NamedTuple):
    """A request that is scheduled for the first time.

    Attributes:
        payload: what steers it.
        ids: its prompt.
    """

    payload: str
    ids: Sequence[int]


def new_request(data: Any) -> New | None:
    """Return what steers a request, as in vLLM's `NewRequestData`; None for an unsteered one."""
    payload, ids = payload_of(data.sampling_params), data.prompt_token_ids
    return None if payload is None or ids is None else New(payload, ids)


class Making:
    """Makes the edits of requests.

    Attributes:
        lm: the base LM, of which as many blocks stay as are read.
        deciding: decides rules; None where none are taken.

    Args:
        front: reads what steers them.
        model: the model that vLLM serves, as the base LM is loaded.
        device: of the model.
        dtype: of the model, by its name.

    Raises:
        CheckpointError: if the checkpoint, or what rules are decided by, is for another base LM.
        ModelError: if the base LM cannot be loaded.
    """

    def __init__(self, front: Front, model: str, *, device: str, dtype: str) -> None:
        self._front, card = front, front.card
        self.lm = load_lm(front.config.lm or model, device=device, dtype=dtype)
        steerer = load(front.config.checkpoint, lm=self.lm)
        self._hypernet = steerer.hypernet
        self._maker = EditMaker(self.lm, steerer.hypernet, card, steerer.generator)
        self._reads_prompt = card.hypernet.variant != "no-context"
        reads_states = card.hypernet.variant == "cross-attention" or card.hypernet.prior != "none"
        self.deciding: Deciding | None = None
        if front.config.rules:
            self.deciding = Deciding(self.lm, front.known.conditions, steerer.head)
        decides = 0 if self.deciding is None else self.deciding.blocks
        keep_blocks(self.lm, max(card.site.layer + 1 if reads_states else 0, decides))
        self._kept: OrderedDict[Wanted, list[Params]] = OrderedDict()

    def rows(self, requests: Sequence[New]) -> list[Row]:
        """Return the edits of requests; those that must be generated are in one batched pass."""
        parts = [decoded(one.payload) for one in requests]
        wanted = {
            self._wanted(part.text, one.ids): None
            for one, own in zip(requests, parts, strict=True)
            for part in own
            if part.text is not None
        }
        made = self._made(list(wanted))
        return [self._row(one, own, made) for one, own in zip(requests, parts, strict=True)]

    def share_embeddings(self, weight: Tensor) -> None:
        """Read the embeddings of the model that is served, and drop the copy of them.

        Args:
            weight: its table [V or more, D], which may have rows of padding behind.

        Raises:
            ModelError: if they are another base LM's.
        """
        own = self.lm.embeddings.weight
        if weight.dtype != own.dtype or weight.shape[0] < own.shape[0]:
            return  # split over ranks, or quantised
        if not torch.equal(weight[: own.shape[0]].to(own.device), own):
            raise ModelError(
                f"the token embeddings of '{self.lm.name}' are not those of the model that vLLM "
                "serves; name the same base LM"
            )
        own.data = weight[: own.shape[0]]

    def _wanted(self, text: str, ids: Sequence[int]) -> Wanted:
        return text, tuple(ids) if self._reads_prompt else ()

    @torch.no_grad()
    def _made(self, wanted: Sequence[Wanted]) -> dict[Wanted, list[Params]]:
        """Return parameters at all sites, those that are kept and those made now."""
        found = {one: self._kept[one] for one in wanted if one in self._kept}
        missing = [one for one in wanted if one not in found]
        if missing:
            texts = [text for text, _ in missing]
            made = self._maker.params(texts, [self._prompt(ids) for _, ids in missing])
            for row, one in enumerate(missing):
                found[one] = [{name: v[row].clone() for name, v in own.items()} for own in made]
        for one in wanted:
            self._kept[one] = found[one]
            self._kept.move_to_end(one)
        while len(self._kept) > self._front.config.kept_edits:
            self._kept.popitem(last=False)
        return found

    def _prompt(self, ids: Sequence[int]) -> PromptIds:
        if not self._reads_prompt:
            return PromptIds([self.lm.chat.pad_id], 0)
        return PromptIds(list(ids), self._front.limits.prefix(ids))

    def _row(self, one: New, parts: Sequence[Steered], made: dict[Wanted, list[Params]]) -> Row:
        entries: dict[Place, Entry] = {}
        for slot, part in enumerate(parts):
            if part.text is None:
                assert part.edit is not None
                for edit in parts_of(unpacked(part.edit)):
                    place = Place(slot, edit.site, edit.kind.name)
                    entries[place] = Entry(edit.params, part.strength, edit.scope)
                continue
            found = made[self._wanted(part.text, one.ids)]
            name = self._front.card.hypernet.edit
            for site, params in zip(self._hypernet.sites, found, strict=True):
                assert isinstance(part.scope, str)
                entries[Place(slot, site, name)] = Entry(params, part.strength, part.scope)
        return Row(entries, self._front.limits.prefix(one.ids), len(one.ids))


def keep_blocks(lm: BaseLM, count: int) -> None:
    """Drop a base LM's blocks from one on, and its head: what is never read.

    The base LM is the plug-in's own, and can do nothing else from now on.
    """
    del lm.blocks[count:]
    head = lm.model.get_output_embeddings()
    if head is not None and head.weight is not lm.embeddings.weight:
        lm.model.set_output_embeddings(None)
    gc.collect()
