"""What callers ask for, brought into rows: prompts, what steers each, and how strongly."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from hypersteer.edits import Edit, Scope, Site, VectorEdit, check_strength
from hypersteer.errors import SteeringError, short
from hypersteer.gates.decisions import Decisions
from hypersteer.gates.rules import Rules
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import PromptIds, check_scope_length
from hypersteer.lm.decoding import Decoding
from hypersteer.lm.finite import check_range, check_vectors
from hypersteer.lm.gate import Gate
from hypersteer.lm.messages import Prompt, is_one_prompt
from hypersteer.lm.writers import GatedWriter, VectorWriter, Writer

Prompts = Prompt | Mapping[str, Any] | Sequence[Prompt | Mapping[str, Any]]
"""A prompt (a text, a chat message, or a list of chat messages), or a list of prompts."""


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
    lm: BaseLM,
    prompts: Prompts,
    steer: Any,
    strength: Any,
    *,
    name: str = "steer",
    decoding: Decoding | None = None,
) -> Request:
    """Bring a request into rows.

    Args:
        lm: the base LM.
        prompts: a prompt (text, a chat message, or a list of them), or a list of prompts.
        steer: one for all, or a list with one per prompt.
        strength: likewise.
        name: how the caller's own argument for `steer` is called.
        decoding: how it is to be decoded, where that is known.

    Raises:
        SteeringError: for an empty list, lists of different lengths, an empty prompt or what is
            no prompt, a strength that is not finite, or no room for the new tokens.
        ConfigError: if the number of seeds is not the number of prompts.
    """
    single = is_one_prompt(prompts)
    rows: list[Any] = [prompts] if single else list(prompts)
    if not rows:
        raise SteeringError("the list of prompts is empty; give at least one")
    strengths = [check_strength(s) for s in _per_row(strength, len(rows), "strength")]
    check_range(strengths)
    steers = _per_row(steer, len(rows), name)
    request = Request([lm.chat.prompt(prompt) for prompt in rows], steers, strengths, single)
    if decoding is not None:
        check_room(lm, request.prompts, decoding)
        decoding.seeds(len(rows))
    return request


def check_room(lm: BaseLM, prompts: Sequence[PromptIds], decoding: Decoding) -> None:
    """Refuse prompts that leave no room for the new tokens.

    Raises:
        SteeringError: naming the lengths.
    """
    for prompt in prompts:
        lm.check_length(len(prompt.ids) + decoding.max_new_tokens, "prompt and response")


def edits_of(steer: Any) -> list[Any]:
    """The edits and steering prompts in what steers one row."""
    if isinstance(steer, Rules):
        return list(steer.edits.values())
    return [] if steer is None else [steer]


def check_scopes(request: Request, written: Scope | None = None) -> None:
    """Refuse boolean scopes that are not as long as the prompts that they are for.

    Args:
        request: the request as rows.
        written: scope of the edits that steering prompts get.

    Raises:
        SteeringError: naming both lengths.
    """
    for prompt, steer in zip(request.prompts, request.steer, strict=True):
        for edit in edits_of(steer):
            scope = written if isinstance(edit, str) else getattr(edit, "scope", None)
            if scope is not None:
                check_scope_length(scope, prompt)


def edit_writers(
    lm: BaseLM, edits: Sequence[Edit | None], strengths: Sequence[float]
) -> list[Writer]:
    """Writers for fixed edits, one for each site that occurs; rows without an edit get zeros.

    Raises:
        CheckpointError: if an edit was made for another base LM.
        ModelError: if its site is not in this one.
        SteeringError: if it is no edit, its width is not the base LM's, or it is beyond what the
            base LM's dtype can hold.
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
        check_vectors(vectors, strengths, lm.dtype)
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


def _per_row(value: Any, count: int, name: str) -> list[Any]:
    if hasattr(value, "tolist") and getattr(value, "shape", None):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        if len(value) != count:
            raise SteeringError(
                f"{len(value)} values of '{name}' for {count} prompts; give one, or one per prompt"
            )
        return list(value)
    return [value] * count
