"""Generate from a base LM under fixed edits, with no hypernetwork."""

from collections.abc import Generator, Sequence
from typing import Any

from hypersteer.edits import Edit
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import Prompt
from hypersteer.lm.generate import Decoding, decode, generate_ids, join_pieces
from hypersteer.lm.requests import as_request, edit_writers


def generate(
    lm: BaseLM,
    prompts: Prompt | Sequence[Prompt],
    *,
    edit: Edit | Sequence[Edit | None] | None = None,
    strength: float | Sequence[float] = 1.0,
    **decoding: Any,
) -> str | list[str]:
    """Answer prompts under fixed edits, in one batch.

    Args:
        lm: the base LM.
        prompts: a prompt (text, or a list of chat messages), or a list of prompts.
        edit: one for all, or one per prompt; None is the unsteered model.
        strength: one for all, or one per prompt.
        decoding: fields of `hypersteer.lm.generate.Decoding`.

    Returns:
        The answer, or a list of answers if a list of prompts was given.

    Raises:
        SteeringError: for anything in the request that cannot be done.
    """
    settings = Decoding(**decoding)
    request = as_request(lm, prompts, edit, strength)
    writers = edit_writers(lm, request.steer, request.strengths)
    texts = [lm.chat.decode(ids) for ids in generate_ids(lm, request.prompts, writers, settings)]
    return texts[0] if request.single else texts


def stream(
    lm: BaseLM, prompt: Prompt, *, edit: Edit | None = None, strength: float = 1.0, **decoding: Any
) -> Generator[str]:
    """Answer one prompt piece by piece; the pieces join to what `generate` returns.

    Takes what `generate` takes, for one prompt. Bad input is told before the first piece.
    """
    settings = Decoding(**decoding)
    request = as_request(lm, [prompt], edit, strength)
    writers = edit_writers(lm, request.steer, request.strengths)
    return join_pieces(lm, decode(lm, request.prompts, writers, settings))
