"""Answer prompts under edits, rules and steering prompts: what `BaseLM` and `Steerer` both do.

Whatever steers a row is laid out in slots: edits, in the order in which they act, each at its own
strength, those of rules first. The edits of all rows in a slot have writers in common, and a gate
turns those of rules on and off.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from hypersteer.concepts import validate_steering_prompt
from hypersteer.conditions.ahead import decide_ahead, undecided
from hypersteer.conditions.deciding import shares_of_rules
from hypersteer.conditions.gate import Gate
from hypersteer.conditions.rules import Check, Decisions, Rules
from hypersteer.conditions.slots import Slot, acting, laid_out, rules_of
from hypersteer.conditions.written import condition
from hypersteer.edits.edit import Edit
from hypersteer.edits.edit_set import EditSet, parts_of
from hypersteer.edits.sites import Scope, Site
from hypersteer.engine.batch import Batch
from hypersteer.engine.generate import NewEngine, decode, generate_texts, join_pieces
from hypersteer.engine.requests import Request, as_request
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import PromptIds
from hypersteer.lm.edited import Applied, sites_of, slot_writers
from hypersteer.lm.messages import Prompt, Prompts
from hypersteer.lm.scopes import check_scope_length
from hypersteer.lm.writers import Writer


@runtime_checkable
class Maker(Protocol):
    """Makes edits of steering prompts, as a hypernetwork does."""

    @property
    def lowest(self) -> Site:
        """The lowest site that its edits act at."""
        ...

    def check(self, text: str, prompt: PromptIds) -> None:
        """Refuse a steering prompt that cannot be read."""
        ...

    def writers(
        self,
        texts: Sequence[str | None],
        prompts: Sequence[PromptIds],
        strengths: Sequence[float],
        scope: Scope,
    ) -> list[Writer]:
        """Return writers of B rows, for those with a text; the edits are made in the prefill."""
        ...


class Answerer(NamedTuple):
    """Who answers: a base LM, with what makes edits of steering prompts, on an engine.

    Attributes:
        lm: the base LM.
        maker: makes edits of steering prompts; None where only fixed edits steer.
        engine: runs the batches.
        head: file of the head that makes conditions of words; by default the one that ships for
            this base LM.
    """

    lm: BaseLM
    maker: Maker | None = None
    engine: NewEngine = Batch
    head: Path | None = None

    def writers(
        self, request: Request, scope: Scope = "all", decisions: Decisions | None = None
    ) -> list[Writer]:
        """Return what is written into the base LM to serve a request.

        Args:
            request: the request as rows.
            scope: tokens touched by the edits of steering prompts.
            decisions: filled, as the writers are used, with what the rules decide.

        Raises:
            SteeringError: for a steering prompt that cannot be read, a scope of the wrong length,
                or an edit or a condition that is not for this base LM.
        """
        rows = [
            laid_out(steer, strength)
            for steer, strength in zip(request.steer, request.strengths, strict=True)
        ]
        for slots, prompt in zip(rows, request.prompts, strict=True):
            for one in slots:
                self._check(one.edit, prompt, scope)
        if decisions is not None:
            decisions.restart(len(rows), request.decided)
        gated = self._ready([rules_of(slots) for slots in rows])
        if decisions is not None:
            decisions.shares = shares_of_rules(self.lm, request.prompts, gated)

        def lowest(row: int) -> Site:
            return min(self._site_of(one.edit) for one in rows[row])

        gate = Gate(self.lm, gated, lowest, decisions) if any(gated) else None
        writers = []
        for number in range(max(map(len, rows), default=0)):
            column = [slots[number] if number < len(slots) else None for slots in rows]
            made = self._slot(column, request.prompts, scope)
            if gate is not None and any(one is not None and one.rules for one in column):
                made = [writer.switched(gate, number) for writer in made]
            writers += made
        return writers

    def decide(
        self, prompts: Callable[[], list[PromptIds]], steer: list[Any], *, said: bool = False
    ) -> tuple[list[Any], dict[int, Check]]:
        """Put the edits that act in place of rules that can be decided now; see `as_request`.

        Rules that are checked while an answer is written stay, and so do those of a row whose
        prompt says nothing, see `undecided`.

        Args:
            prompts: returns the prompts, B tokenised ones.
            steer: what steers each row.
            said: whether prompts say what is no steering prompt of their row.

        Returns:
            what steers each row, and what was decided, by row.

        Raises:
            SteeringError: for an edit or a condition that is not for this base LM.
        """
        rows = [laid_out(one, 1.0) for one in steer]
        waiting = [undecided(slots, said=said) for slots in rows]
        if not any(waiting):
            return steer, {}
        for slots in rows:  # before any model work
            for slot in slots:
                self._site_of(slot.edit)
        decided = decide_ahead(self.lm, prompts(), self._ready(waiting))
        return [
            acting(rows[row], decided[row]) if row in decided else given
            for row, given in enumerate(steer)
        ], decided

    def _ready(self, rows: Sequence[Rules | None]) -> list[Rules | None]:
        """Return the rules of each row, with conditions in place of words."""
        make = partial(condition, lm=self.lm, head=self.head)
        made = {id(one): one.ready(make) for one in rows if one is not None}
        return [None if one is None else made[id(one)] for one in rows]

    def _slot(
        self, column: Sequence[Slot | None], prompts: Sequence[PromptIds], scope: Scope
    ) -> list[Writer]:
        """Return writers of one slot of all rows: of fixed edits, then of those that are made."""
        if self.maker is None:
            plain = [Applied(one.edit, one.strength) if one else None for one in column]
            return slot_writers(self.lm, plain)
        texts = [one.edit if one and isinstance(one.edit, str) else None for one in column]
        fixed = [
            Applied(one.edit, one.strength) if one and text is None else None
            for one, text in zip(column, texts, strict=True)
        ]
        made = slot_writers(self.lm, fixed)
        if any(text is not None for text in texts):
            strengths = [1.0 if one is None else one.strength for one in column]
            made += self.maker.writers(texts, prompts, strengths, scope)
        return made

    def _check(self, edit: Any, prompt: PromptIds, scope: Scope) -> None:
        if isinstance(edit, str) and self.maker is not None:
            check_scope_length(scope, prompt)
            self.maker.check(validate_steering_prompt(edit), prompt)
        for part in parts_of(edit):
            if (own := getattr(part, "scope", None)) is not None:
                check_scope_length(own, prompt)

    def _site_of(self, edit: str | Edit | EditSet) -> Site:
        if isinstance(edit, str) and self.maker is not None:
            return self.maker.lowest
        return min(sites_of(self.lm, edit))


def generate(
    lm: BaseLM,
    prompts: Prompts,
    *,
    steer: Any = None,
    edits: Sequence[Any] = (),
    strength: float | Sequence[float] = 1.0,
    decisions: Decisions | None = None,
    engine: NewEngine = Batch,
    **decoding: Any,
) -> str | list[str]:
    """Answer prompts under fixed edits, in one batch; public as `BaseLM.generate`.

    Args:
        lm: the base LM.
        prompts: a prompt (text, or a list of chat messages), or a list of prompts.
        steer: an edit, rules over edits, or a list of several; one for all, or one per prompt.
            None is the unsteered model.
        edits: edits that act on every row besides, each an edit or a pair (edit, strength).
        strength: one for all, or one per prompt.
        decisions: filled with what the rules decided, row by row.
        engine: what runs the rows.
        decoding: fields of `hypersteer.engine.decoding.Decoding`, each for all prompts, or as a
            list with one per prompt.

    Returns:
        The answer, or a list of answers if a list of prompts was given.

    Raises:
        SteeringError: for anything in the request that cannot be done.
    """
    request = as_request(lm, prompts, steer, strength, edits=edits, name="edit", decoding=decoding)
    return answer(Answerer(lm, engine=engine), request, "all", decisions)


def stream(
    lm: BaseLM,
    prompt: Prompt | Mapping[str, Any],
    *,
    steer: Any = None,
    edits: Sequence[Any] = (),
    strength: float = 1.0,
    decisions: Decisions | None = None,
    engine: NewEngine = Batch,
    **decoding: Any,
) -> Generator[str]:
    """Answer one prompt piece by piece; public as `BaseLM.stream`.

    Takes what `generate` takes, for one prompt; the pieces join to what it returns. Bad input is
    told at the call.
    """
    request = as_request(lm, [prompt], steer, strength, edits=edits, name="edit", decoding=decoding)
    return answer_in_pieces(Answerer(lm, engine=engine), request, "all", decisions)


def answer(
    who: Answerer, request: Request, scope: Scope, decisions: Decisions | None
) -> str | list[str]:
    """Return the texts of a request; one text if one prompt was given."""
    writers = who.writers(request, scope, decisions)
    texts = generate_texts(
        who.lm, request.prompts, writers, request.decodings, request.strengths, who.engine
    )
    return texts[0] if request.single else texts


def answer_in_pieces(
    who: Answerer, request: Request, scope: Scope, decisions: Decisions | None
) -> Generator[str]:
    """Return the text of a request's one row, piece by piece."""
    writers = who.writers(request, scope, decisions)
    tokens = decode(
        who.lm,
        request.prompts,
        writers,
        request.decodings,
        told=request.strengths,
        engine=who.engine,
    )
    return join_pieces(who.lm, tokens, request.decodings[0].stops)
