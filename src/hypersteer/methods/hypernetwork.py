"""Hypernetworks as a method among the others: one checkpoint steers towards every concept."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from hypersteer.checkpoint import find_checkpoint, generator_hash
from hypersteer.edits.sites import Site
from hypersteer.engine.requests import as_request
from hypersteer.hypernet.card import Card, read_card
from hypersteer.learning.values import Asked, ConceptExamples, Cost, Done, Learned, Steering
from hypersteer.learning.vectors import block_parameters
from hypersteer.lm.base import BaseLM
from hypersteer.steering import Steerer, load

FORWARD, BACKWARD = 2, 2
"""Floating-point operations per weight and token: a pass forward, and one back to activations."""


class Hypersteer:
    """The hypernetwork of a checkpoint, at the site it was trained for.

    It learns nothing about a new concept. Its cost per concept is that of its training, spread over
    the concepts it was trained on (paper, section 4.4).

    Args:
        name: folder or Hub id of the checkpoint.

    Raises:
        CheckpointError: if it is no checkpoint.
    """

    learns: ClassVar[bool] = False
    scales: ClassVar[bool] = True

    def __init__(self, name: str) -> None:
        self.folder = find_checkpoint(name)
        self.card = read_card(self.folder)
        self._steerer: Steerer | None = None

    def recipe(self) -> dict[str, Any]:
        """Return what makes this method what it is."""
        return {"checkpoint": generator_hash(self.folder)}

    def fit(
        self, lm: BaseLM, site: Site, concepts: Sequence[ConceptExamples], done: Done | None = None
    ) -> Learned:
        """Learn nothing; check that the checkpoint is for this base LM, and work out its cost."""
        del site, done
        steerer = self._loaded(lm)
        weights = sum(p.numel() for p in steerer.hypernet.parameters())
        share = max(1, len(self.card.concepts))
        flops = _training_flops(self.card, lm, weights, concepts) / share
        return Learned(notes={"weights": weights}, cost=Cost(flops=flops))

    def steer(self, lm: BaseLM, site: Site, learned: Learned, asked: Sequence[Asked]) -> Steering:
        """Return the base prompts as they are, and a writer that makes the edits in the prefill."""
        del site, learned
        prompts = [one.prompt for one in asked]
        request = as_request(lm, prompts, [one.concept.text for one in asked], 1.0)
        return Steering(lm, prompts, self._loaded(lm).writers(request))

    def _loaded(self, lm: BaseLM) -> Steerer:
        if self._steerer is None or self._steerer.lm is not lm:
            self._steerer = load(self.folder, lm=lm)
        return self._steerer


def checkpoint_label(name: str) -> str:
    """Return the name of a checkpoint in reports: the last part of its path."""
    return Path(name).name or name


def _training_flops(
    card: Card, lm: BaseLM, weights: int, concepts: Sequence[ConceptExamples]
) -> float:
    """Count operations of the whole training run, for rows as long as these concepts' on average.

    Per row of T tokens: forward below the site; above it, for each of the K steering prompts,
    forward and back to activations; the hypernetwork forward, and back to activations and weights,
    on its C tokens; and in distillation the prompted teacher, with guidance the plain one too.
    """
    rows = [e for one in concepts for e in one.positives[:8]]
    if not rows or "optim" not in card.training:
        return 0.0
    lengths = [
        len(lm.chat.prompt(e.prompt).ids) + len(lm.chat.response(e.response)[:128]) for e in rows
    ]
    tokens = sum(lengths) / len(lengths)
    read = sum(len(lm.chat.text(c.concept.text)) for c in concepts) / len(concepts) + 1
    first = card.site.layer + 1
    below = block_parameters(lm, 0, first)
    above = block_parameters(lm, first, lm.depth) + lm.embeddings.weight.numel()
    optim, loss = card.training["optim"], card.training["loss"]
    copies = 2 if loss["contrast"] else 1
    taught = loss.get("objective") == "distillation"
    teachers = (2 if loss.get("guidance") else 1) if taught else 0
    row = (
        FORWARD * below * tokens
        + copies * (FORWARD + BACKWARD) * above * tokens
        + copies * 3 * FORWARD * weights * read
        + teachers * FORWARD * (below + above) * tokens
    )
    return row * optim["batch_size"] * card.step
