"""Prompts as callers give them, brought into chat messages."""

from collections.abc import Mapping, Sequence
from typing import Any, overload

from hypersteer.errors import SteeringError, nearest, one_line

Prompt = str | Sequence[dict[str, Any]]
"""One user turn, or a list of chat messages with `role` and `content`."""

Prompts = Prompt | Mapping[str, Any] | Sequence[Prompt | Mapping[str, Any]]
"""A prompt (a text, a chat message, or a list of chat messages), or a list of prompts."""

Messages = list[dict[str, Any]]


def is_one_prompt(value: object) -> bool:
    """Return whether this is a single prompt, or nothing that could be a list of prompts."""
    if isinstance(value, (str, bytes, Mapping)):
        return True
    try:
        iter(value)  # type: ignore[call-overload]
    except TypeError:
        return True
    return isinstance(value, Sequence) and bool(value) and isinstance(value[0], Mapping)


def as_messages(prompt: Prompt | Mapping[str, Any]) -> Messages:
    """Return the chat messages of a prompt, each with `role` and `content` texts.

    A text is one user turn, and one message a list of one. A `content` that is a list of text
    parts becomes their joined text, with nothing in between; other keys of a message stay as they
    are.

    Raises:
        SteeringError: if it is empty, or neither text nor well-formed messages.
    """
    if isinstance(prompt, str):
        if not prompt.strip():
            raise SteeringError("the prompt is empty; give some text")
        return [{"role": "user", "content": prompt}]
    messages = [prompt] if isinstance(prompt, Mapping) else prompt
    if not isinstance(messages, Sequence) or isinstance(messages, bytes) or not len(messages):
        raise SteeringError(
            f"a prompt is a text or a list of chat messages, not {_told(prompt)}; give one of them"
        )
    return [_message(message) for message in messages]


@overload
def prompted(prompt: str, steering: str) -> str: ...


@overload
def prompted(prompt: Prompt, steering: str) -> Prompt: ...


def prompted(prompt: Prompt, steering: str) -> Prompt:
    """Put the steering prompt, as it is, into the user turn: the prompting baseline.

    Args:
        prompt: a text, or chat messages, of which the last user's gets it.
        steering: the steering prompt.

    Raises:
        SteeringError: for messages without a user's, or what is no prompt.
    """
    if isinstance(prompt, str):
        return f"Follow this steering prompt in your answer: {steering}\n\n{prompt}"
    messages = as_messages(prompt)
    users = [place for place, message in enumerate(messages) if message["role"] == "user"]
    if not users:
        raise SteeringError(
            "the chat has no message of the role 'user' that a steering prompt could be put into"
        )
    last = messages[users[-1]]
    messages[users[-1]] = {**last, "content": prompted(str(last["content"]), steering)}
    return messages


def _message(message: object) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise SteeringError(
            f"a chat message needs 'role' and 'content' texts, not {_told(message)}"
        )
    if not isinstance(message.get("role"), str):
        raise SteeringError(f"a chat message needs a 'role' text, not {_told(message)}")
    content = message.get("content")
    if isinstance(content, Sequence) and not isinstance(content, (str, bytes)):
        content = "".join(_part(part) for part in content)
    if not isinstance(content, str):
        raise SteeringError(
            f"a chat message needs 'role' and 'content' texts, not {_told(message)}"
        )
    return {**message, "content": content}


def _part(part: object) -> str:
    """Return the text of one part of a message's content."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    if isinstance(part, Mapping) and kind == "text" and isinstance(part.get("text"), str):
        return part["text"]
    if isinstance(kind, str) and kind != "text":
        raise SteeringError(
            f"a chat message has a part of type {_told(kind)}{nearest(kind, ['text'])}; only "
            "text can be read, so leave it out"
        )
    raise SteeringError(
        f'a part of a chat message is {{"type": "text", "text": ...}}, not {_told(part)}'
    )


def _told(value: object) -> str:
    """Return a value as a message shows it: one line, cut."""
    return one_line(repr(value), 120)
