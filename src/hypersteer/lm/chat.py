"""Chat templates by token ids, and the exact spans of prefix, prompt, response and padding.

Text is never cut or joined after it is tokenised as one piece: the prompt's ids come from the
template, the response's ids from the response alone, and both are joined as ids. So there is one
BOS, no token merges across the border, and every mask is exact.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hypersteer.edits import Scope
from hypersteer.errors import SteeringError, one_line

Prompt = str | Sequence[dict[str, str]]
"""One user turn, or a list of chat messages with `role` and `content`."""


class PromptIds(NamedTuple):
    """A tokenised prompt: `ids[:prefix]` is the fixed chat prefix, the rest the prompt proper."""

    ids: list[int]
    prefix: int


class Spans(NamedTuple):
    """What each token of a batch is; a token that is none of the three is padding."""

    prefix: Bool[Tensor, "B T"]
    prompt: Bool[Tensor, "B T"]
    response: Bool[Tensor, "B T"]

    @property
    def real(self) -> Bool[Tensor, "B T"]:
        """Every token but padding: the attention mask."""
        return self.prefix | self.prompt | self.response

    def to(self, device: torch.device | str) -> "Spans":
        """The same spans on another device."""
        return Spans(*(mask.to(device) for mask in self))

    def rows(self, index: Tensor | slice) -> "Spans":
        """The spans of some rows."""
        return Spans(*(mask[index] for mask in self))


class TokenBatch(NamedTuple):
    """Token ids with their spans."""

    ids: Int[Tensor, "B T"]
    spans: Spans

    def to(self, device: torch.device | str) -> "TokenBatch":
        """The same batch on another device."""
        return TokenBatch(self.ids.to(device), self.spans.to(device))

    @property
    def positions(self) -> Int[Tensor, "B T"]:
        """Position of each token counted from the row's first real token; 0 on padding."""
        return (self.spans.real.long().cumsum(1) - 1).clamp(min=0)


class Chat:
    """Turns prompts and responses into ids for one tokenizer.

    Attributes:
        tokenizer: the base LM's tokenizer.
        end_of_turn: the ids that end a response in generation.
        pad_id: the id that fills padding; never attended to.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, end_of_turn: Sequence[int]) -> None:
        self.tokenizer = tokenizer
        self.end_of_turn = tuple(end_of_turn)
        pad = tokenizer.pad_token_id
        self.pad_id = int(pad if pad is not None else self.end_of_turn[0] if end_of_turn else 0)
        first, second = (self._template_ids("1"), self._template_ids("2"))
        self._prefix = first[: _common(first, second)]

    def prompt(self, prompt: Prompt) -> PromptIds:
        """Token ids of a prompt, ready for the response to follow.

        Raises:
            SteeringError: if the prompt is neither text nor well-formed messages.
        """
        ids = self._template_ids(_messages(prompt))
        return PromptIds(ids, min(_common(ids, self._prefix), len(ids) - 1))

    def response(self, text: str, *, ends: bool = False) -> list[int]:
        """Token ids of a response, with the end of turn if it `ends`."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return [*ids, self.end_of_turn[0]] if ends and self.end_of_turn else list(ids)

    def text(self, text: str) -> list[int]:
        """Token ids of bare text (a steering prompt): no template, no special tokens."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        """Text of response ids, without special tokens and without any clean-up."""
        text = self.tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return str(text)

    def _template_ids(self, prompt: "str | list[dict[str, str]]") -> list[int]:
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        if self.tokenizer.chat_template is None:
            joined = "\n\n".join(message["content"] for message in messages)
            return list(self.tokenizer(joined)["input_ids"]) or [self.pad_id]
        try:
            ids: Any = self.tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, return_dict=False
            )
            return list(ids)
        except Exception as error:  # jinja errors are the template's way to refuse messages
            raise SteeringError(
                f"the chat template refuses this prompt: {one_line(error)}"
            ) from error


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
    masks = torch.zeros(3, len(rows), width, dtype=torch.bool)
    for i, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
        start = width - len(row) if side == "left" else 0
        ids[i, start : start + len(row)] = torch.tensor(row, dtype=torch.long)
        borders = (0, prompt.prefix, len(prompt.ids), len(row))
        for mask, begin, end in zip(masks, borders, borders[1:], strict=False):
            mask[i, start + begin : start + end] = True
    return TokenBatch(ids, Spans(*masks))


def scope_mask(scopes: Sequence[Scope], spans: Spans) -> Bool[Tensor, "B T"]:
    """Mark the tokens that each row's scope touches; never padding.

    Raises:
        SteeringError: if a boolean scope is not as long as the row's prefix and prompt.
    """
    masks = []
    for scope, prefix, prompt, response in zip(scopes, *spans, strict=True):
        if scope == "all":
            masks.append(prompt | response)
        elif scope == "prompt":
            masks.append(prompt)
        elif scope == "response":
            masks.append(response)
        elif scope == "last_prompt":
            last = prompt.long().cumsum(0) == prompt.sum()
            masks.append(prompt & last)
        else:
            before = prefix | prompt
            masks.append(_explicit(scope, before))
    return torch.stack(masks)


def _explicit(scope: "str | tuple[bool, ...]", before: Tensor) -> Tensor:
    count = int(before.sum())
    if count and len(scope) != count:
        raise SteeringError(
            f"the scope mask has {len(scope)} entries, but prefix and prompt have {count} tokens"
        )
    mask = torch.zeros_like(before)
    if count:
        mask[before] = torch.tensor(scope, dtype=torch.bool, device=before.device)
    return mask


def _messages(prompt: Prompt) -> "str | list[dict[str, str]]":
    if isinstance(prompt, str):
        if not prompt.strip():
            raise SteeringError("the prompt is empty; give some text")
        return prompt
    messages = list(prompt) if isinstance(prompt, Sequence) else []
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise SteeringError(f"a chat message needs 'role' and 'content' texts, not {message!r}")
        if not isinstance(message.get("role"), str):
            raise SteeringError(f"a chat message needs a 'role' text, not {message!r}")
    if not messages:
        raise SteeringError(f"a prompt is a text or a list of chat messages, not {prompt!r}")
    return messages


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    for index, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return index
    return min(len(first), len(second))
