"""What is analysed: a checkpoint, concepts to steer towards, base prompts to steer."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hypersteer.concepts import Concept, rank_ids, validate_steering_prompt
from hypersteer.config.analysis import MOST_EDITS, AnalysisConfig
from hypersteer.data.sources import ConceptData
from hypersteer.errors import ConfigError
from hypersteer.hypernet.card import Card
from hypersteer.lm.messages import prompted
from hypersteer.steering import Steerer

FEW, MANY = 10, 500
"""Concepts by default, where edits depend on the base prompt (as in the paper), and otherwise."""
LEAST = 2
"""Concepts, so that there is something to compare."""
STEERED = 3
"""Steering prompts that are looked at one by one, by default."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Subject:
    """What is analysed.

    Attributes:
        name: how figures call the checkpoint.
        steerer: the checkpoint on its base LM.
        data: where concepts and prompts are from.
        concepts: those whose edits are compared.
        prompts: base prompts, no two the same.
        steer: steering prompts that are looked at one by one.
    """

    name: str
    steerer: Steerer
    data: ConceptData
    concepts: list[Concept]
    prompts: list[str]
    steer: list[str]

    def said(self, prompt: str, text: str) -> str:
        """Return a base prompt as the checkpoint's edits want it: with the words, or without."""
        return prompted(prompt, text) if self.steerer.card.prompted else prompt


def reads_prompts(card: Card) -> bool:
    """Return whether edits depend on the base prompt."""
    return card.hypernet.variant != "no-context"


def choose_concepts(data: ConceptData, config: AnalysisConfig, *, depends: bool) -> list[Concept]:
    """Return the concepts whose edits are compared, in a seeded order; fewer are a part of more.

    Args:
        data: where they are from.
        config: how many.
        depends: whether edits depend on the base prompt.

    Raises:
        ConfigError: if there are too few to compare, or too many edits.
    """
    copies = config.prompts if depends else 1
    wanted = config.concepts or (FEW if depends else MANY)
    chosen = rank_ids([concept.id for concept in data.concepts], config.seed)[:wanted]
    if len(chosen) < LEAST:
        raise ConfigError(
            f"{data.name} has {len(chosen)} concept, and at least {LEAST} are compared; add to data"
        )
    if len(chosen) * copies > MOST_EDITS:
        raise ConfigError(
            f"{len(chosen)} concepts times {copies} prompts are {len(chosen) * copies:,} edits, "
            f"more than the {MOST_EDITS:,} that are laid out at once; lower concepts or prompts"
        )
    by_id = {concept.id: concept for concept in data.concepts}
    return [by_id[id_] for id_ in chosen]


def choose_prompts(data: ConceptData, config: AnalysisConfig) -> list[str]:
    """Return base prompts of the data, no two the same, in a seeded order.

    Raises:
        ConfigError: if there are fewer than wanted.
    """
    rows = np.concatenate([data.rows(concept.id) for concept in data.concepts])
    order = np.random.default_rng(config.seed).permutation(rows)
    found = list(dict.fromkeys(data.prompts(order)))
    if len(found) < config.prompts:
        raise ConfigError(
            f"{data.name} has {len(found)} base prompts, and {config.prompts} are wanted; lower "
            "prompts, or add to data"
        )
    return found[: config.prompts]


def choose_steering(card: Card, concepts: Sequence[Concept], given: Sequence[str]) -> list[str]:
    """Return the steering prompts that are looked at: those given, or a few never trained on.

    Raises:
        SteeringError: for one that cannot steer.
    """
    if given:
        return [validate_steering_prompt(text) for text in given]
    unseen = [one.text for one in concepts if one.text not in card.concepts]
    listed = [*card.held_out, *unseen, *(one.text for one in concepts)]
    return list(dict.fromkeys(listed))[:STEERED]
