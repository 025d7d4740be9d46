"""Two steering prompts at once, and strengths from -2 to 2: what becomes of each one's effect.

A row is an answer that shows a concept (from the data), after its plain base prompt. What is
measured is its mean loss in nats per token under edits; an edit's effect is how far it brings the
loss below that of the unsteered model. Where a checkpoint's edits were learnt beside prompts that
say the steering prompt, the prompt says the row's own in every reading, so that what is measured is
the edits alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from hypersteer.analysis.edit_vectors import edit_vectors
from hypersteer.analysis.geometry import unit_rows
from hypersteer.analysis.subject import Subject
from hypersteer.config.analysis import AnalysisConfig
from hypersteer.data.schema import Example
from hypersteer.edits.edit import Edit
from hypersteer.edits.edit_set import EditSet
from hypersteer.edits.registry import KINDS
from hypersteer.edits.sites import Site
from hypersteer.engine.requests import as_request
from hypersteer.lm.likelihood import response_token_losses
from hypersteer.progress import ProgressBar
from hypersteer.stats import mean

ROWS = 2
"""Answers of each concept."""
PAIRS = 24
"""Pairs of concepts, at most."""
STRENGTHS = (-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0)
SUM, SPLIT, JOINT = "sum of edits", "edits at two sites", "one joint text"
SHUFFLES = 2000
"""Orders that a rank correlation is held against."""


class Composed(NamedTuple):
    """A concept's own answers under its edit and another concept's at once.

    Attributes:
        own: the concept whose answers are read.
        other: the concept that is steered towards as well.
        cosine: of both edits' mean writes.
        plain: loss without any edit.
        alone: loss under its own edit.
        beside: loss under the other's edit only.
        forms: loss under both, by how they are put together.
    """

    own: str
    other: str
    cosine: float
    plain: float
    alone: float
    beside: float
    forms: Mapping[str, float]

    def interference(self, form: str) -> float:
        """Return what the other edit takes from the effect of the concept's own, in nats."""
        return self.forms[form] - self.alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Swing:
    """A checkpoint's edits at every strength.

    Attributes:
        strengths: ascending.
        losses: of each concept's own answers [concepts, strengths].
    """

    strengths: tuple[float, ...]
    losses: Float[ndarray, "C S"]

    @property
    def effects(self) -> Float[ndarray, "C S"]:
        """Loss less that of strength 0: below 0, the edit makes its concept's answers likelier."""
        return self.losses - self.losses[:, [self.strengths.index(0.0)]]


class Correlation(NamedTuple):
    """A rank correlation, and the share of shuffled orders with one at least as far from 0."""

    rho: float
    p: float


class Reading:
    """Losses of a few answers of some concepts under whatever steers them.

    Args:
        subject: the checkpoint and its data.
        config: how many tokens of an answer are read, and the seed.
    """

    def __init__(self, subject: Subject, config: AnalysisConfig) -> None:
        self._subject, self._most = subject, config.max_new_tokens
        data, draw = subject.data, np.random.default_rng(config.seed)
        self._rows: dict[str, list[Example]] = {}
        for concept in subject.concepts:
            rows = draw.permutation(data.rows(concept.id))[:ROWS]
            self._rows[concept.text] = data.examples(np.sort(rows))

    def prompts(self, concept: str) -> list[str]:
        """Return the prompts of a concept's rows."""
        return [self._subject.said(row.prompt, concept) for row in self._rows[concept]]

    def loss(self, concept: str, steer: Sequence[Any] | Any, strength: float = 1.0) -> float:
        """Return the mean loss of a concept's rows.

        Args:
            concept: whose answers.
            steer: what steers, as `Steerer.generate` takes it: one for all rows, or one per row.
            strength: of the edits.
        """
        steerer, lm = self._subject.steerer, self._subject.steerer.lm
        rows = self._rows[concept]
        request = as_request(lm, self.prompts(concept), steer, strength)
        ids = [lm.chat.response(row.response, ends=row.complete)[: self._most] for row in rows]
        losses = response_token_losses(lm, request.prompts, ids, steerer.writers(request))
        return mean(float(one.mean()) for one in losses)


def composed(subject: Subject, config: AnalysisConfig) -> list[Composed]:
    """Read every concept's own answers under pairs of edits, both ways round."""
    texts = [concept.text for concept in subject.concepts]
    reading = Reading(subject, config)
    cosines = edit_cosines(subject)
    alone = {text: reading.loss(text, text) for text in texts}
    plain = {text: reading.loss(text, None) for text in texts}
    pairs = list(combinations(range(len(texts)), 2))
    order = np.random.default_rng(config.seed).permutation(len(pairs))[:PAIRS]
    found = []
    with ProgressBar("composing", 2 * len(order), transient=True) as bar:
        for first, second in (pairs[number] for number in order):
            for own, other in ((first, second), (second, first)):
                one, two = texts[own], texts[other]
                both = texts[first], texts[second]
                found.append(
                    Composed(
                        own=one,
                        other=two,
                        cosine=float(cosines[own, other]),
                        plain=plain[one],
                        alone=alone[one],
                        beside=reading.loss(one, two),
                        forms=_forms(subject, reading, one, both),
                    )
                )
                bar.advance(1)
    return found


def _forms(subject: Subject, reading: Reading, own: str, both: tuple[str, str]) -> dict[str, float]:
    """Return the loss of a concept's answers under both edits, in every form."""
    prompts = reading.prompts(own)
    found = {
        SUM: reading.loss(own, [list(both)] * len(prompts)),
        JOINT: reading.loss(own, "; ".join(both)),
    }
    steerer = subject.steerer
    if steerer.card.hypernet.edit not in KINDS:
        return found  # its edits are nothing without the hypernetwork, so none can be split
    edits = [steerer.edit([text] * len(prompts), prompts) for text in both]
    split = [_split(*pair, depth=steerer.lm.depth) for pair in zip(*edits, strict=True)]
    if all(split):
        found[SPLIT] = reading.loss(own, split)
    return found


def _split(
    one: Edit | EditSet, other: Edit | EditSet, *, depth: int
) -> list[Edit | EditSet] | None:
    """Return two edits with no site in common, or None where there is no next block.

    Of edits at several sites each keeps every other one; of two at one site, the second moves to
    the next block.
    """
    if isinstance(one, EditSet) and isinstance(other, EditSet):
        return [EditSet(edits=tuple(one)[0::2]), EditSet(edits=tuple(other)[1::2])]
    first, second = cast(Edit, one), cast(Edit, other)
    if second.site.layer + 1 >= depth:
        return None
    return [first, replace(second, site=Site(second.site.layer + 1, second.site.kind))]


def edit_cosines(subject: Subject) -> Float[ndarray, "C C"]:
    """Return the cosine of every two concepts' mean writes, over all sites and base prompts."""
    texts = [concept.text for concept in subject.concepts]
    made = edit_vectors(subject.steerer, texts, subject.prompts)
    rows, owner = made.rows(), made.concept
    means = torch.stack([rows[owner == number].mean(0) for number in range(len(texts))])
    unit = unit_rows(means.numpy())
    return unit @ unit.T


def swing(subject: Subject, config: AnalysisConfig) -> Swing:
    """Read every concept's own answers under its edit at strengths from -2 to 2."""
    reading = Reading(subject, config)
    texts = [concept.text for concept in subject.concepts]
    with ProgressBar("strengths", len(texts), transient=True) as bar:
        losses = []
        for text in texts:
            losses.append([reading.loss(text, text, strength) for strength in STRENGTHS])
            bar.advance(1)
    return Swing(strengths=STRENGTHS, losses=np.array(losses))


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> Correlation:
    """Return Spearman's rank correlation of two columns, held against shuffled orders.

    Equal values have the mean of their ranks; where all are equal, rho is 0 and p is 1.
    """
    one, two = _ranks(first), _ranks(second)
    if not one.std() or not two.std():
        return Correlation(0.0, 1.0)
    rho = float(np.corrcoef(one, two)[0, 1])
    random = np.random.default_rng(0)
    shuffled = [abs(np.corrcoef(one, random.permutation(two))[0, 1]) for _ in range(SHUFFLES)]
    beyond = sum(value >= abs(rho) - 1e-12 for value in shuffled)
    return Correlation(rho, (beyond + 1) / (SHUFFLES + 1))


def _ranks(values: Sequence[float]) -> Float[ndarray, " N"]:
    """Return ranks from 0, equal values sharing the mean of theirs."""
    _, place, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts + 1) / 2)[place]
