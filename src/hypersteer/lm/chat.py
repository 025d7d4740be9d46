"""Chat templates by token ids, and the exact spans of prefix, prompt, response and padding.

Text is never cut or joined after it is tokenised as one piece: the prompt's ids come from the
template, the response's ids from the response alone, and both are joined as ids. So there is one
BOS, no token merges across the border, and every mask is exact.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hypersteer.errors import ModelError, SteeringError, one_line
from hypersteer.lm.control import QUIETLY, ControlTokens, around
from hypersteer.lm.messages import Messages, Prompt, as_messages


class PromptIds(NamedTuple):
    """A tokenised prompt: `ids[:prefix]` is the fixed chat prefix, the rest the prompt proper.

    `ids[turn:]` is the user's last message, with what the template puts behind it; None where the
    prompt is that message alone.
    """

    ids: list[int]
    prefix: int
    turn: int | None = None


class Spans(NamedTuple):
    """What each token of a batch is; a token that is none of the first three is padding.

    `turn` are those tokens of the prompt that are the user's last message, or follow it.
    """

    prefix: Bool[Tensor, "B T"]
    prompt: Bool[Tensor, "B T"]
    response: Bool[Tensor, "B T"]
    turn: Bool[Tensor, "B T"]

    @property
    def real(self) -> Bool[Tensor, "B T"]:
        """Every token but padding: the attention mask."""
        return self.prefix | self.prompt | self.response

    def to(self, device: torch.device | str) -> "Spans":
        """Return the same spans on another device."""
        return Spans(*(mask.to(device) for mask in self))

    def rows(self, index: Tensor | slice) -> "Spans":
        """Return the spans of some rows."""
        return Spans(*(mask[index] for mask in self))


class TokenBatch(NamedTuple):
    """Token ids with their spans."""

    ids: Int[Tensor, "B T"]
    spans: Spans

    def to(self, device: torch.device | str) -> "TokenBatch":
        """Return the same batch on another device."""
        return TokenBatch(self.ids.to(device), self.spans.to(device))

    @property
    def positions(self) -> Int[Tensor, "B T"]:
        """Position of each token counted from the row's first real token; 0 on padding."""
        return (self.spans.real.long().cumsum(1) - 1).clamp(min=0)


class Chat:
    """Turns prompts and responses into ids for one tokenizer.

    Special tokens are the template's own business: where a text spells one out, it is read as the
    characters that it is (`hypersteer.lm.control`).

    Attributes:
        tokenizer: the base LM's tokenizer.
        end_of_turn: the ids that end a response in generation; training teaches the first.
        pad_id: the id that fills padding; never attended to.

    Args:
        tokenizer: the base LM's tokenizer.
        end_of_turn: ids that end a response.
        rows: rows of the base LM's embedding table, where it is known.

    Raises:
        ModelError: if the template writes tokens that the base LM does not know.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        end_of_turn: Sequence[int],
        rows: int | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self._rows = rows
        self.end_of_turn = tuple(token for token in end_of_turn if self._is_known(token))
        self.pad_id = self._valid(tokenizer.pad_token_id, *self.end_of_turn)
        written = ""
        if tokenizer.chat_template is not None:
            written = str(self._render(as_messages("1"), tokenize=False))
        self._control = ControlTokens(tokenizer, written, self.end_of_turn)
        self._lead, self._tail = around(tokenizer)
        first, second = (self._prompt_ids(as_messages(text)) for text in ("1", "2"))
        self._prefix = first[: common(first, second)]

    @property
    def prefix(self) -> list[int]:
        """Ids that the template puts before any user text."""
        return list(self._prefix)

    @property
    def lead(self) -> list[int]:
        """Ids that stand before bare text that is read by itself: the BOS, if there is one."""
        bos = self.tokenizer.bos_token_id
        return [] if bos is None else [bos]

    def prompt(self, prompt: Prompt) -> PromptIds:
        """Return the token ids of a prompt, ready for the response to follow.

        Raises:
            SteeringError: if the prompt is neither text nor well-formed messages.
            ModelError: if it holds a token that the base LM does not know.
        """
        messages = as_messages(prompt)
        ids = self._prompt_ids(messages)
        prefix = min(common(ids, self._prefix), len(ids) - 1)
        return PromptIds(ids, prefix, self._turn(messages, ids, prefix))

    def response(self, text: str, *, ends: bool = False) -> list[int]:
        """Return the token ids of a response, with the end of turn if it `ends`.

        Raises:
            ModelError: if it holds a token that the base LM does not know.
        """
        ids = self._text_ids(text, answer=True)
        return [*ids, self.end_of_turn[0]] if ends and self.end_of_turn else ids

    def text(self, text: str) -> list[int]:
        """Return the token ids of bare text (a steering prompt): no template, no special tokens.

        Raises:
            ModelError: if it holds a token that the base LM does not know.
        """
        return self._text_ids(text, answer=False)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of response ids, without special tokens and without any clean-up."""
        text = self.tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return str(text)

    def _turn(self, messages: Messages, ids: list[int], prefix: int) -> int | None:
        """Return where the user's last message begins; None where there is no other message."""
        users = [place for place, one in enumerate(messages) if one["role"] == "user"]
        if len(messages) == 1 or not users:
            return None
        last = messages[users[-1]]
        other = {**last, "content": "2" if last["content"].startswith("1") else "1"}
        same = common(ids, self._prompt_ids([*messages[: users[-1]], other]))
        return max(prefix, min(same, len(ids) - 1))

    def _text_ids(self, text: str, *, answer: bool) -> list[int]:
        mark = self._control.mark(text, answer=answer)
        if mark:
            ids = self._control.ids(self._control.cut(text, mark, answer=answer), mark)
        else:
            ids = list(self.tokenizer(text, add_special_tokens=False, **QUIETLY)["input_ids"])
        return self._checked(ids)

    def _prompt_ids(self, messages: Messages) -> list[int]:
        mark = self._control.mark(messages)
        if mark:
            messages = self._control.cut(messages, mark)
        if self.tokenizer.chat_template is not None:
            rendered = self._render(messages, tokenize=not mark)
            ids = self._control.ids(rendered, mark) if mark else list(rendered)
        else:
            joined = "\n\n".join(message["content"] for message in messages)
            ids = self._without_template(joined, mark)
        if not ids:
            raise ModelError(
                f"the chat template makes nothing of {messages!r:.120}; give the tokenizer another"
            )
        return self._checked(ids)

    def _render(self, messages: Messages, *, tokenize: bool) -> Any:
        """Return what the template makes of messages: ids, or its text.

        Raises:
            SteeringError: if it refuses them.
        """
        try:
            return self.tokenizer.apply_chat_template(
                messages,
                add_generation_prompt=True,
                tokenize=tokenize,
                return_dict=False,
                tokenizer_kwargs=QUIETLY,
            )
        except Exception as error:  # jinja errors are the template's way to refuse messages
            raise SteeringError(
                f"the chat template refuses this prompt: {one_line(error)}"
            ) from error

    def _without_template(self, text: str, mark: str) -> list[int]:
        """Return ids of a text with what the tokenizer puts before it, but not after it."""
        if mark:
            ids = [*self._lead, *self._control.ids(text, mark)]
        else:
            ids = list(self.tokenizer(text, **QUIETLY)["input_ids"])
            if self._tail and ids[-len(self._tail) :] == self._tail:
                ids = ids[: -len(self._tail)]
        return ids or [self.pad_id]

    def _checked(self, ids: list[int]) -> list[int]:
        if ids and not self._is_known(max(ids)):
            token = self.tokenizer.convert_ids_to_tokens(max(ids))
            raise ModelError(
                f"the token {token!r} has id {max(ids)}, but the base LM knows {self._rows} ids "
                "only: it was added to the tokenizer and not to the model; leave it out, or resize "
                "the model's embeddings"
            )
        return ids

    def _is_known(self, token: int) -> bool:
        return self._rows is None or 0 <= token < self._rows

    def _valid(self, *tokens: int | None) -> int:
        """Return the first of these ids that the base LM knows."""
        return next((t for t in tokens if t is not None and self._is_known(t)), 0)


def collate(
    prompts: Sequence[PromptIds],
    responses: Sequence[Sequence[int]] | None = None,
    *,
    pad_id: int,
    side: Literal["left", "right"] = "right",
) -> TokenBatch:
    """Pad prompts, each followed by its response if given, into one batch.

    Args:
        prompts: B tokenised prompts.
        responses: B lists of response ids, or None.
        pad_id: the id on padding.
        side: where the padding goes; `left` for generation.
    """
    rows = [[*p.ids, *(responses[i] if responses else ())] for i, p in enumerate(prompts)]
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
    masks = torch.zeros(4, len(rows), width, dtype=torch.bool)
    for i, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
        start = width - len(row) if side == "left" else 0
        ids[i, start : start + len(row)] = torch.tensor(row, dtype=torch.long)
        borders = (0, prompt.prefix, len(prompt.ids), len(row))
        for mask, begin, end in zip(masks, borders, borders[1:], strict=False):
            mask[i, start + begin : start + end] = True
        turn = prompt.prefix if prompt.turn is None else prompt.turn
        masks[3, i, start + turn : start + len(prompt.ids)] = True
    return TokenBatch(ids, Spans(*masks))


def length_batches(
    sizes: Sequence[int], *, tokens: int | None = None, rows: int | None = None
) -> Iterator[list[int]]:
    """Yield positions of rows of similar length, in parts to be padded together.

    A row longer than `tokens` is a part of its own.

    Args:
        sizes: length of each row.
        tokens: most tokens of a part, padding included; None for no limit.
        rows: most rows of a part, likewise.
    """
    part: list[int] = []
    for position in sorted(range(len(sizes)), key=lambda p: sizes[p]):
        full = rows is not None and len(part) >= rows
        full = full or (tokens is not None and (len(part) + 1) * sizes[position] > tokens)
        if part and full:
            yield part
            part = []
        part.append(position)
    if part:
        yield part


def common(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the longest common prefix of two lists of ids."""
    for index, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return index
    return min(len(first), len(second))
