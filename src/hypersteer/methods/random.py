"""A random vector per concept: the control that every vector method must beat."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from hypersteer.edits.sites import Site
from hypersteer.errors import ConfigError
from hypersteer.learning import dispatch, vectors
from hypersteer.learning.corpus import Corpus, CorpusText, States, check_fields, make_corpus
from hypersteer.learning.values import Asked, ConceptExamples, Done, Learned, Steering
from hypersteer.lm.base import BaseLM


@dataclass(frozen=True, slots=True, kw_only=True)
class Random:
    """A seeded unit vector per concept id, as strong as a learnt one would be.

    Source: the control in AxBench's code, which crashes there in training. The vector depends on
    the seed, the concept's id and the width only. A concept's maximum activation is measured on
    its own rows; a concept without rows (held out) takes those of all other concepts, since the
    direction has to do with none of them; without any rows it is the mean length of the states
    on the concept's text (see `hypersteer.learning.vectors`). A concept that `fit` has not seen
    at all is as strong as the others are on average.

    Attributes:
        seed: another seed gives other vectors.
        batch_tokens: most tokens of a forward pass, padding included.
    """

    learns: ClassVar[bool] = False
    scales: ClassVar[bool] = True
    detect = staticmethod(dispatch.detect)

    seed: int = 0
    batch_tokens: int = 4096

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ConfigError(f"seed {self.seed} is negative; give 0 or more")
        check_fields(self)

    def fit(
        self, lm: BaseLM, site: Site, concepts: Sequence[ConceptExamples], done: Done | None = None
    ) -> Learned:
        """Draw the vectors and measure how strong they should be."""
        del done
        started = time.perf_counter()
        corpus = make_corpus(lm, concepts)
        rows = [own or list(range(len(corpus.texts))) for own in corpus.rows]
        bare = not corpus.texts
        if bare:
            texts = [CorpusText(lm.chat.prompt(entry.concept.text), []) for entry in concepts]
            for text, entry in zip(texts, concepts, strict=True):
                lm.check_length(text.size, f"the concept {entry.concept.text[:40]!r}")
            corpus, rows = Corpus(texts, [], []), [[number] for number in range(len(texts))]
        directions = unit_vectors([entry.concept.id for entry in concepts], lm.width, self.seed)
        once = [1] * len(corpus.texts)
        states = States(lm, site, corpus.texts, once, batch_tokens=self.batch_tokens, cache_bytes=0)
        measured = vectors.measure(states, rows, directions)
        return vectors.keep(
            concepts,
            directions,
            measured.norms if bare else measured.activations,
            flops=states.flops + measured.flops,
            started=started,
        )

    def steer(self, lm: BaseLM, site: Site, learned: Learned, asked: Sequence[Asked]) -> Steering:
        """Steer along the drawn vectors; that of a concept new to `fit` is drawn now.

        Raises:
            SteeringError: for a concept that `fit` has not seen, if it has seen none.
        """
        ids = learned.tensors["ids"].tolist()
        strange = sorted({one.concept.id for one in asked} - set(ids))
        if strange and ids:
            tensors = learned.tensors
            typical = tensors["activations"].mean().expand(len(strange))
            fresh = {
                "directions": unit_vectors(strange, lm.width, self.seed),
                "activations": typical,
                "ids": torch.tensor(strange),
            }
            both = {name: torch.cat([tensors[name], fresh[name]]) for name in fresh}
            learned = replace(learned, tensors=both)
        return dispatch.steer(lm, site, learned, asked)


def unit_vectors(ids: Sequence[int], width: int, seed: int) -> Float[Tensor, "N D"]:
    """Draw one direction per id, uniform on the sphere, whatever other ids there are."""
    drawn = [np.random.default_rng([seed, id_]).standard_normal(width) for id_ in ids]
    return F.normalize(torch.from_numpy(np.reshape(drawn, (-1, width))).float(), dim=-1)
