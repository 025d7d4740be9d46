"""Control tokens: what a template may write and a user may not; and where turns begin and end.

A tokenizer turns the literal text of a special token into that token, wherever it comes from. So a
text that holds one is cut after its first character before it is tokenised, and the pieces are
tokenised one by one: the text is the same, the token cannot arise. The cuts are made in the user's
texts with a mark that occurs nowhere else, the template is rendered around them, and the marks are
taken out again, so it does not matter what the template does with a text. Texts that hold no
control token are tokenised as they are.

(`apply_chat_template(sanitize_control_tokens=True)` of newer transformers releases does much the
same, but for templates only, and not in the oldest release that we support.)
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

QUIETLY: dict[str, Any] = {"verbose": False}
"""For tokenizers: what is too long is told by us, in one line, and not by a warning of theirs."""

ANSWERS = "assistant"
"""The role whose turns the model writes itself."""
PRIVATE = range(0xF0000, 0xFFFFE)
"""Characters of no meaning, from which the mark is taken."""
PROBE = "zyxw"
"""An answer that no template changes, to see what follows it."""


class ControlTokens:
    """The control tokens of one tokenizer, and how texts that hold them are tokenised.

    Control tokens are the special tokens, those that end a turn, and other added tokens that
    the template writes. In the model's own turns the last are those that it writes around any
    turn: markers of thoughts and the like, which a template may look for there, stay tokens.

    Args:
        tokenizer: the base LM's tokenizer.
        written: what its template makes of one user turn; empty without a template.
        ends: ids that end a turn.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, written: str, ends: Collection[int]
    ) -> None:
        self._tokenizer = tokenizer
        added = {
            token.content: (token.special or number in ends, token.normalized)
            for number, token in tokenizer.added_tokens_decoder.items()
        }
        added |= {text: (True, False) for text in tokenizer.all_special_tokens if text not in added}
        source = str(tokenizer.chat_template or "")
        always = {text for text, (special, _) in added.items() if special and _cuts(text)}
        signs = {text for text in added if _cuts(text) and not text.isalnum()}
        self._in_texts = _firsts(always | {text for text in signs if text in source})
        self._in_answers = _firsts(always | {text for text in signs if text in written})
        # Some tokenizers look for these tokens in the normalised text, where others may become one.
        backend = getattr(tokenizer, "backend_tokenizer", None)
        normalised = any(added[text][1] for text in always)
        self._normalizer = backend.normalizer if backend is not None and normalised else None
        self._line = self._plain("\n")

    def mark(self, value: Any, *, answer: bool = False) -> str:
        """Return a character to cut a text (or messages) with; empty if there is nothing to cut.

        Args:
            value: a text, or messages.
            answer: whether it is a text of the model's own.
        """
        texts = list(_texts(value, answer))
        if not any(self._holds(text, own) for text, own in texts):
            return ""
        held = {character for text, _ in texts for character in text}
        held.update(str(self._tokenizer.chat_template))
        return next(chr(code) for code in PRIVATE if chr(code) not in held)

    def cut(self, value: Any, mark: str, *, answer: bool = False) -> Any:
        """Return a text, or messages, with the mark inside every control token in them."""
        if isinstance(value, str):
            return self._cut(value, mark, answer)
        if isinstance(value, Mapping):
            own = answer or value.get("role") == ANSWERS
            return {key: self.cut(held, mark, answer=own) for key, held in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.cut(held, mark, answer=answer) for held in value]
        return value

    def ids(self, text: str, mark: str) -> list[int]:
        """Return the token ids of a text that has been cut, without special tokens around it."""
        first, *rest = text.split(mark)
        ids = self._plain(first)
        for piece in rest:
            # Some tokenizers put a space before any text, so a piece is read behind a line feed.
            behind = self._plain(f"\n{piece}")
            whole = behind[: len(self._line)] == self._line
            ids += behind[len(self._line) :] if whole else self._plain(piece)
        return ids

    def _pattern(self, answer: bool) -> re.Pattern[str]:
        return self._in_answers if answer else self._in_texts

    def _holds(self, text: str, answer: bool) -> bool:
        pattern, normalizer = self._pattern(answer), self._normalizer
        if pattern.search(text):
            return True
        return normalizer is not None and bool(pattern.search(normalizer.normalize_str(text)))

    def _cut(self, text: str, mark: str, answer: bool) -> str:
        """Return the text with the mark after the first character of every control token in it."""
        pattern = self._pattern(answer)
        cut = pattern.sub(rf"\g<0>{mark}", text)
        if self._normalizer is None:
            return cut
        seen = self._normalizer.normalize_str(cut)
        return pattern.sub(rf"\g<0>{mark}", seen) if pattern.search(seen) else cut

    def _plain(self, text: str) -> list[int]:
        if not text:
            return []
        return list(self._tokenizer(text, add_special_tokens=False, **QUIETLY)["input_ids"])


def _cuts(text: str) -> bool:
    """Return whether this is a text that can be cut, and no blank that any text may hold."""
    return len(text) > 1 and not text.isspace()


def _firsts(tokens: Collection[str]) -> re.Pattern[str]:
    """Find the first character of each of these, also where they overlap."""
    longest_first = sorted(tokens, key=len, reverse=True)
    within = "|".join(map(re.escape, longest_first))
    return re.compile(f"(?={within})." if within else "(?!)", re.DOTALL)


def _texts(value: Any, own: bool = False) -> Iterator[tuple[str, bool]]:
    """Yield all texts in messages, and whether each is the model's own."""
    if isinstance(value, str):
        yield value, own
    elif isinstance(value, Mapping):
        for held in value.values():
            yield from _texts(held, own or value.get("role") == ANSWERS)
    elif isinstance(value, (list, tuple)):
        for held in value:
            yield from _texts(held, own)


def end_of_turn(
    tokenizer: PreTrainedTokenizerBase, configured: int | Sequence[int] | None
) -> list[int]:
    """Return ids that end a response; training teaches the first, each stops generation.

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
    """Return the first added token that the template puts after a response, if any."""
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
    """Return ids that the tokenizer puts before and after any text unless told otherwise."""
    whole, bare = (
        list(tokenizer("1", add_special_tokens=special)["input_ids"]) for special in (True, False)
    )
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return whole[:start], whole[start + len(bare) :]
    return [], []
