"""CAA: the mean difference between responses that show a concept and responses that do not."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from hypersteer.edits.sites import NamedScope, Site
from hypersteer.learning import dispatch
from hypersteer.learning.concept_states import ConceptStates
from hypersteer.learning.corpus import CorpusText, check_fields
from hypersteer.learning.values import ConceptExamples, Done, Learned
from hypersteer.lm.base import BaseLM
from hypersteer.methods.mass_mean import Length

Tokens = Literal["response", "last"]
"""Which states stand for a text: the mean over its response, or the last one."""

GENERATING: tuple[NamedScope, ...] = ("last_prompt", "response")
"""The tokens whose next token is generated."""
PAIRED = 0.5
"""Share of positives that must have a partner for pairs to be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caa:
    """Contrastive activation addition.

    Source: Rimsky et al., 2023 (arXiv 2312.06681). There a pair is one question with two answers of
    one letter, and the vector is the mean over pairs of the difference between the states at the
    letters; it is added to every token from which one is generated, times a multiplier.

    Positives and negatives on the same base prompt are such pairs; a positive's partner is the mean
    of the negatives on its prompt. Where less than half of a concept's positives have one (AxBench:
    hardly any, since its negatives answer other prompts), the vector is the mean of the positives
    minus that of the negatives, to which the mean over pairs is equal where all are paired one to
    one. A text is one sample whatever its length. It is represented by the mean over its response
    tokens: for a letter that is the published state at the letter, and for free text, cut anywhere,
    the last token is an accident. It detects as other directions do; the paper detects nothing.

    Attributes:
        tokens: `response`, or `last` for the last token.
        length: how long a vector strength 1 adds: `activation`, AxBench's maximum activation, so
            that strengths mean what they mean for other methods; `difference` is as published.
        scopes: tokens that are steered; as published from the prompt's last one on.
        batch_tokens: most tokens of a forward pass, padding included.
        cache_bytes: most bytes of hidden states kept for the second reading.
    """

    learns: ClassVar[bool] = True
    scales: ClassVar[bool] = True
    steer = staticmethod(dispatch.steer)
    detect = staticmethod(dispatch.detect)

    tokens: Tokens = "response"
    length: Length = "activation"
    scopes: tuple[NamedScope, ...] = GENERATING
    batch_tokens: int = 4096
    cache_bytes: int = 2 * 2**30

    def __post_init__(self) -> None:
        check_fields(self)

    def fit(
        self, lm: BaseLM, site: Site, concepts: Sequence[ConceptExamples], done: Done | None = None
    ) -> Learned:
        """Learn all concepts, each from its own rows.

        Raises:
            DataError: if a concept has no positive or no negative rows.
        """
        states = ConceptStates(lm, site, concepts, self, method="CAA", negatives=True)
        corpus = states.corpus

        def find(number: int) -> Tensor:
            sides = [sorted(set(s[number])) for s in (corpus.positives, corpus.negatives)]
            pooled = [
                torch.stack(
                    [
                        summary(hidden, corpus.texts[text], self.tokens)
                        for text, hidden in zip(side, states.tokens(side), strict=True)
                    ]
                )
                for side in sides
            ]
            prompts = [[tuple(corpus.texts[text].prompt.ids) for text in side] for side in sides]
            return contrast(pooled[0], pooled[1], prompts[0], prompts[1])

        differences = states.each(find, done)
        norms = differences.norm(dim=-1)
        lengths = norms if self.length == "difference" else None
        return states.learned(differences, lengths, self.scopes)


def summary(states: Float[Tensor, "T D"], text: CorpusText, tokens: Tokens) -> Float[Tensor, " D"]:
    """Return what stands for a text.

    Args:
        states: of its tokens after the chat prefix.
        text: with a response.
        tokens: see `Caa`.
    """
    responses = states[-len(text.response) :].cpu().double()  # some devices have no float64
    return responses[-1] if tokens == "last" else responses.mean(0)


def contrast(
    positives: Float[Tensor, "P D"],
    negatives: Float[Tensor, "Q D"],
    shown: Sequence[object],
    lacked: Sequence[object],
) -> Float[Tensor, " D"]:
    """Return the mean difference over pairs on one prompt, or if they are few, of class means.

    Args:
        positives: what stands for the texts with the concept.
        negatives: for those without.
        shown: prompts of the positives.
        lacked: prompts of the negatives.
    """
    same = torch.tensor([[mine == other for other in lacked] for mine in shown])
    paired = same.any(1)
    if paired.double().mean() < PAIRED:
        return positives.mean(0) - negatives.mean(0)
    weights = same[paired].to(negatives)
    partners = weights @ negatives / weights.sum(1, keepdim=True)
    return (positives[paired] - partners).mean(0)
