"""Use a trained hypernetwork: load once, then steer by words."""

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hypersteer.checkpoint import (
    BUNDLED,
    Card,
    find_checkpoint,
    generator_hash,
    read_card,
    read_hypernet,
)
from hypersteer.concepts import validate_steering_prompt
from hypersteer.edits import Edit, Scope, Site, VectorEdit, check_scope
from hypersteer.errors import SteeringError
from hypersteer.gates.decisions import Decisions
from hypersteer.gates.rules import Rules
from hypersteer.hypernet.network import Hypernet, read_steering, write_vectors
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import PromptIds, Spans, collate
from hypersteer.lm.decoding import Decoding
from hypersteer.lm.finite import check_vectors
from hypersteer.lm.generate import decode, generate_texts, join_pieces
from hypersteer.lm.load import load_lm
from hypersteer.lm.messages import Prompt
from hypersteer.lm.requests import (
    Prompts,
    Request,
    as_request,
    check_scopes,
    edit_site,
    edit_writers,
    edits_of,
    steer_writers,
)
from hypersteer.lm.writers import VectorWriter, Writer

Steer = str | Edit | Rules | None
"""A steering prompt, an edit, rules over either, or None for the unsteered model."""

OPTIONS = ("steer", "strength", "scope", "decisions")
"""What answering takes besides the fields of `Decoding`."""


def load(
    name: str | Path = BUNDLED,
    *,
    lm: BaseLM | None = None,
    device: str | None = None,
    dtype: str | None = None,
) -> "Steerer":
    """Load a checkpoint and, unless one is given, the base LM it was trained for.

    Args:
        name: folder that a training run wrote to, or the Hub id of a checkpoint; by default the
            one that ships with the package, for SmolLM2-135M-Instruct.
        lm: a loaded base LM to share.
        device: where to load the base LM; by default the best device there is.
        dtype: of the base LM; by default float32 on a CPU, bfloat16 elsewhere.

    Raises:
        CheckpointError: if it is no checkpoint, is damaged, or belongs to another base LM.
        ModelError: if the base LM cannot be loaded.
    """
    folder = find_checkpoint(name)
    card = read_card(folder)
    if lm is None:
        lm = load_lm(card.base_lm, device=device, dtype=dtype)
    return Steerer(lm, read_hypernet(folder, card, lm), card, generator_hash(folder))


class Steerer:
    """A base LM and a hypernetwork that writes edits for it.

    Attributes:
        lm: the base LM; it stays as it is and may be shared.
        hypernet: the trained hypernetwork.
        card: what the checkpoint says about itself.
    """

    def __init__(self, lm: BaseLM, hypernet: Hypernet, card: Card, generator: str = "") -> None:
        self.lm = lm
        self.hypernet = hypernet
        self.card = card
        self._generator = generator

    def generate(
        self,
        prompts: Prompts,
        *,
        steer: Steer | Sequence[Steer] = None,
        strength: float | Sequence[float] = 1.0,
        scope: Scope | None = None,
        decisions: Decisions | None = None,
        **decoding: Any,
    ) -> str | list[str]:
        """Answer prompts, each steered in its own way, in one batch.

        Args:
            prompts: a prompt (a text, a chat message, or a list of messages), or a list of prompts.
            steer: a steering prompt, an edit, rules, or None; one for all, or one per prompt.
            strength: multiplies the edit; 0 is the unsteered model, negative steers away. One for
                all, or one per prompt.
            scope: tokens touched by steering prompts' edits; by default as in training.
            decisions: filled with what the rules decided, row by row.
            decoding: fields of `hypersteer.lm.decoding.Decoding`: `max_new_tokens` (128),
                `temperature` (0, greedy), `top_p`, `top_k`, `min_p`, `repetition_penalty`, `stop`,
                `seed` (0).

        Returns:
            The answer, or a list of answers if a list of prompts was given.

        Raises:
            SteeringError: for anything in the request that cannot be done, before any model work.
        """
        settings = Decoding.of(decoding, OPTIONS)
        request = as_request(self.lm, prompts, steer, strength, decoding=settings)
        writers = self.writers(request, scope, decisions)
        texts = generate_texts(self.lm, request.prompts, writers, settings, request.strengths)
        return texts[0] if request.single else texts

    def stream(
        self,
        prompt: Prompt | Mapping[str, Any],
        *,
        steer: Steer = None,
        strength: float = 1.0,
        scope: Scope | None = None,
        decisions: Decisions | None = None,
        **decoding: Any,
    ) -> Generator[str]:
        """Answer one prompt piece by piece; the pieces join to what `generate` returns.

        Takes what `generate` takes, for one prompt. Bad input is told at the call.
        """
        settings = Decoding.of(decoding, OPTIONS)
        request = as_request(self.lm, [prompt], steer, strength, decoding=settings)
        writers = self.writers(request, scope, decisions)
        tokens = decode(self.lm, request.prompts, writers, settings, told=request.strengths)
        return join_pieces(self.lm, tokens, settings.stops)

    def edit(
        self,
        steer: str | Sequence[str],
        prompt: Prompts | None = None,
        *,
        scope: Scope | None = None,
    ) -> Any:
        """The edit itself, with no generation; many pairs are made in one batched pass.

        Args:
            steer: a steering prompt, or one per prompt.
            prompt: base prompt (or prompts) that the edit is made for. The no-context variant
                needs none.
            scope: tokens that the edit will touch; by default as in training.

        Returns:
            An edit, or a list of edits if a list of steering prompts or prompts was given.

        Raises:
            SteeringError: for an empty steering prompt, a missing prompt, or lists of different
                lengths.
        """
        single = isinstance(steer, str)
        if prompt is None:
            if self.card.hypernet.variant != "no-context":
                raise SteeringError(
                    f"a {self.card.hypernet.variant} hypernetwork writes an edit for a base "
                    "prompt; give prompt="
                )
            prompt = "." if single else ["."] * len(steer)
        request = as_request(self.lm, prompt, steer, 1.0)
        texts = [validate_steering_prompt(text) for text in request.steer]
        for one, text in zip(request.prompts, texts, strict=True):
            self.lm.check_length(len(one.ids), "the prompt")
            self._check_words(text, one)
        vectors = self._vectors(texts, request.prompts)
        edits = [self._as_edit(v, text, scope) for v, text in zip(vectors, texts, strict=True)]
        return edits[0] if request.single else edits

    def _as_edit(self, vector: Tensor, text: str, scope: Scope | None) -> Edit:
        return VectorEdit(
            vector=vector,
            site=self.card.site,
            scope=self.card.scope if scope is None else check_scope(scope),
            base_lm=str(self.lm.identity),
            steering_prompt=text,
            generator=self._generator,
        )

    @torch.no_grad()
    def _vectors(self, texts: Sequence[str], prompts: Sequence[PromptIds]) -> Tensor:
        """Vectors [B, D] for pairs of steering prompt and base prompt."""
        steering = self._steering(texts)
        if self.card.hypernet.variant != "cross-attention":
            return self._write(steering, prompts)
        batch = collate(prompts, pad_id=self.lm.chat.pad_id).to(self.lm.device)
        return self._write(steering, prompts, self.lm.states(batch, self.card.site), batch.spans)

    def writers(
        self, request: Request, scope: Scope | None = None, decisions: Decisions | None = None
    ) -> list[Writer]:
        """What is written into the base LM to serve a request.

        Fixed edits are there already; those of steering prompts are made inside the prefill.

        Args:
            request: the request as rows.
            scope: tokens touched by steering prompts' edits; by default as in training.
            decisions: filled, as the writers are used, with what the rules decide.

        Raises:
            SteeringError: for an empty steering prompt or one that does not fit the context
                window, a scope of the wrong length, or an edit or a condition that is not for this
                base LM.
        """
        chosen = self.card.scope if scope is None else check_scope(scope)
        check_scopes(request, chosen)
        for prompt, steer in zip(request.prompts, request.steer, strict=True):
            for text in edits_of(steer):
                if isinstance(text, str):
                    self._check_words(validate_steering_prompt(text), prompt)

        def plain(steer: list[Any]) -> list[Writer]:
            return self._plain_writers(request._replace(steer=steer), chosen)

        def site_of(edit: str | Edit) -> Site:
            return self.card.site if isinstance(edit, str) else edit_site(self.lm, edit)

        return steer_writers(self.lm, request.steer, plain, site_of, decisions)

    def _plain_writers(self, request: Request, scope: Scope) -> list[Writer]:
        """Writers of rows without rules: one per site of fixed edits, one for steering prompts."""
        written = [row for row, steer in enumerate(request.steer) if isinstance(steer, str)]
        fixed = [None if isinstance(steer, str) else steer for steer in request.steer]
        writers = edit_writers(self.lm, fixed, request.strengths)
        if not written:
            return writers
        texts = [request.steer[row] for row in written]
        steering = self._steering(texts)
        prompts = [request.prompts[row] for row in written]
        strengths = [request.strengths[row] for row in written]

        def make(hidden: Tensor, spans: Spans) -> Tensor:
            index = torch.tensor(written, device=hidden.device)
            vectors = self._write(steering, prompts, hidden[index], spans.rows(index))
            vectors = vectors * torch.tensor(strengths)[:, None].to(vectors)
            check_vectors(vectors, strengths, hidden.dtype)
            whole = vectors.new_zeros(len(request.prompts), self.lm.width)
            return whole.index_copy(0, index, vectors)

        scopes = [scope] * len(request.prompts)
        return [*writers, VectorWriter(self.card.site, make, scopes)]

    def _write(
        self,
        steering: "_Steering",
        prompts: Sequence[PromptIds],
        hidden: Tensor | None = None,
        spans: Spans | None = None,
    ) -> Tensor:
        config, (ids, own) = self.card.hypernet, steering
        return write_vectors(self.hypernet, self.lm, config, ids, prompts, hidden, spans, own)

    def _steering(self, texts: Sequence[str]) -> "_Steering":
        """Steering prompts as the hypernetwork reads them; the base LM may have to run for it."""
        ids = [self.lm.chat.text(text) for text in texts]
        return _Steering(ids, read_steering(self.lm, self.card.hypernet, self.card.site, ids))

    def _check_words(self, text: str, prompt: PromptIds) -> None:
        """Refuse a steering prompt that the hypernetwork cannot read in one pass."""
        tokens = len(self.lm.chat.text(text)) + (self.lm.tokenizer.bos_token_id is not None)
        what = "the steering prompt"
        if self.card.hypernet.variant == "in-context":
            tokens += len(prompt.ids) - prompt.prefix
            what = "the steering prompt with the base prompt"
        self.lm.check_length(tokens, what)


class _Steering(NamedTuple):
    """Token ids of steering prompts, and the base LM's states of them where they are wanted."""

    ids: list[list[int]]
    own: Tensor | None
