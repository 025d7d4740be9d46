"""Fixed edits in force: as writers for rows of ours, or around any call of the Hugging Face model.

Shapes: B rows, T tokens, D width.
"""

import inspect
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hypersteer.edits.edit import Edit
from hypersteer.edits.edit_set import EditSet, parts_of
from hypersteer.edits.kinds import EditKind, stacked
from hypersteer.edits.sites import Site, check_strength
from hypersteer.errors import SteeringError, short
from hypersteer.lm.chat import Chat, Spans, common
from hypersteer.lm.finite import check_added, check_range
from hypersteer.lm.hooks import ReadWrite, at_input, at_sites
from hypersteer.lm.writers import Writer, acting

Given = Edit | EditSet | tuple[Edit | EditSet, float]
"""An edit, a set of edits, or a pair of one of these and a strength, which multiplies the row's."""


@runtime_checkable
class Host(Protocol):
    """What is needed of a base LM to edit its states."""

    @property
    def model(self) -> PreTrainedModel:
        """The Hugging Face model."""
        ...

    @property
    def blocks(self) -> nn.ModuleList:
        """Its decoder blocks."""
        ...

    @property
    def chat(self) -> Chat:
        """Prompts as token ids."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Type of the hidden states."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the inputs go."""
        ...

    def site_of(self, edit: Any) -> Site:
        """Return where an edit acts; refuses what is none for this base LM."""
        ...


class Applied(NamedTuple):
    """An edit, or what stands for one, at its strength."""

    edit: Any
    strength: float


def several(given: Any) -> list[Any]:
    """Return what a row is given as a list: none, one, or several in their order."""
    if given is None:
        return []
    return list(given) if isinstance(given, list) else [given]


def applied(given: Any, strength: float) -> Applied:
    """Return an edit, or a pair of an edit and its strength, under the strength of its row.

    Raises:
        SteeringError: for a strength that is no finite number.
    """
    if isinstance(given, tuple) and len(given) == 2:
        own = check_strength(given[1])
        check_range([own * strength])
        return Applied(given[0], own * strength)
    return Applied(given, strength)


def sites_of(lm: Host, edit: Any) -> list[Site]:
    """Return where an edit, or each of a set, acts; refuses what is none for this base LM."""
    return [lm.site_of(part) for part in parts_of(edit)]


def edit_writers(
    lm: Host, edits: Sequence[Given | list[Given] | None], strengths: Sequence[float]
) -> list[Writer]:
    """Return writers for fixed edits.

    Args:
        lm: the base LM.
        edits: of each of B rows: none, one, or a list of several, which act in that order.
        strengths: of each row.

    Raises:
        CheckpointError: if an edit was made for another base LM.
        ModelError: if its site is not in this one.
        SteeringError: if it is no edit, its width is not the base LM's, or it is beyond what the
            base LM's dtype can hold.
    """
    rows = [
        [applied(one, strength) for one in several(own)]
        for own, strength in zip(edits, strengths, strict=True)
    ]
    slots = max(map(len, rows), default=0)
    return [
        writer
        for slot in range(slots)
        for writer in slot_writers(lm, [row[slot] if slot < len(row) else None for row in rows])
    ]


def slot_writers(lm: Host, edits: Sequence[Applied | None]) -> list[Writer]:
    """Return writers for at most one edit per row: one for each site and kind that occurs.

    A set of edits, one at each of several sites, counts as one.

    Raises:
        SteeringError: see `edit_writers`.
    """
    members: dict[tuple[Site, EditKind], dict[int, Applied]] = {}
    for row, one in enumerate(edits):
        if one is not None:
            for part in parts_of(one.edit):
                place = lm.site_of(part), part.kind
                members.setdefault(place, {})[row] = Applied(part, one.strength)
    writers = []
    for (site, kind), own in members.items():
        rows = [own.get(row) for row in range(len(edits))]
        params = stacked([None if one is None else one.edit.params for one in rows])
        strengths = [1.0 if one is None else one.strength for one in rows]
        check_added(kind, params, torch.tensor(strengths), lm.dtype)
        writers.append(
            Writer(
                site,
                kind,
                {name: value.to(lm.device) for name, value in params.items()},
                [None if one is None else one.edit.scope for one in rows],
                strengths,
            )
        )
    return writers


@contextmanager
def edited(lm: Host, rows: Sequence[Any], strengths: Sequence[float]) -> Generator[None]:
    """Let edits act on whatever runs the Hugging Face model in the context; see `BaseLM.edited`.

    Args:
        lm: the base LM.
        rows: edits of each row of a call, as `edit_writers` takes them; one for all rows.
        strengths: likewise. A call of k times as many rows has k copies of each, one after the
            other, as `generate` makes them for beams and several answers.
    """
    edit_writers(lm, rows, strengths)  # so that bad input is told before anything runs
    given = [applied(one, 1.0).edit for row in rows for one in several(row)]
    sites = {site for one in given for site in sites_of(lm, one)}
    call = _Call(lm, rows, strengths)
    with ExitStack() as stack:
        stack.enter_context(at_input(lm.model.get_decoder(), call.begin))
        stack.enter_context(at_sites(lm.blocks, [(site, call.at(site)) for site in sorted(sites)]))
        yield


class _Call:
    """The calls of a model in a context: what their tokens are, and who writes into which row."""

    def __init__(self, lm: Host, rows: Sequence[Any], strengths: Sequence[float]) -> None:
        self._lm, self._rows, self._strengths = lm, rows, strengths
        self._signature = inspect.signature(lm.model.get_decoder().forward)
        self._writers: list[Writer] = []
        self._count = 0
        self._acting: dict[Site, list[ReadWrite]] = {}

    def begin(self, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """Look at what a forward pass of the decoder is given."""
        given = self._signature.bind_partial(*args, **kwargs).arguments
        given = {**given, **given.pop("kwargs", {})}
        ids = given.get("input_ids")
        count, tokens = (given["inputs_embeds"] if ids is None else ids).shape[:2]
        cache = given.get("cache", given.get("past_key_values"))
        before = 0 if cache is None else int(cache.get_seq_length())
        real = _real(given.get("attention_mask"), count, tokens, self._lm.device)
        fresh = not before or count != self._count
        if fresh:
            self._writers, self._count = self._made_for(count), count
        if before and tokens == 1 and not fresh:
            spans = None
        else:
            prefix = torch.zeros_like(real) if before or ids is None else self._prefix(ids, real)
            answer = real if before and tokens == 1 else torch.zeros_like(real)
            prompt = real & ~prefix & ~answer
            spans = Spans(prefix, prompt, answer, prompt)
        self._acting = {}
        for site, function in acting(self._writers, spans):
            self._acting.setdefault(site, []).append(function)
        return args, kwargs

    def at(self, site: Site) -> ReadWrite:
        """Return what is done to the states at a site."""

        def write(hidden: Tensor) -> Tensor:
            for function in self._acting.get(site, ()):
                changed = function(hidden)
                hidden = hidden if changed is None else changed
            return hidden

        return write

    def _made_for(self, count: int) -> list[Writer]:
        copies, left = divmod(count, len(self._rows))
        if left:
            raise SteeringError(
                f"the model is called with {count} rows, but there are edits for "
                f"{len(self._rows)}; give one for all, or one per row"
            )
        rows = [row for row in self._rows for _ in range(copies)]
        strengths = [one for one in self._strengths for _ in range(copies)]
        return edit_writers(self._lm, rows, strengths)

    def _prefix(self, ids: Tensor, real: Tensor) -> Tensor:
        """Mark what a row has in common with the chat prefix, which `all` does not touch."""
        found = torch.zeros_like(real)
        for row, own, marks in zip(found, ids, real, strict=True):
            places = marks.nonzero().squeeze(1)
            size = common(own[places].tolist(), self._lm.chat.prefix)
            row[places[: min(size, len(places) - 1)]] = True
        return found


def _real(mask: Tensor | None, count: int, tokens: int, device: torch.device) -> Tensor:
    """Mark [B, T] the tokens that are not padding, as far as the call says."""
    if isinstance(mask, Tensor) and mask.ndim == 2:
        return mask[:, -tokens:].bool()
    return torch.ones(count, tokens, dtype=torch.bool, device=device)


def edits_of_rows(edit: Any, edits: Any, strength: Any) -> tuple[list[Any], list[float]]:
    """Return rows of edits and strengths, from `edit` for one or several rows and `edits` for all.

    Raises:
        SteeringError: for lists of different lengths, or a strength that is no finite number.
    """
    rows = edit if isinstance(edit, list) else [edit]
    if not rows:
        raise SteeringError("the list of edits is empty; give one for all rows, or one per row")
    besides = all_edits(edits)
    strengths = [check_strength(one) for one in per_row(strength, len(rows), "strength")]
    check_range(strengths)
    return [[*several(row), *besides] for row in rows], strengths


def all_edits(edits: Any) -> list[Any]:
    """Return the edits that act on every row.

    Raises:
        SteeringError: if they are no list.
    """
    if not isinstance(edits, (list, tuple)):
        raise SteeringError(f"edits is {short(edits)}; give a list, such as [edit, (other, 0.5)]")
    return list(edits)


def per_row(value: Any, count: int, name: str) -> list[Any]:
    """Return a value for each of `count` rows, from one for all or a list of as many.

    Raises:
        SteeringError: for a list of another length.
    """
    if hasattr(value, "tolist") and getattr(value, "shape", None):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        if len(value) != count:
            raise SteeringError(
                f"{len(value)} values of '{name}' for {count} prompts; give one, or one per prompt"
            )
        return list(value)
    return [value] * count
