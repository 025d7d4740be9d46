"""Bag of words: logistic regression on word counts, which knows no model and only detects."""

import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hypersteer.concepts import Concept
from hypersteer.data.schema import Example
from hypersteer.edits.sites import Site
from hypersteer.errors import ConfigError
from hypersteer.learning.corpus import Corpus, need_rows
from hypersteer.learning.logistic import fit_logistic
from hypersteer.learning.values import ConceptExamples, Cost, Done, Learned, ids_of
from hypersteer.learning.vectors import row_of
from hypersteer.lm.base import BaseLM

WORD = re.compile(r"\b\w\w+\b")
"""A word of two or more letters, digits and underscores; texts are lower-cased before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BagOfWords:
    """Tells a concept by its words alone: what any detector on hidden states should beat.

    Source: AxBench (arXiv 2501.17148), section 4 and its code: counts of the words of a text,
    logistic regression with an L2 penalty and C = 100. A text is prompt and response; a word that
    training has not seen counts for nothing. The solver is exact, the score is the log
    odds, which order texts as probabilities do.

    Attributes:
        c: inverse of the penalty.
    """

    learns: ClassVar[bool] = True

    c: float = 100.0

    def __post_init__(self) -> None:
        if not self.c > 0:
            raise ConfigError(f"c {self.c} is not above 0; try 100")

    def fit(
        self, lm: BaseLM, site: Site, concepts: Sequence[ConceptExamples], done: Done | None = None
    ) -> Learned:
        """Fit each concept on its own rows.

        `Learned.tensors` holds the `weights` of each concept's words, one concept after another,
        with their `places` among `Learned.notes["words"]`, how many there are (`sizes`), and the
        `intercepts`.

        Raises:
            DataError: if a concept has no positive or no negative rows.
        """
        del lm, site
        started = time.perf_counter()
        sides = [[entry.positives for entry in concepts], [entry.negatives for entry in concepts]]
        numbers = [[list(range(len(rows))) for rows in side] for side in sides]
        need_rows(Corpus([], *numbers), concepts, method="bag of words", negatives=True)
        fits = []
        for entry in concepts:
            fits.append(self._fit(entry))
            if done is not None:
                done(1 / len(concepts))
        words = sorted(set().union(*(weights for weights, _ in fits)))
        places = {word: place for place, word in enumerate(words)}
        sizes = [len(weights) for weights, _ in fits]
        return Learned(
            tensors={
                "weights": torch.tensor([v for one, _ in fits for v in one.values()]).float(),
                "places": torch.tensor([places[w] for one, _ in fits for w in one]).long(),
                "sizes": torch.tensor(sizes).long(),
                "intercepts": torch.tensor([intercept for _, intercept in fits]).float(),
                "ids": ids_of(concepts),
            },
            notes={"words": words},
            cost=Cost.of_each(
                len(concepts), started=started, parameters=sum(sizes) // max(1, len(fits)) + 1
            ),
        )

    def detect(
        self,
        lm: BaseLM,
        site: Site,
        learned: Learned,
        concepts: Sequence[Concept],
        texts: Sequence[Example],
    ) -> Float[Tensor, "K N"]:
        """Return the log odds that a text shows a concept.

        Raises:
            SteeringError: for a concept that was not learnt.
        """
        del lm, site
        tensors, sizes = learned.tensors, learned.tensors["sizes"].tolist()
        places, weights = (tensors[name].split(sizes) for name in ("places", "weights"))
        rows = [row_of(learned, concept) for concept in concepts]
        known = {word: place for place, word in enumerate(learned.notes["words"])}
        of_words = torch.zeros(len(rows), len(known))
        for one, row in zip(of_words, rows, strict=True):
            one[places[row]] = weights[row]
        scores = torch.zeros(len(rows), len(texts))
        for number, text in enumerate(texts):
            counts = {known[w]: n for w, n in word_counts(text).items() if w in known}
            weighted = of_words[:, list(counts)] @ torch.tensor(list(counts.values())).float()
            scores[:, number] = weighted + tensors["intercepts"][rows]
        return scores

    def _fit(self, entry: ConceptExamples) -> tuple[dict[str, float], float]:
        """Fit the weight of every word of a concept's rows, and the intercept."""
        rows = [word_counts(row) for row in (*entry.positives, *entry.negatives)]
        words = sorted(set().union(*rows))
        places = {word: place for place, word in enumerate(words)}
        counts = np.zeros((len(rows), len(words)))
        for row, own in zip(counts, rows, strict=True):
            row[[places[word] for word in own]] = list(own.values())
        labels = torch.arange(len(rows)) < len(entry.positives)
        fit = fit_logistic(torch.from_numpy(counts @ counts.T), labels, self.c)
        weights = self.c * (counts.T @ fit.dual.numpy())
        return dict(zip(words, weights.tolist(), strict=True)), float(fit.intercept)


def word_counts(text: Example) -> Counter[str]:
    """Count the words of prompt and response."""
    return Counter(WORD.findall(f"{text.prompt}\n{text.response}".lower()))
