"""Integrated gradients and input times gradient: detection by what a classifier looks at.

A classifier reads the base LM's last state of a text. Where its answer depends on the states at a
site, say the methods, the concept is. Shapes: K concepts, B texts, T tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from hypersteer.concepts import Concept
from hypersteer.data.schema import Example
from hypersteer.edits.sites import Site
from hypersteer.errors import ConfigError
from hypersteer.learning.corpus import after_prefix, batch_of, check_fields, checked_texts
from hypersteer.learning.values import ConceptExamples, Done, Learned
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import TokenBatch, length_batches
from hypersteer.lm.hooks import at_sites
from hypersteer.methods.classifier import Classifier, Training, classifier_of, last_states, learn

TOGETHER = 16
"""Concepts whose attributions are held at a time."""


class Path(NamedTuple):
    """Where gradients are taken: at `baseline + point * (h - baseline)` for each point.

    Attributes:
        baseline: [D].
        points: shares of the way from the baseline to the states.
    """

    baseline: Tensor
    points: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class InputXGradient:
    """Input times gradient (IxG) of a concept classifier, absolute sums per token; detects only.

    Source: AxBench (arXiv 2501.17148), section 4 and its published settings for Gemma-2-2B: a
    frozen base LM, and on the last token's state after the final norm a head (D to D/2 to 2, ReLU,
    dropout) trained on positives and negatives. A token's score is the sum over dimensions of
    `|h * gradient|` at the site, a text's the maximum over its tokens after the chat prefix. Such
    scores tell where in a text a classifier looks, less whether it found anything: where it is
    sure, gradients are small, and AxBench reports areas below one half.

    Deviations from AxBench: its loss takes the softmax twice (cross-entropy of probabilities), here
    once; what is attributed are the log odds, whose gradient does not vanish where the classifier
    is sure; one batch of 36 stands for two of 18 whose gradients are added.

    Attributes:
        batch_size: texts of a training step.
        epochs: passes over a concept's texts, reshuffled each time.
        learning_rate: at the first step, of AdamW; 0 after the last.
        weight_decay: of AdamW.
        dropout: share of the head's hidden units left out in training.
        seed: of start, shuffles and dropout, with the concept's id.
        batch_tokens: most tokens of a forward pass, padding included.
    """

    learns: ClassVar[bool] = True

    batch_size: int = 36
    epochs: int = 24
    learning_rate: float = 4e-4
    weight_decay: float = 2e-4
    dropout: float = 0.3
    seed: int = 42
    batch_tokens: int = 2048

    def __post_init__(self) -> None:
        check_fields(self)
        _training(self).check()

    def fit(
        self, lm: BaseLM, site: Site, concepts: Sequence[ConceptExamples], done: Done | None = None
    ) -> Learned:
        """Train a classifier for each concept.

        Raises:
            DataError: if a concept has no positive or no negative rows.
        """
        return learn(lm, site, concepts, _training(self), self.batch_tokens, done)

    def detect(
        self,
        lm: BaseLM,
        site: Site,
        learned: Learned,
        concepts: Sequence[Concept],
        texts: Sequence[Example],
    ) -> Float[Tensor, "K N"]:
        """Return the largest attribution to a token.

        Raises:
            SteeringError: for a concept that was not learnt, or a text that does not fit the
                context window.
        """
        classifiers = [classifier_of(learned, concept) for concept in concepts]
        path = Path(torch.zeros(lm.width), [1.0])
        return detect(lm, site, classifiers, texts, path, self.batch_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegratedGradients:
    """Integrated gradients (IG) of a concept classifier, absolute sums per token; detects only.

    Source: Sundararajan, Taly and Yan, 2017 (arXiv 1703.01365), as AxBench uses it; classifier and
    scores are those of `InputXGradient`. The gradient is averaged over the straight path from a
    baseline to the states, at the midpoints of equal steps, and multiplied by their difference.

    Deviations from AxBench, beside those of `InputXGradient`: its baseline is a mean of random
    token embeddings, which are no states of a layer halfway up; here it is the mean state of all
    training texts at the site. The chat prefix stays as it is on the whole path.

    Attributes:
        steps: points of the path. AxBench takes 50, and 5 for its larger model; detection costs a
            forward pass of the base LM for each, and a backward pass for each and each concept.
        batch_size: this one and all below as in `InputXGradient`.
    """

    learns: ClassVar[bool] = True

    steps: int = 50
    batch_size: int = 36
    epochs: int = 24
    learning_rate: float = 4e-4
    weight_decay: float = 2e-4
    dropout: float = 0.3
    seed: int = 42
    batch_tokens: int = 2048

    def __post_init__(self) -> None:
        check_fields(self)
        _training(self).check()
        if self.steps < 1:
            raise ConfigError(f"steps {self.steps} is not above 0; try 50")

    def fit(
        self, lm: BaseLM, site: Site, concepts: Sequence[ConceptExamples], done: Done | None = None
    ) -> Learned:
        """Train a classifier for each concept.

        Raises:
            DataError: if a concept has no positive or no negative rows.
        """
        return learn(lm, site, concepts, _training(self), self.batch_tokens, done)

    def detect(
        self,
        lm: BaseLM,
        site: Site,
        learned: Learned,
        concepts: Sequence[Concept],
        texts: Sequence[Example],
    ) -> Float[Tensor, "K N"]:
        """Return the largest attribution to a token.

        Raises:
            SteeringError: for a concept that was not learnt, or a text that does not fit the
                context window.
        """
        classifiers = [classifier_of(learned, concept) for concept in concepts]
        points = [(step + 0.5) / self.steps for step in range(self.steps)]
        path = Path(learned.tensors["baseline"], points)
        return detect(lm, site, classifiers, texts, path, self.batch_tokens)


def _training(method: InputXGradient | IntegratedGradients) -> Training:
    """Return how a method's classifiers are trained, by its fields."""
    return Training(*(getattr(method, name) for name in Training._fields))


def detect(
    lm: BaseLM,
    site: Site,
    classifiers: Sequence[Classifier],
    texts: Sequence[Example],
    path: Path,
    batch_tokens: int,
) -> Float[Tensor, "K N"]:
    """Return the largest absolute attribution to a token of each text, by each classifier.

    Raises:
        SteeringError: for a text that does not fit the context window.
    """
    tokens = checked_texts(lm, texts)
    scores = torch.zeros(len(classifiers), len(tokens))
    for part in length_batches([text.size for text in tokens], tokens=batch_tokens):
        batch = batch_of(lm, [tokens[number] for number in part])
        marks = after_prefix(batch.spans)
        for first in range(0, len(classifiers), TOGETHER):
            group = [one.to(lm.device) for one in classifiers[first : first + TOGETHER]]
            found = attributions(lm, site, batch, group, path).abs().sum(-1)
            highest = found.masked_fill(~marks, -torch.inf).amax(-1).cpu()
            scores[first : first + TOGETHER, part] = highest
    return scores


def attributions(
    lm: BaseLM, site: Site, batch: TokenBatch, classifiers: Sequence[Classifier], path: Path
) -> Float[Tensor, "K B T D"]:
    """Return the mean gradient of each concept's log odds along the path, times `h - baseline`.

    It is 0 on chat prefix and padding, which keep their states. All concepts share the forward
    passes; nothing below the site is differentiated.
    """
    with torch.no_grad():
        states = lm.states(batch, site)
    marks = after_prefix(batch.spans)[..., None]
    distance = (states - path.baseline.to(states)) * marks
    total = torch.zeros(len(classifiers), *states.shape, device=states.device)
    for point in path.points:
        held = (states - (1 - point) * distance).detach().requires_grad_()
        with torch.enable_grad(), at_sites(lm.blocks, [(site, lambda _, held=held: held)]):
            last = last_states(lm, batch)
            for number, classifier in enumerate(classifiers):
                odds = classifier.log_odds(last).sum()
                (gradient,) = torch.autograd.grad(odds, held, retain_graph=True)
                total[number] += gradient.float()
    return total * distance.float() / len(path.points)
