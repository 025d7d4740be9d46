"""Where turns begin and end: what a template or a tokenizer puts before and after a text."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

PROBE = "zyxw"
"""An answer that no template changes, to see what follows it."""


def end_of_turn(
    tokenizer: PreTrainedTokenizerBase, configured: int | Sequence[int] | None
) -> list[int]:
    """Ids that end a response; training teaches the first, each stops generation.

    They are what the chat template puts after a response, the tokenizer's own end, and what the
    generation configuration names.

    Args:
        tokenizer: the base LM's tokenizer.
        configured: `eos_token_id` of its generation configuration.
    """
    ids = configured if isinstance(configured, Sequence) else [configured]
    found = [_after_response(tokenizer), tokenizer.eos_token_id, *ids]
    return list(dict.fromkeys(int(token) for token in found if token is not None))


def _after_response(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The first added token that the template puts after a response; None if there is none."""
    if tokenizer.chat_template is None:
        return None
    turns = [{"role": "user", "content": "1"}, {"role": "assistant", "content": PROBE}]
    try:
        rendered = str(tokenizer.apply_chat_template(turns, tokenize=False))
    except Exception:  # a template may refuse anything; then nothing is known of it
        return None
    _, found, after = rendered.rpartition(PROBE)
    ids = tokenizer(after, add_special_tokens=False)["input_ids"] if found else []
    added = tokenizer.added_tokens_decoder
    return next((i for i in ids if i in added and not added[i].content.isspace()), None)


def around(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Ids that the tokenizer puts before and after any text unless told otherwise."""
    whole, bare = (
        list(tokenizer("1", add_special_tokens=special)["input_ids"]) for special in (True, False)
    )
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return whole[:start], whole[start + len(bare) :]
    return [], []
