"""Run a hypernetwork; and make edits with a trained one, at once or in a running batch's prefill.

Shapes: R rows, B base prompts, T base tokens, D width.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hypersteer.config import HypernetConfig
from hypersteer.edits.edit import Edit
from hypersteer.edits.kinds import Params
from hypersteer.edits.registry import KINDS, edit_kind
from hypersteer.edits.sites import Scope, Site
from hypersteer.errors import SteeringError
from hypersteer.hypernet.activation_prior import read_concept_states
from hypersteer.hypernet.card import Card
from hypersteer.hypernet.network import Hypernet
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import PromptIds, Spans, collate
from hypersteer.lm.packing import pack, packed_products
from hypersteer.lm.writers import Writer


class EditMaker:
    """Makes the edits of steering prompts for a base LM.

    Args:
        lm: the base LM.
        hypernet: the trained hypernetwork.
        card: what its checkpoint says about itself.
        generator: hash of its weights, which its edits carry.
    """

    def __init__(self, lm: BaseLM, hypernet: Hypernet, card: Card, generator: str = "") -> None:
        self._lm, self._hypernet, self._card = lm, hypernet, card
        self._generator = generator

    @property
    def lowest(self) -> Site:
        """The lowest site that edits of steering prompts act at."""
        return self._card.site

    def check(self, text: str, prompt: PromptIds) -> None:
        """Refuse a steering prompt that the hypernetwork cannot read in one pass.

        Raises:
            SteeringError: naming the lengths.
        """
        tokens = len(self._lm.chat.lead) + len(self._lm.chat.text(text))
        what = "the steering prompt"
        if self._card.hypernet.variant == "in-context":
            tokens += len(prompt.ids) - prompt.prefix
            what = "the steering prompt with the base prompt"
        self._lm.check_length(tokens, what)

    def writers(
        self,
        texts: Sequence[str | None],
        prompts: Sequence[PromptIds],
        strengths: Sequence[float],
        scope: Scope,
    ) -> list[Writer]:
        """Return writers for those of B rows with a text; edits are made in the prefill."""
        rows = [row for row, text in enumerate(texts) if text is not None]
        steering = self._steering([text for text in texts if text is not None])
        own = [prompts[row] for row in rows]
        made: list[Params] = []

        def make(number: int, hidden: Tensor, spans: Spans) -> Params:
            if number == 0:  # higher sites take what was made here
                index = torch.tensor(rows, device=hidden.device)
                made[:] = self._write(steering, own, hidden[index], spans.rows(index))
            return _spread(made[number], rows, len(texts))

        scopes = [None if text is None else scope for text in texts]
        places = zip(self._hypernet.sites, self._hypernet.kinds, strict=True)
        return [
            Writer(site, kind, partial(make, number), scopes, strengths)
            for number, (site, kind) in enumerate(places)
        ]

    def edits(
        self, texts: Sequence[str], prompts: Sequence[PromptIds], scope: Scope
    ) -> list[list[Edit]]:
        """Return the edits of pairs of steering prompt and base prompt, each with one per site.

        Raises:
            SteeringError: if they are nothing without the hypernetwork.
        """
        name = self._card.hypernet.edit
        if name not in KINDS:
            raise SteeringError(
                f"{name} edits act through the hypernetwork that makes them, so there is none to "
                "keep; steer by the steering prompt itself"
            )
        made = self.params(texts, prompts)
        return [self._as_edits(made, row, text, scope) for row, text in enumerate(texts)]

    def _as_edits(self, made: Sequence[Params], row: int, text: str, scope: Scope) -> list[Edit]:
        """Return the edits of a row, one for each site."""
        return [
            Edit(
                kind=edit_kind(self._card.hypernet.edit),
                params={name: value[row] for name, value in params.items()},
                site=site,
                scope=scope,
                base_lm=str(self._lm.identity),
                steering_prompt=text,
                generator=self._generator,
            )
            for site, params in zip(self._hypernet.sites, made, strict=True)
        ]

    @torch.no_grad()
    def params(self, texts: Sequence[str], prompts: Sequence[PromptIds]) -> list[Params]:
        """Return parameters [B, ...] at each site for pairs of steering prompt and base prompt."""
        steering = self._steering(texts)
        if self._card.hypernet.variant != "cross-attention":
            return self._write(steering, prompts)
        batch = collate(prompts, pad_id=self._lm.chat.pad_id).to(self._lm.device)
        return self._write(steering, prompts, self._lm.states(batch, self._card.site), batch.spans)

    def _write(
        self,
        steering: "_Steering",
        prompts: Sequence[PromptIds],
        hidden: Tensor | None = None,
        spans: Spans | None = None,
    ) -> list[Params]:
        config, (ids, states) = self._card.hypernet, steering
        with packed_products({} if torch.is_grad_enabled() else pack(self._hypernet)):
            return list(
                write_edits(self._hypernet, self._lm, config, ids, prompts, hidden, spans, states)
            )

    def _steering(self, texts: Sequence[str]) -> "_Steering":
        """Steering prompts as the hypernetwork reads them; the base LM may have to run for it."""
        ids = [self._lm.chat.text(text) for text in texts]
        return _Steering(ids, read_steering(self._lm, self._card.hypernet, self._card.site, ids))


class _Steering(NamedTuple):
    """Token ids of steering prompts, and the base LM's states of them where they are wanted."""

    ids: list[list[int]]
    concept_states: Tensor | None


def _spread(params: Params, rows: Sequence[int], count: int) -> dict[str, Tensor]:
    """Return parameters of some rows as those of all, zeros for the others."""
    return {
        name: value.new_zeros(count, *value.shape[1:]).index_copy(
            0, torch.tensor(rows, device=value.device), value
        )
        for name, value in params.items()
    }


def read_steering(
    lm: BaseLM, config: HypernetConfig, site: Site, steering: Sequence[Sequence[int]]
) -> Float[Tensor, "R D"] | None:
    """Return what `write_edits` wants as `concept_states`: None without the activation prior."""
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
    """Write parameters [R, ...] at each site, for R steering prompts and B base prompts, at once.

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
