"""What a back end brings to be tested: an adapter of a dozen lines.

class Mine:
    name = "mine"
    abilities = frozenset({"mixed"})

    def __init__(self, lm):
        self.lm = lm

    def answer(self, asks, tokens):
        return [my_greedy_text(ask.prompt, ask.layer, ask.vector, ask.strength) for ask in asks]
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

from torch import Tensor

Scope = Literal["everywhere", "all", "prompt", "response"]
Ability = Literal["mixed", "stream", "threads", "scopes", "words", "files", "refuses"]
ABILITIES: dict[Ability, str] = {
    "mixed": "edits of its own for every row of a batch",
    "stream": "answers piece by piece, through `stream`",
    "threads": "several calls at once, from several threads",
    "scopes": "edits on some tokens only: all but the template's beginning, prompt, response",
    "words": "edits that are made of a steering prompt",
    "files": "edits that are saved and loaded, through `reloaded`",
    "refuses": "edits of a wrong width are refused with an exception",
}
"""What a back end may offer beside steering by one vector, which all have to."""


@dataclass(frozen=True, slots=True, eq=False)
class Ask:
    """One request: a user's turn, to be answered greedily, and what steers it.

    Attributes:
        prompt: the user's turn; the base LM's chat template goes around it.
        layer: decoder block to whose output the vector is added, from 0; None for no edit.
        vector: what is added, of the width D of the hidden states.
        strength: multiplies it.
        scope: tokens that are edited. `everywhere` is every one of them, as most back ends steer;
            `all` is without what the chat template puts before any user's text; `prompt` and
            `response` are the parts of that before and after the first token of the answer.
        words: a steering prompt in place of a vector.
        label: how reports call the vector.
    """

    prompt: str
    layer: int | None = None
    vector: Tensor | None = None
    strength: float = 1.0
    scope: Scope = "everywhere"
    words: str | None = None
    label: str = ""

    def at(self, strength: float) -> "Ask":
        """Return the same request at another strength."""
        return replace(self, strength=strength)

    def on(self, scope: Scope) -> "Ask":
        """Return the same request on other tokens."""
        return replace(self, scope=scope)

    def scaled(self) -> "Ask":
        """Return the same request with its strength in the vector."""
        assert self.vector is not None
        label = f"{self.strength:g}*{self.label}"
        return replace(self, vector=self.strength * self.vector, strength=1.0, label=label)

    def plain(self) -> "Ask":
        """Return the same request without an edit."""
        return Ask(self.prompt)

    @property
    def edit(self) -> tuple:
        """What tells its edit from others at any strength: words, or place and numbers."""
        if self.vector is None:
            return (self.words,)
        numbers = self.vector.detach().cpu().numpy().tobytes()
        return (self.layer, hashlib.sha256(numbers).hexdigest(), self.scope)

    @property
    def is_plain(self) -> bool:
        """Whether the answer has to be the plain model's."""
        return (self.vector is None and self.words is None) or self.strength == 0

    def __str__(self) -> str:
        edit = ""
        if self.words is not None:
            edit = f", words={self.words!r}, strength={self.strength:g}"
        elif self.vector is not None:
            edit = f", layer={self.layer}, vector={self.label}, strength={self.strength:g}"
            edit += f", scope={self.scope!r}" if self.scope != "everywhere" else ""
        return f"Ask({self.prompt!r}{edit})"


@runtime_checkable
class Adapter(Protocol):
    """A back end. It is made once, with the base LM (`hypersteer.BaseLM`) as its only argument.

    Attributes:
        name: how reports call it.
        abilities: names of `ABILITIES` that it has; without `mixed` all asks of a call have the
            same edit at the same strength.
    """

    @property
    def name(self) -> str:
        """How reports call it."""
        ...

    @property
    def abilities(self) -> frozenset[str]:
        """What it offers."""
        ...

    def answer(self, asks: Sequence[Ask], tokens: int) -> list[str]:
        """Return the greedy texts of at most `tokens` tokens of requests that run together."""
        ...


@runtime_checkable
class Streams(Protocol):
    """An adapter with the ability `stream`."""

    def stream(self, ask: Ask, tokens: int) -> Iterable[str]:
        """Yield the pieces of an answer."""
        ...


@runtime_checkable
class Reloads(Protocol):
    """An adapter with the ability `files`."""

    def reloaded(self, ask: Ask) -> Ask:
        """Return the request with the vector that comes back from a file of the back end's own."""
        ...
