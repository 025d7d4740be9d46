"""What callers ask for, brought into rows: prompts, what steers each, and how strongly."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch

from hypersteer.edits import Edit, Scope, Site, VectorEdit, check_strength
from hypersteer.errors import SteeringError, short
from hypersteer.gates.decisions import Decisions
from hypersteer.gates.rules import Rules
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import Prompt, PromptIds
from hypersteer.lm.gate import Gate
from hypersteer.lm.writers import GatedWriter, VectorWriter, Writer


class Request(NamedTuple):
    """A request as rows.

    Attributes:
        prompts: B tokenised prompts.
        steer: what steers each row: a steering prompt, an edit, rules, or None.
        strengths: strength of each row.
        single: whether the caller gave one prompt, not a list, and wants one answer.
    """

    prompts: list[PromptIds]
    steer: list[Any]
    strengths: list[float]
    single: bool


def as_request(
    lm: BaseLM, prompts: Prompt | Sequence[Prompt], steer: Any, strength: Any
) -> Request:
    """Bring a request into rows.

    Args:
        lm: the base LM.
        prompts: a prompt (text, or a list of chat messages), or a list of prompts.
        steer: one for all, or a list with one per prompt.
        strength: likewise.

    Raises:
        SteeringError: for an empty list, lists of different lengths, an empty prompt or what is
            no prompt, or a strength that is not finite.
    """
    single = isinstance(prompts, str) or _is_chat(prompts) or not isinstance(prompts, Iterable)
    rows: list[Prompt] = [prompts] if single else list(prompts)  # type: ignore[list-item]
    if not rows:
        raise SteeringError("the list of prompts is empty; give at least one")
    strengths = [check_strength(s) for s in _per_row(strength, len(rows), "strength")]
    return Request(
        [lm.chat.prompt(prompt) for prompt in rows],
        _per_row(steer, len(rows), "steer"),
        strengths,
        single,
    )


def edit_writers(
    lm: BaseLM, edits: Sequence[Edit | None], strengths: Sequence[float]
) -> list[Writer]:
    """Writers for fixed edits, one for each site that occurs; rows without an edit get zeros.

    Raises:
        CheckpointError: if an edit was made for another base LM.
        ModelError: if its site is not in this one.
        SteeringError: if it is no edit, or its width is not the base LM's.
    """
    by_site: dict[Site, dict[int, Edit]] = {}
    for row, edit in enumerate(edits):
        if edit is not None:
            by_site.setdefault(edit_site(lm, edit), {})[row] = edit
    writers: list[Writer] = []
    for site, members in by_site.items():
        vectors = torch.zeros(len(edits), lm.width)
        for row, edit in members.items():
            vectors[row] = strengths[row] * edit.vector
        scopes: list[Scope] = [
            members[row].scope if row in members else "all" for row in range(len(edits))
        ]
        writers.append(VectorWriter(site, vectors.to(lm.device), scopes))
    return writers


def steer_writers(
    lm: BaseLM,
    steer: Sequence[Any],
    plain: Callable[[list[Any]], list[Writer]],
    site_of: Callable[[str | Edit], Site],
    decisions: Decisions | None = None,
) -> list[Writer]:
    """Writers for rows that may be steered by rules: those of their edits, each behind its gate.

    Args:
        lm: the base LM.
        steer: what steers each row: a steering prompt, an edit, rules, or None.
        plain: writers for rows with one steering prompt or edit each, or None.
        site_of: where an edit of the rules acts.
        decisions: filled, as the generation runs, with what the gates decide.

    Raises:
        SteeringError: for anything in the rules that cannot be done with this base LM.
    """
    if decisions is not None:
        decisions.restart(len(steer))
    gated = [one if isinstance(one, Rules) else None for one in steer]
    if all(one is None for one in gated):
        return plain(list(steer))
    gate = Gate(lm, gated, site_of, decisions)
    members: dict[Site, list[tuple[int, Writer]]] = {}
    for slot in range(gate.slots):
        edits = [_edit_at(one, slot) for one in steer]
        for writer in plain(edits):
            members.setdefault(writer.site, []).append((slot, writer))
    return [GatedWriter(gate, found) for found in members.values()]


def edit_site(lm: BaseLM, edit: Any) -> Site:
    """Where an edit acts in this base LM.

    Raises:
        SteeringError: if it is no edit for this base LM; see `check_edit`.
    """
    check_edit(lm, edit)
    return lm.site(edit.site.layer, edit.site.kind)


def check_edit(lm: BaseLM, edit: Edit) -> None:
    """Refuse what is no edit for this base LM.

    Raises:
        CheckpointError: if it was made for another base LM.
        SteeringError: if it is no edit, or its width is not the base LM's.
    """
    if not isinstance(edit, VectorEdit):
        raise SteeringError(
            f"{short(edit)} is not an edit; make one with steerer.edit or load_edit"
        )
    named = f"the edit '{edit.steering_prompt}'"
    lm.check_made_for(edit.base_lm, named, "make it anew with this one")
    if len(edit.vector) != lm.width:
        raise SteeringError(
            f"the edit '{edit.steering_prompt}' has width {len(edit.vector)}, but {lm.name} has "
            f"width {lm.width}"
        )


def _edit_at(steer: Any, slot: int) -> Any:
    """The edit of one row that is its number `slot`; what is no rules is its own first edit."""
    edits = list(steer.edits.values()) if isinstance(steer, Rules) else [steer]
    return edits[slot] if slot < len(edits) else None


def _is_chat(prompts: Any) -> bool:
    return isinstance(prompts, Sequence) and bool(prompts) and isinstance(prompts[0], dict)


def _per_row(value: Any, count: int, name: str) -> list[Any]:
    if isinstance(value, (list, tuple)):
        if len(value) != count:
            raise SteeringError(
                f"{len(value)} values of '{name}' for {count} prompts; give one, or one per prompt"
            )
        return list(value)
    return [value] * count
