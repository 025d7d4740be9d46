"""Use a trained hypernetwork: load once, then steer by words."""

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from hypersteer.answering import Answerer, answer, answer_in_pieces
from hypersteer.checkpoint import (
    BUNDLED,
    find_checkpoint,
    generator_hash,
    push,
    read_hypernet,
    save,
)
from hypersteer.concepts import validate_steering_prompt
from hypersteer.conditions.rules import Check, Decisions, Rules
from hypersteer.edits.edit import Edit
from hypersteer.edits.edit_set import EditSet
from hypersteer.edits.sites import Scope, check_scope
from hypersteer.engine.batch import Batch
from hypersteer.engine.generate import NewEngine
from hypersteer.engine.requests import Decide, Request, as_given, as_request
from hypersteer.errors import SteeringError
from hypersteer.files import CONDITION_HEAD, is_file
from hypersteer.hypernet.card import Card, read_card
from hypersteer.hypernet.maker import EditMaker
from hypersteer.hypernet.network import Hypernet
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import PromptIds
from hypersteer.lm.load import load_lm
from hypersteer.lm.messages import Prompt, Prompts
from hypersteer.lm.writers import Writer

Steer = str | Edit | EditSet | Rules | None
"""A steering prompt, an edit, rules over either, or None for the unsteered model."""


def load(
    name: str | Path = BUNDLED,
    *,
    lm: BaseLM | None = None,
    device: str | None = None,
    dtype: str | None = None,
    revision: str | None = None,
    engine: NewEngine = Batch,
) -> "Steerer":
    """Load a checkpoint and, unless one is given, the base LM it was trained for.

    Args:
        name: folder that a training run wrote to, or the Hub id of a checkpoint; by default the
            one that ships with the package, for SmolLM2-135M-Instruct.
        lm: a loaded base LM to share.
        device: where to load the base LM; by default the best device there is.
        dtype: of the base LM; by default float32 on a CPU, bfloat16 elsewhere.
        revision: branch, tag or commit of the checkpoint on the Hub.
        engine: what runs the rows.

    Raises:
        CheckpointError: if it is no checkpoint, is damaged, or belongs to another base LM.
        ModelError: if the base LM cannot be loaded.
    """
    folder = find_checkpoint(name, revision)
    card = read_card(folder)
    if lm is None:
        trained_on = card.training.get("base_lm", {})
        lm = load_lm(card.base_lm, device=device, dtype=dtype, revision=trained_on.get("revision"))
    hypernet = read_hypernet(folder, card, lm)
    return Steerer(lm, hypernet, card, generator_hash(folder), folder=folder, engine=engine)


class Steerer:
    """A base LM and a hypernetwork that writes edits for it.

    Attributes:
        lm: the base LM; it stays as it is and may be shared.
        hypernet: the trained hypernetwork.
        card: what the checkpoint says about itself.
        folder: where the checkpoint lies; None if it was never written.
        generator: hash of the hypernetwork's weights, which its edits carry.
        head: file beside the checkpoint, which makes conditions of words; None where there is none.
    """

    def __init__(
        self,
        lm: BaseLM,
        hypernet: Hypernet,
        card: Card,
        generator: str = "",
        *,
        folder: Path | None = None,
        engine: NewEngine = Batch,
    ) -> None:
        self.lm = lm
        self.hypernet = hypernet
        self.card = card
        self.folder = folder
        self.generator = generator
        self._maker = EditMaker(lm, hypernet, card, generator)
        head = None if folder is None else folder / CONDITION_HEAD
        self.head = head if head is not None and is_file(head) else None
        self._answerer = Answerer(lm, self._maker, engine, self.head)

    def generate(
        self,
        prompts: Prompts,
        *,
        steer: Steer | Sequence[Any] = None,
        edits: Sequence[Any] = (),
        strength: float | Sequence[float] = 1.0,
        prompted: bool | None = None,
        scope: Scope | None = None,
        decisions: Decisions | None = None,
        **decoding: Any,
    ) -> str | list[str]:
        """Answer prompts, each steered in its own way, in one batch.

        Args:
            prompts: a prompt (a text, a chat message, or a list of messages), or a list of prompts.
            steer: a steering prompt, an edit, rules, or None; one for all, or one per prompt, where
                a list stands for several on one row.
            edits: what acts on every row besides, in this order: edits and steering prompts, or
                pairs of one and its own strength.
            strength: multiplies the edits; 0 is the unsteered model, negative steers away. One for
                all, or one per prompt.
            prompted: put the steering prompts into the prompts as well where the strength is above
                0, so that they are said and steer, those of rules where these fire on the prompt.
                By default as in training.
            scope: tokens touched by steering prompts' edits; by default as in training.
            decisions: filled with what the rules decided, row by row.
            decoding: fields of `hypersteer.engine.decoding.Decoding`: `max_new_tokens` (128),
                `temperature` (0, greedy), `top_p`, `top_k`, `min_p`, `repetition_penalty`, `stop`,
                `seed` (0); each for all prompts, or as a list with one per prompt.

        Returns:
            The answer, or a list of answers if a list of prompts was given.

        Raises:
            SteeringError: for anything in the request that cannot be done, before any model work.
        """
        request = as_request(
            self.lm,
            prompts,
            steer,
            strength,
            edits=edits,
            say=self._say(prompted),
            decoding=decoding,
        )
        return answer(self._answerer, request, self._scope(scope), decisions)

    def stream(
        self,
        prompt: Prompt | Mapping[str, Any],
        *,
        steer: Steer = None,
        edits: Sequence[Any] = (),
        strength: float = 1.0,
        prompted: bool | None = None,
        scope: Scope | None = None,
        decisions: Decisions | None = None,
        **decoding: Any,
    ) -> Generator[str]:
        """Answer one prompt piece by piece; the pieces join to what `generate` returns.

        Takes what `generate` takes, for one prompt. Bad input is told at the call.
        """
        request = as_request(
            self.lm,
            [prompt],
            steer,
            strength,
            edits=edits,
            say=self._say(prompted),
            decoding=decoding,
        )
        return answer_in_pieces(self._answerer, request, self._scope(scope), decisions)

    @overload
    def edit(
        self, steer: str, prompt: str | None = None, *, scope: Scope | None = None
    ) -> Edit | EditSet: ...

    @overload
    def edit(
        self,
        steer: str | Sequence[str],
        prompt: Sequence[Any] | Mapping[str, Any] | None = None,
        *,
        scope: Scope | None = None,
    ) -> list[Edit | EditSet]: ...

    def edit(
        self,
        steer: str | Sequence[str],
        prompt: Prompts | None = None,
        *,
        scope: Scope | None = None,
    ) -> Edit | EditSet | list[Edit | EditSet]:
        """Return the edit itself, with no generation; many pairs are made in one batched pass.

        Args:
            steer: a steering prompt, or one per prompt.
            prompt: base prompt (or prompts) that the edit is made for. The no-context variant
                needs none.
            scope: tokens that the edit will touch; by default as in training.

        Returns:
            An edit, or a list of edits if a list of steering prompts or prompts was given. A
            hypernetwork that writes at several sites (`hypernet.more_layers`) gives an `EditSet`
            where others give an edit.

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
            self._maker.check(text, one)
        made = self._maker.edits(texts, request.prompts, self._scope(scope))
        edits = [each[0] if len(each) == 1 else EditSet(edits=tuple(each)) for each in made]
        return edits[0] if request.single else edits

    def save(self, folder: str | Path) -> Path:
        """Write the checkpoint to a folder that `load` takes.

        Raises:
            SteeringError: if it cannot be written, or the hypernetwork came from no checkpoint.
        """
        return save(self._source(), folder)

    def push_to_hub(
        self, repo: str, *, private: bool | None = None, revision: str | None = None
    ) -> str:
        """Upload the checkpoint to the Hugging Face Hub, from where `load(repo)` takes it.

        Args:
            repo: `owner/name`; made if it is not there.
            private: whether a new repository is private; by default as the account has it.
            revision: branch to write to.

        Returns:
            Address of the commit.

        Raises:
            SteeringError: if the Hub does not take it.
        """
        return push(self._source(), repo, private=private, revision=revision)

    def decide(
        self, prompts: list[PromptIds], steer: list[Any], *, said: bool = False
    ) -> tuple[list[Any], Mapping[int, Check]]:
        """Put the edits that act in place of rules, if prompts will say any steering prompt.

        Args:
            prompts: B tokenised prompts, as they were given.
            steer: what steers each row.
            said: whether they will say one, also where the checkpoint does not want it.

        Returns:
            what steers each row, and what was decided, by row; see `Answerer.decide`.
        """
        if said:
            return self._answerer.decide(lambda: prompts, steer, said=True)
        return (self._say(None) or as_given)(lambda: prompts, steer)

    def writers(
        self, request: Request, scope: Scope | None = None, decisions: Decisions | None = None
    ) -> list[Writer]:
        """Return what is written into the base LM to serve a request: see `Answerer.writers`.

        Fixed edits are there already; those of steering prompts are made inside the prefill.
        """
        return self._answerer.writers(request, self._scope(scope), decisions)

    def _source(self) -> Path:
        if self.folder is None:
            raise SteeringError(
                "this hypernetwork came from no checkpoint; train() writes one, load() takes it"
            )
        return self.folder

    def _say(self, prompted: bool | None) -> Decide | None:
        said = self.card.prompted if prompted is None else prompted
        return self._answerer.decide if said else None

    def _scope(self, scope: Scope | None) -> Scope:
        return self.card.scope if scope is None else check_scope(scope)
