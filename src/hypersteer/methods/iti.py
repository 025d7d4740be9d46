"""ITI: shifts the attention heads that tell a concept best, along their own mean difference."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from hypersteer.edits.sites import Site
from hypersteer.errors import ConfigError
from hypersteer.learning import vectors
from hypersteer.learning.attention_heads import Heads, find_heads, read_heads, through
from hypersteer.learning.corpus import check_fields, make_corpus, need_rows
from hypersteer.learning.logistic import fit_logistic
from hypersteer.learning.values import Asked, ConceptExamples, Cost, Done, Learned, Steering, ids_of
from hypersteer.lm.base import BaseLM
from hypersteer.lm.writers import Writer, vector_writer
from hypersteer.methods.caa import GENERATING, Tokens, summary


@dataclass(frozen=True, slots=True, kw_only=True)
class Iti:
    """Inference-time intervention on the attention heads of all blocks; the site is not used.

    Source: Li et al., 2023 (arXiv 2306.03341). A logistic regression on each head's output is
    fitted to four fifths of the texts; the heads with the best accuracy on the last fifth are
    shifted by `alpha * std * w`, with `w` the unit difference of the class means and `std` the
    standard deviation of the outputs along it, at every token from which one is generated.

    A shift of heads before the output projection is a constant after it, so it is written there:
    one vector per block at its attention site.

    Choices: as many heads as the paper's 48 are of its model's 1024; equal accuracies are ordered
    by the log-loss on the same fifth, which a few dozen texts need; a text is represented by the
    mean over its response, since a cut response has no telling last token (see
    `hypersteer.methods.caa.Caa`). Strength 1 is the paper's alpha.

    Attributes:
        share: of all heads that is shifted; at least one.
        alpha: standard deviations of a shift.
        tokens: `response`, or `last` for the last token, as published.
        seed: of the split, with the concept's id.
        batch_tokens: most tokens of a forward pass, padding included.
    """

    learns: ClassVar[bool] = True
    scales: ClassVar[bool] = True

    share: float = 48 / 1024
    alpha: float = 15.0
    tokens: Tokens = "response"
    seed: int = 42
    batch_tokens: int = 4096

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0 < self.share <= 1:
            raise ConfigError(f"share {self.share} is not above 0 and at most 1; try 0.05")
        if self.alpha == 0 or self.seed < 0:
            raise ConfigError(f"alpha {self.alpha} must not be 0, nor seed {self.seed} negative")

    def fit(
        self, lm: BaseLM, site: Site, concepts: Sequence[ConceptExamples], done: Done | None = None
    ) -> Learned:
        """Choose heads and shifts for each concept.

        `Learned.tensors` holds for K heads of each concept their `heads` (block times H plus head),
        `shifts` at strength 1, and validation `accuracies`.

        Raises:
            DataError: if a concept has no positive or no negative rows.
            ModelError: if the heads cannot be found by structure.
        """
        del site
        started = time.perf_counter()
        corpus = make_corpus(lm, concepts)
        need_rows(corpus, concepts, method="ITI", negatives=True)
        heads = find_heads(lm)
        shared = {number for side in corpus.negatives for number in side}
        kept: dict[int, Tensor] = {}
        found, flops = [], 0
        for number, entry in enumerate(concepts):
            sides = [sorted(set(s[number])) for s in (corpus.positives, corpus.negatives)]
            fresh = [text for side in sides for text in side if text not in kept]
            texts = [corpus.texts[text] for text in fresh]
            sizes = [text.size for text in texts]
            flops += vectors.reading_flops(lm, Site(lm.depth - 1), sizes, self.batch_tokens)
            outputs = read_heads(
                lm, heads, texts, lambda h, t: summary(h, t, self.tokens), self.batch_tokens
            )
            read = {**kept, **dict(zip(fresh, outputs, strict=True))}
            positives, negatives = (torch.stack([read[t] for t in side]) for side in sides)
            found.append(self.choose(positives, negatives, entry.concept.id))
            kept = {text: rows for text, rows in read.items() if text in shared}
            if done is not None:
                done(1 / len(concepts))
        return self._learned(lm, heads, concepts, found, flops, started)

    def choose(
        self,
        positives: Float[Tensor, "P heads W"],
        negatives: Float[Tensor, "Q heads W"],
        id_: int,
    ) -> "Chosen":
        """Choose the best heads of one concept and their shifts.

        Args:
            positives: outputs of all heads for the texts with the concept.
            negatives: for those without.
            id_: the concept's id, which the split depends on.
        """
        count = max(1, round(self.share * positives.shape[1]))
        accuracies, losses = self._validated(positives, negatives, id_)
        order = np.lexsort((losses.numpy(), -accuracies.numpy()))[:count].tolist()
        difference = positives.mean(0)[order] - negatives.mean(0)[order]
        directions = F.normalize(difference, dim=-1)
        along = torch.einsum("nkw,kw->nk", torch.cat([positives, negatives])[:, order], directions)
        deviations = along.std(0, correction=0)
        shifts = self.alpha * deviations[:, None] * directions
        return Chosen(torch.tensor(order), shifts, accuracies[order].float())

    def steer(self, lm: BaseLM, site: Site, learned: Learned, asked: Sequence[Asked]) -> Steering:
        """Add at the attention sites what the shifts of each row's heads become there.

        Raises:
            SteeringError: for a concept that was not learnt.
        """
        del site
        rows = [vectors.row_of(learned, one.concept) for one in asked]
        chosen, shifts = (learned.tensors[name][rows] for name in ("heads", "shifts"))
        heads = find_heads(lm)
        writers: list[Writer] = []
        for layer in sorted({head // heads.count for head in chosen.flatten().tolist()}):
            shift = torch.zeros(len(rows), heads.count, heads.width)
            row, place = (chosen // heads.count == layer).nonzero(as_tuple=True)
            shift[row, chosen[row, place] % heads.count] = shifts[row, place]
            vector = through(heads.projections[layer], shift.flatten(1))
            writers += [
                vector_writer(Site(layer, "attention"), vector.to(lm.device), [scope] * len(rows))
                for scope in GENERATING
            ]
        return Steering(lm, [one.prompt for one in asked], writers)

    def _validated(
        self, positives: Tensor, negatives: Tensor, id_: int
    ) -> tuple[Float[Tensor, " heads"], Float[Tensor, " heads"]]:
        """Return accuracy and mean log-loss of each head's probe on texts it was not fitted to.

        A side of too few texts to spare any validates on what it was fitted to.
        """
        random = np.random.default_rng([self.seed, id_])
        fitted, kept = [], []
        for side in (positives, negatives):
            order = random.permutation(len(side))
            spared = round(len(side) / 5)
            fitted.append(side[order[spared:]])
            kept.append(side[order[:spared]] if spared else side)
        labels, wanted = (
            torch.arange(sum(map(len, part))) < len(part[0]) for part in (fitted, kept)
        )
        rows, others = (torch.cat(part).double().transpose(0, 1) for part in (fitted, kept))
        fit = fit_logistic(rows @ rows.mT, labels, c=1.0)
        products = others @ rows.mT
        scores = (products @ fit.dual[..., None])[..., 0] + fit.intercept[:, None]
        right = (scores > 0) == wanted
        losses = F.softplus(torch.where(wanted, -scores, scores))
        return right.double().mean(1), losses.mean(1)

    def _learned(
        self,
        lm: BaseLM,
        heads: Heads,
        concepts: Sequence[ConceptExamples],
        found: Sequence["Chosen"],
        flops: int,
        started: float,
    ) -> Learned:
        size = max(1, round(self.share * lm.depth * heads.count))
        none = (
            torch.zeros(0, size, dtype=torch.long),
            torch.zeros(0, size, heads.width),
            torch.zeros(0, size),
        )
        whole = Chosen(*(map(torch.stack, zip(*found, strict=True)) if found else none))
        return Learned(
            tensors={
                **whole._asdict(),
                "ids": ids_of(concepts),
            },
            cost=Cost.of_each(
                len(concepts),
                started=started,
                parameters=size * heads.width,
                flops=flops,
            ),
        )


class Chosen(NamedTuple):
    """The K heads of a concept.

    Attributes:
        heads: their numbers [K], block times H plus head, best first.
        shifts: of their outputs at strength 1 [K, W].
        accuracies: of their probes on texts they were not fitted to [K].
    """

    heads: Tensor
    shifts: Tensor
    accuracies: Tensor
