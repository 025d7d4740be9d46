"""Hypernetworks as a method among the others: one checkpoint steers towards every concept."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from hypersteer.checkpoint import find_checkpoint, generator_hash
from hypersteer.config import SiteConfig, TrainConfig, from_dict
from hypersteer.edits.sites import Site
from hypersteer.engine.requests import as_request
from hypersteer.errors import ConfigError
from hypersteer.hypernet.card import Card, read_card
from hypersteer.hypernet.step_flops import RowLengths, StepShape, as_contrasted, run_flops
from hypersteer.learning.values import Asked, ConceptExamples, Cost, Done, Learned, Steering
from hypersteer.lm.base import BaseLM
from hypersteer.lm.messages import prompted
from hypersteer.steering import Steerer, load

SAMPLE = 8
"""Rows of each concept that the mean cost of a training step is taken over."""


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
        flops = training_flops(self.card, lm, concepts) / share
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


def training_flops(card: Card, lm: BaseLM, concepts: Sequence[ConceptExamples]) -> float:
    """Count the operations of the whole training run, for rows like these concepts'.

    A step is taken to be the mean over these rows, sorted by length as in training, each beside the
    concept that follows its own as a wrong one. What ran before the first step (the base LM's own
    answers) and validation are left out. 0 where the checkpoint does not say how it was trained in
    words that this version knows.
    """
    if "optim" not in card.training:
        return 0.0
    try:
        config = replace(from_dict(TrainConfig, card.training), hypernet=card.hypernet)
    except ConfigError:  # of a later version
        return 0.0
    site = SiteConfig(layer=card.site.layer, kind=card.site.kind)
    shape = StepShape.of(replace(config, site=site), lm)
    rows = _rows(lm, config, concepts)
    if not rows:
        return 0.0
    size = min(len(rows), config.optim.batch_size)
    steps = [
        as_contrasted(rows[start : start + size], config.loss)
        for start in range(0, len(rows) - size + 1, size)
    ]
    mean = run_flops(replace(shape, parts=1), steps).total / len(steps)
    return mean * config.optim.batch_size / size * card.step


def _rows(lm: BaseLM, config: TrainConfig, concepts: Sequence[ConceptExamples]) -> list[RowLengths]:
    """Return the lengths of some of these concepts' rows, the shortest first."""
    chat, most, found = lm.chat, config.data.max_response_tokens, []
    texts = [entry.concept.text for entry in concepts]
    for number, entry in enumerate(concepts):
        pair = texts[number], texts[(number + 1) % len(texts)]
        right, wrong = (len(chat.text(text)) for text in pair)
        for example in entry.positives[:SAMPLE]:
            plain = chat.prompt(example.prompt)
            told = len(chat.prompt(prompted(example.prompt, pair[0])).ids)
            response = chat.response(example.response, ends=example.complete)
            tokens = min(len(response), most)
            found.append(
                RowLengths(
                    prompt=told if config.loss.prompted else len(plain.ids),
                    response=tokens,
                    steering=right,
                    wrong=wrong,
                    prefix=plain.prefix,
                    plain=len(plain.ids),
                    prompted=told,
                    own=most,
                    texts=pair,
                )
            )
    return sorted(found, key=lambda row: row.prompt + row.response)
