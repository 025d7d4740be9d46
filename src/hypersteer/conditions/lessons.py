"""What a head learns from and is tested on: the states of conditions' words and of their texts.

Shapes: M conditions, W blocks that words are read at, K layers that conditions read, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hypersteer.conditions.contrasts import ContrastText, Watch, read_states
from hypersteer.conditions.described import About, Described
from hypersteer.config.conditions import HeadConfig
from hypersteer.lm.base import BaseLM
from hypersteer.lm.pooling import TokenPooling

ASKED = "Go on."
"""What stands before answers whose prompt nobody kept."""
POOLING: dict[About, TokenPooling] = {"prompt": "turn", "answer": "response"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """One condition, read.

    Attributes:
        described: the condition.
        words: mean states of each of its wordings, [wordings, W, D].
        texts: pooled states of its texts, in the order of `Described.texts`, [texts, K, D].
    """

    described: Described
    words: Float[Tensor, "V W D"]
    texts: Float[Tensor, "T K D"]

    @property
    def inside(self) -> Bool[Tensor, " T"]:
        """Of which texts it is true."""
        return torch.arange(len(self.texts)) < len(self.described.inside)

    @property
    def near(self) -> Bool[Tensor, " T"]:
        """Which texts are near misses."""
        first = len(self.described.inside)
        place = torch.arange(len(self.texts))
        return (place >= first) & (place < first + len(self.described.near))


def read_words(
    lm: BaseLM, words: Sequence[str], config: HeadConfig, watch: Watch | None = None
) -> Float[Tensor, "N W D"]:
    """Return the mean states of N conditions' words at the blocks that a head reads."""
    return read_states(lm, list(words), config.words_layers, "prompt", watch=watch)


def asked(texts: Sequence[ContrastText], about: About) -> list[ContrastText]:
    """Return texts with a prompt before answers that come without theirs."""
    bare = about == "answer"
    return [(ASKED, text) if bare and isinstance(text, str) else text for text in texts]


def read_lessons(
    lm: BaseLM, described: Sequence[Described], config: HeadConfig, watch: Watch | None = None
) -> list[Lesson]:
    """Read conditions and all their texts, in one pass over each batch; the same text once.

    Args:
        lm: the base LM.
        described: M conditions.
        config: says which blocks are read.
        watch: told how many wordings and texts are read, of how many.

    Raises:
        SteeringError: for a text that does not fit the context window.
    """
    wordings = [wording for one in described for wording in one.wordings]
    given: dict[About, list[str]] = {
        about: [*dict.fromkeys(t for one in described if one.about == about for t in one.texts)]
        for about in POOLING
    }
    total, before = len(wordings) + sum(map(len, given.values())), 0

    def told(done: int, _: int) -> None:
        if watch is not None:
            watch(before + done, total)

    words = read_words(lm, wordings, config, told)
    before += len(wordings)
    texts: dict[About, dict[str, Tensor]] = {}
    for about, own in given.items():
        states = read_states(lm, asked(own, about), config.layers, POOLING[about], watch=told)
        texts[about] = dict(zip(own, states, strict=True))
        before += len(own)
    of_words = iter(words)
    return [
        Lesson(
            described=one,
            words=torch.stack([next(of_words) for _ in one.wordings]),
            texts=torch.stack([texts[one.about][text] for text in one.texts]),
        )
        for one in described
    ]
