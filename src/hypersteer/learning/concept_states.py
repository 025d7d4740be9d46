"""Hidden states of concepts' texts and their moments, to learn each concept from its own."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hypersteer.edits.sites import NamedScope, Site
from hypersteer.learning import vectors
from hypersteer.learning.corpus import Limits, States, make_corpus, need_rows
from hypersteer.learning.values import ConceptExamples, Done, Learned
from hypersteer.lm.base import BaseLM
from hypersteer.lm.flops import MULTIPLY_ADD


class Moments(NamedTuple):
    """Sums over the states of many tokens, in float64 on the CPU.

    Attributes:
        count: tokens.
        mean: [D].
        scatter: [D, D], sum of products of the states' distances from the mean.
    """

    count: int
    mean: Tensor
    scatter: Tensor


@torch.no_grad()
def moments(parts: Iterable[Float[Tensor, "_ D"]]) -> Moments:
    """Return mean and scatter of all rows of all parts, of which there is at least one.

    Products are taken in float32 about the first part's mean, which keeps their digits where a
    common offset dwarfs the spread, and are added up in float64.
    """
    count, shift = 0, torch.zeros(())
    total, products = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for part in parts:
        rows = part.float()
        if not count:
            shift = rows.mean(0)
        rows = rows - shift
        count += len(rows)
        total = total + rows.sum(0).cpu().double()
        products = products + (rows.T @ rows).cpu().double()
    mean = total / count
    return Moments(count, shift.cpu().double() + mean, products - count * torch.outer(mean, mean))


class ConceptStates:
    """The texts of N concepts with their states at a site, each text read once if memory allows.

    A text that stands twice among the rows of a concept counts once for it.

    Attributes:
        corpus: the texts.
        states: their states.

    Args:
        lm: the base LM.
        site: where to read.
        concepts: what to learn.
        limits: the method, or what else limits memory.
        method: its name in messages.
        negatives: whether texts without the concept are needed.

    Raises:
        DataError: if a concept lacks rows.
    """

    def __init__(
        self,
        lm: BaseLM,
        site: Site,
        concepts: Sequence[ConceptExamples],
        limits: Limits,
        *,
        method: str,
        negatives: bool,
    ) -> None:
        self._started = time.perf_counter()
        self._lm, self._concepts = lm, concepts
        self.corpus = make_corpus(lm, concepts)
        need_rows(self.corpus, concepts, method=method, negatives=negatives)
        uses = np.bincount(
            [number for rows in self.corpus.rows for number in rows],
            minlength=len(self.corpus.texts),
        )
        self.states = States(
            lm,
            site,
            self.corpus.texts,
            (uses + 1).tolist(),  # the last reading measures maximum activations
            batch_tokens=limits.batch_tokens,
            cache_bytes=limits.cache_bytes,
        )
        self._products = 0
        self._moments: dict[tuple[int, ...], Moments] = {}

    def each(self, find: Callable[[int], Tensor], done: Done | None) -> Float[Tensor, "N D"]:
        """Stack what `find` returns for each concept, called with its place among them."""
        found = []
        for number in range(len(self._concepts)):
            found.append(find(number).float().cpu())
            if done is not None:
                done(1 / len(self._concepts))
        return torch.stack(found) if found else torch.zeros(0, self._lm.width)

    def parts(self, numbers: Sequence[int]) -> Iterator[Float[Tensor, "_ D"]]:
        """Yield the states of all tokens of these texts after the chat prefix, part by part."""
        for _, hidden, marks in self.states.walk(sorted(set(numbers))):
            yield hidden[marks]

    def tokens(self, numbers: Sequence[int]) -> list[Float[Tensor, "_ D"]]:
        """Return the states of each text's tokens after the chat prefix, in the given order."""
        found: dict[int, Tensor] = {}
        for part, hidden, marks in self.states.walk(sorted(set(numbers))):
            found.update({n: hidden[row][marks[row]] for row, n in enumerate(part)})
        return [found[number] for number in numbers]

    def moments(self, numbers: Sequence[int], *, shared: bool) -> Moments:
        """Return mean and scatter of all tokens of these texts.

        Args:
            numbers: at least one text.
            shared: whether other concepts may ask for the same texts, so that they are kept.
        """
        key = tuple(sorted(set(numbers)))
        found = self._moments.get(key)
        if found is None:
            found = moments(self.parts(key))
            self._products += MULTIPLY_ADD * found.count * self._lm.width**2
        if shared:
            self._moments[key] = found
        return found

    def id(self, number: int) -> int:
        """Return the id of a concept, by its place."""
        return self._concepts[number].concept.id

    def learned(
        self,
        directions: Float[Tensor, "N D"],
        lengths: Float[Tensor, " N"] | None = None,
        scopes: Sequence[NamedScope] = ("all",),
    ) -> Learned:
        """Return the directions as they are kept.

        Args:
            directions: of the concepts, of any length.
            lengths: how long a vector strength 1 adds; by default the maximum activation.
            scopes: tokens that are steered.
        """
        directions = torch.nn.functional.normalize(directions.float(), dim=-1)
        if lengths is None:
            measured = vectors.measure(self.states, self.corpus.rows, directions)
            lengths, self._products = measured.activations, self._products + measured.flops
        return vectors.keep(
            self._concepts,
            directions,
            lengths,
            flops=self.states.flops + self._products,
            started=self._started,
            scopes=scopes,
        )
