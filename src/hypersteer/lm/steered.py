"""Generate from a base LM under fixed edits, with no hypernetwork."""

from collections.abc import Generator, Mapping, Sequence
from typing import Any

from hypersteer.edits import Edit
from hypersteer.gates.decisions import Decisions
from hypersteer.gates.rules import Rules
from hypersteer.lm.base import BaseLM
from hypersteer.lm.decoding import Decoding
from hypersteer.lm.generate import decode, generate_texts, join_pieces
from hypersteer.lm.messages import Prompt
from hypersteer.lm.requests import (
    Prompts,
    Request,
    as_request,
    check_scopes,
    edit_site,
    edit_writers,
    steer_writers,
)
from hypersteer.lm.writers import Writer

OPTIONS = ("edit", "strength", "decisions")
"""What these functions take besides the fields of `Decoding`."""


def generate(
    lm: BaseLM,
    prompts: Prompts,
    *,
    edit: Edit | Rules | Sequence[Edit | Rules | None] | None = None,
    strength: float | Sequence[float] = 1.0,
    decisions: Decisions | None = None,
    **decoding: Any,
) -> str | list[str]:
    """Answer prompts under fixed edits, in one batch.

    Args:
        lm: the base LM.
        prompts: a prompt (text, or a list of chat messages), or a list of prompts.
        edit: an edit, or rules over edits; one for all, or one per prompt. None is the unsteered
            model.
        strength: one for all, or one per prompt.
        decisions: filled with what the rules decided, row by row.
        decoding: fields of `hypersteer.lm.decoding.Decoding`.

    Returns:
        The answer, or a list of answers if a list of prompts was given.

    Raises:
        SteeringError: for anything in the request that cannot be done.
    """
    settings = Decoding.of(decoding, OPTIONS)
    request = as_request(lm, prompts, edit, strength, name="edit", decoding=settings)
    writers = _writers(lm, request, decisions)
    texts = generate_texts(lm, request.prompts, writers, settings, request.strengths)
    return texts[0] if request.single else texts


def stream(
    lm: BaseLM,
    prompt: Prompt | Mapping[str, Any],
    *,
    edit: Edit | Rules | None = None,
    strength: float = 1.0,
    decisions: Decisions | None = None,
    **decoding: Any,
) -> Generator[str]:
    """Answer one prompt piece by piece; the pieces join to what `generate` returns.

    Takes what `generate` takes, for one prompt. Bad input is told at the call.
    """
    settings = Decoding.of(decoding, OPTIONS)
    request = as_request(lm, [prompt], edit, strength, name="edit", decoding=settings)
    writers = _writers(lm, request, decisions)
    tokens = decode(lm, request.prompts, writers, settings, told=request.strengths)
    return join_pieces(lm, tokens, settings.stops)


def _writers(lm: BaseLM, request: Request, decisions: Decisions | None) -> list[Writer]:
    check_scopes(request)

    def plain(edits: list[Any]) -> list[Writer]:
        return edit_writers(lm, edits, request.strengths)

    return steer_writers(lm, request.steer, plain, lambda edit: edit_site(lm, edit), decisions)
