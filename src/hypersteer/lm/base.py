"""The base LM as a value: a frozen model, its tokenizer and blocks, one forward under edits."""

import importlib
import inspect
from collections.abc import Generator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel, PreTrainedTokenizerBase

from hypersteer.edits.edit import Edit
from hypersteer.edits.sites import Site
from hypersteer.errors import CheckpointError, SteeringError, short
from hypersteer.identity import Identity, described, difference
from hypersteer.lm.blocks import find_blocks
from hypersteer.lm.chat import Chat, TokenBatch
from hypersteer.lm.checks import check_runs
from hypersteer.lm.control import end_of_turn
from hypersteer.lm.edited import edited, edits_of_rows
from hypersteer.lm.hooks import capture, head_at
from hypersteer.lm.shape import site_in, window_of
from hypersteer.lm.sketch import measure


@dataclass(frozen=True, slots=True, eq=False)
class BaseLM:
    """A frozen causal LM with all that steering needs to know about it.

    Made by `hypersteer.load_lm`, or by `BaseLM.of` from a model and tokenizer at hand.

    Attributes:
        name: what it was loaded as.
        model: the Hugging Face model; in eval mode, no parameter requires a gradient.
        tokenizer: its tokenizer.
        chat: prompts and responses as token ids.
        blocks: its decoder blocks.
        identity: tells this base LM from others, whatever format its weights are in.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    chat: Chat
    blocks: nn.ModuleList
    identity: Identity = field(repr=False)
    _accepted: frozenset[str] = field(repr=False)

    @classmethod
    def of(
        cls,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str = "",
        blocks: str | None = None,
    ) -> "BaseLM":
        """Freeze a model and describe it.

        Args:
            model: a Hugging Face causal LM; its parameters stop requiring gradients.
            tokenizer: its tokenizer.
            name: how messages call it.
            blocks: dotted path of the decoder blocks where they cannot be found by structure.

        Raises:
            ModelError: if it cannot be steered, see `hypersteer.lm.checks`.
        """
        model.eval().requires_grad_(False)
        accepted = frozenset(inspect.signature(model.forward).parameters)
        ends = getattr(model.generation_config, "eos_token_id", None)
        table = cast(nn.Embedding, model.get_input_embeddings())
        found = find_blocks(model, blocks)
        made = cls(
            name=name or model.config.name_or_path or type(model).__name__,
            model=model,
            tokenizer=tokenizer,
            chat=Chat(tokenizer, end_of_turn(tokenizer, ends), table.weight.shape[0]),
            blocks=found,
            identity=measure(model, found),
            _accepted=accepted,
        )
        check_runs(made)
        return made

    @property
    def fingerprint(self) -> str:
        """A short label of the weights; other formats of the same weights may have another."""
        return self.identity.label

    @property
    def width(self) -> int:
        """Width D of the hidden states."""
        return self.model.config.get_text_config().hidden_size

    @property
    def depth(self) -> int:
        """Number of decoder blocks L."""
        return len(self.blocks)

    @property
    def vocab(self) -> int:
        """Number V of token ids that the model knows."""
        return self.embeddings.weight.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the inputs go."""
        return self.embeddings.weight.device

    @property
    def embeddings(self) -> nn.Embedding:
        """The table of input embeddings."""
        return cast(nn.Embedding, self.model.get_input_embeddings())

    @property
    def dtype(self) -> torch.dtype:
        """Type of the hidden states."""
        return self.model.dtype

    @property
    def context_window(self) -> int:
        """Most tokens that prompt and response may have together; 2^31 where nothing limits it."""
        return window_of(self.model)

    def site(self, layer: int | None = None, kind: str = "residual") -> Site:
        """Return a site of this model, checked; by default in the block 40 % of the way up.

        Raises:
            ModelError: if the layer is out of range.
        """
        return site_in(self.depth, layer, kind)

    def forward(self, batch: TokenBatch, *, cache: Cache | None = None, **extra: Any) -> Any:
        """Run the model on a batch with exact masks and positions; hooks in place apply.

        Args:
            batch: tokens and spans, on the model's device.
            cache: keys and values of what ran before, to read and to add to; without one nothing
                is kept.
            extra: goes to the model's forward.
        """
        inputs: dict[str, Any] = {
            "input_ids": batch.ids,
            "attention_mask": batch.spans.real.long(),
            "use_cache": cache is not None,
            **extra,
        }
        if cache is not None:
            # The name since transformers 5.24; older releases, and code written for them, say
            # `past_key_values`, which newer ones take with a warning.
            inputs["cache" if "cache" in self._accepted else "past_key_values"] = cache
        if "position_ids" in self._accepted:
            # A copy: XGLM of transformers 5.0 writes into it, and wants it in one piece.
            given = inputs.get("position_ids", batch.positions)
            inputs["position_ids"] = given.clone(memory_format=torch.contiguous_format)
        return self.model(**inputs)

    def logits(
        self, batch: TokenBatch, wanted: Bool[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "..."]:
        """Next-token logits, under whatever hooks are in place.

        Args:
            batch: tokens and spans, on the model's device.
            wanted: tokens whose logits are wanted; the head runs on no others.

        Returns:
            [B, T, V], or [N, V] for the N wanted tokens in row-major order.
        """
        if wanted is None:
            return self.forward(batch).logits
        with head_at(cast(nn.Module, self.model.get_output_embeddings()), wanted):
            return self.forward(batch).logits.squeeze(0)

    def states(self, batch: TokenBatch, site: Site, **extra: Any) -> Float[Tensor, "B T D"]:
        """Hidden states at a site; the blocks above it do not run. `extra` goes to `forward`."""
        with capture(self.blocks, [site], stop=True) as states:
            self.forward(batch, **extra)
        return states[site]

    def generate(
        self,
        prompts: Any,
        *,
        edit: Any = None,
        edits: Any = (),
        strength: Any = 1.0,
        decisions: Any = None,
        **decoding: Any,
    ) -> str | list[str]:
        """Answer prompts under fixed edits, in one batch: see `hypersteer.answering.generate`.

        `edit` and `strength` are for all prompts or one per prompt, `edits` act on every row
        besides; `decoding` is what `hypersteer.engine.decoding.Decoding` has.
        """
        options = {"steer": edit, "edits": edits, "strength": strength, "decisions": decisions}
        return _answering().generate(self, prompts, **options, **decoding)

    def stream(
        self,
        prompt: Any,
        *,
        edit: Any = None,
        edits: Any = (),
        strength: Any = 1.0,
        decisions: Any = None,
        **decoding: Any,
    ) -> Generator[str]:
        """Answer one prompt piece by piece: see `hypersteer.answering.stream`."""
        options = {"steer": edit, "edits": edits, "strength": strength, "decisions": decisions}
        return _answering().stream(self, prompt, **options, **decoding)

    def edited(
        self, edit: Any = None, *, edits: Any = (), strength: Any = 1.0
    ) -> AbstractContextManager[None]:
        """Steer whatever runs the Hugging Face model `lm.model` inside a `with` block.

        Its own `generate`, a pipeline or an evaluation harness, in this thread; undone exactly when
        the block ends. What a call starts with is the prompt, what follows from its cache the
        response; what a row has in common with the chat prefix (its BOS) is touched by
        `everywhere` and masks only.

        Args:
            edit: an edit for all rows, or a list with one (or None) per row.
            edits: edits that act on every row besides, each an edit or a pair (edit, strength).
            strength: one for all, or one per row.
        """
        rows, strengths = edits_of_rows(edit, edits, strength)
        return edited(self, rows, strengths)

    def site_of(self, edit: Any) -> Site:
        """Return where an edit acts in this base LM.

        Raises:
            CheckpointError: if it was made for another base LM.
            ModelError: if its site is not in this one.
            SteeringError: if it is no edit, or its width is not the base LM's.
        """
        if not isinstance(edit, Edit):
            raise SteeringError(
                f"{short(edit)} is not an edit; make one with steerer.edit or load_edit"
            )
        named = f"the edit '{edit.steering_prompt}'"
        self.check_made_for(edit.base_lm, named, "make it anew with this one")
        if edit.width != self.width:
            raise SteeringError(
                f"{named} has width {edit.width}, but {self.name} has width {self.width}"
            )
        return self.site(edit.site.layer, edit.site.kind)

    def difference(self, stored: str, what: str) -> str:
        """Return how a stored base LM differs from this one: see `identity.difference`."""
        return difference(stored, self.identity, what)

    def check_made_for(self, stored: str, what: str, way_out: str, made: str = "made") -> None:
        """Refuse what was made for another base LM.

        Args:
            stored: see `difference`; empty for none, which fits all.
            what: what it is, for the message, such as `the edit 'x'`.
            way_out: what to do about it.
            made: how it came about.

        Raises:
            CheckpointError: if it is for another one.
        """
        if stored and (difference := self.difference(stored, what)):
            raise CheckpointError(
                f"{what} was {made} for the base LM {described(stored)}, another one than "
                f"{self.name} ({self.fingerprint}): {difference}; {way_out}"
            )

    def check_length(self, tokens: int, what: str) -> None:
        """Refuse what does not fit the context window.

        Raises:
            SteeringError: naming the lengths.
        """
        if tokens > self.context_window:
            raise SteeringError(
                f"{what} needs {tokens} tokens, but the context window of {self.name} has "
                f"{self.context_window}; shorten it"
            )


def _answering() -> Any:
    """Return what answers prompts: it stands on conditions and engine, far above this module.

    Named, not imported, as methods are in their registry: nothing here depends on it.
    """
    return importlib.import_module("hypersteer.answering")
