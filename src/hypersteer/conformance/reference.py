"""What has to come out: the answers of transformers' own model under one forward hook.

Nothing of this package's engine, cache or writers takes part. The whole text is read anew for
every token, one request at a time, so there is no cache and no batch to be wrong.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from hypersteer.conformance.adapter import Ask
from hypersteer.lm.base import BaseLM

CLEAR = 0.02
"""A choice between two tokens whose logits are nearer than this may fall either way in float32."""


class Expected(NamedTuple):
    """An answer that has to come out.

    Attributes:
        text: the answer.
        clear: its part before the first token that was no clear choice; all of it, mostly.
    """

    text: str
    clear: str

    def allows(self, found: str) -> bool:
        """Whether an answer is this one, up to where it was no clear choice."""
        return found == self.text or (self.clear != self.text and found.startswith(self.clear))


class Reference:
    """Greedy answers under an edit, computed in the plainest way; each one once.

    Args:
        lm: the base LM, in float32.
        tokens: length of the answers.
    """

    def __init__(self, lm: BaseLM, tokens: int) -> None:
        self.lm, self.tokens = lm, tokens
        self._known: dict[tuple, Expected] = {}

    def expected(self, ask: Ask) -> Expected:
        """Return the answer to a request that is plain or has a vector."""
        key = (ask.prompt,) if ask.is_plain else (ask.prompt, ask.edit, ask.strength)
        if key not in self._known:
            self._known[key] = self._answer(ask)
        return self._known[key]

    @torch.no_grad()
    def _answer(self, ask: Ask) -> Expected:
        prompt, prefix, _ = self.lm.chat.prompt(ask.prompt)
        ids, clear = list(prompt), None
        handle = None
        if not ask.is_plain and ask.layer is not None:
            block = self.lm.blocks[ask.layer]
            handle = block.register_forward_hook(partial(_add, ask, prefix, len(prompt)))
        try:
            while len(ids) < len(prompt) + self.tokens:
                logits = self.lm.model(torch.tensor([ids]), use_cache=False).logits[0, -1]
                best, second = logits.topk(2).values.tolist()
                if best - second < CLEAR and clear is None:
                    clear = len(ids)
                ids.append(int(logits.argmax()))
                if ids[-1] in self.lm.chat.end_of_turn:
                    break
        finally:
            if handle is not None:
                handle.remove()
        text = self._text(ids[len(prompt) :])
        return Expected(text, text if clear is None else self._text(ids[len(prompt) : clear]))

    def _text(self, ids: Sequence[int]) -> str:
        return self.lm.chat.decode([id_ for id_ in ids if id_ not in self.lm.chat.end_of_turn])

    @torch.no_grad()
    def direction(self, layer: int, text: str, other: str) -> Float[Tensor, " D"]:
        """Return the difference of two texts' mean states, as long as a state mostly is."""
        states = [self._states(layer, one) for one in (text, other)]
        found = states[0].mean(0) - states[1].mean(0)
        return found * (states[1].norm(dim=-1).median() / found.norm())

    def _states(self, layer: int, text: str) -> Float[Tensor, "T D"]:
        """Return the output of a block for all tokens of a text but the first."""
        seen: list[Tensor] = []

        def keep(_block: Any, _args: Any, output: Any) -> None:
            seen.append(_tensor(output)[0, 1:].clone())

        handle = self.lm.blocks[layer].register_forward_hook(keep)
        try:
            self.lm.model(torch.tensor([self.lm.chat.prompt(text).ids]), use_cache=False)
        finally:
            handle.remove()
        return seen[0]


def _tensor(output: Any) -> Tensor:
    return output if torch.is_tensor(output) else output[0]


def _add(ask: Ask, prefix: int, prompt: int, _block: Any, _args: Any, output: Any) -> Any:
    """Add the vector of a request to a block's output, on the tokens of its scope."""
    states = _tensor(output)
    assert ask.vector is not None
    steered = torch.ones(states.shape[1], dtype=torch.bool)
    if ask.scope != "everywhere":
        steered[:prefix] = False
    if ask.scope == "prompt":
        steered[prompt:] = False
    elif ask.scope == "response":
        steered[:prompt] = False
    added = states + ask.strength * ask.vector.to(states) * steered[:, None]
    return added if torch.is_tensor(output) else (added, *output[1:])
