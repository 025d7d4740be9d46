"""Generate from a base LM under fixed edits, with no hypernetwork."""

from collections.abc import Generator, Sequence
from typing import Any

from hypersteer.edits import Edit
from hypersteer.gates.decisions import Decisions
from hypersteer.gates.rules import Rules
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import Prompt
from hypersteer.lm.generate import Decoding, decode, generate_ids, join_pieces
from hypersteer.lm.requests import Request, as_request, edit_site, edit_writers, steer_writers
from hypersteer.lm.writers import Writer


def generate(
    lm: BaseLM,
    prompts: Prompt | Sequence[Prompt],
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
        decoding: fields of `hypersteer.lm.generate.Decoding`.

    Returns:
        The answer, or a list of answers if a list of prompts was given.

    Raises:
        SteeringError: for anything in the request that cannot be done.
    """
    settings = Decoding(**decoding)
    request = as_request(lm, prompts, edit, strength)
    writers = _writers(lm, request, decisions)
    texts = [lm.chat.decode(ids) for ids in generate_ids(lm, request.prompts, writers, settings)]
    return texts[0] if request.single else texts


def stream(
    lm: BaseLM,
    prompt: Prompt,
    *,
    edit: Edit | Rules | None = None,
    strength: float = 1.0,
    decisions: Decisions | None = None,
    **decoding: Any,
) -> Generator[str]:
    """Answer one prompt piece by piece; the pieces join to what `generate` returns.

    Takes what `generate` takes, for one prompt. Bad input is told before the first piece.
    """
    settings = Decoding(**decoding)
    request = as_request(lm, [prompt], edit, strength)
    writers = _writers(lm, request, decisions)
    return join_pieces(lm, decode(lm, request.prompts, writers, settings))


def _writers(lm: BaseLM, request: Request, decisions: Decisions | None) -> list[Writer]:
    def plain(edits: list[Any]) -> list[Writer]:
        return edit_writers(lm, edits, request.strengths)

    return steer_writers(lm, request.steer, plain, lambda edit: edit_site(lm, edit), decisions)
