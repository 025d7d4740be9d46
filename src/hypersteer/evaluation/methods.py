"""Every method by name: baselines, and checkpoints of hypernetworks."""

import dataclasses
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from hypersteer.baselines.method import Asked, ConceptExamples, Done, Learned, Method, Steering
from hypersteer.config import EvaluateConfig, from_dict
from hypersteer.edits import Site
from hypersteer.errors import CheckpointError, ConfigError, SteeringError, nearest
from hypersteer.evaluation.hypernets import Hypersteer, checkpoint_label
from hypersteer.evaluation.rows import UNSTEERED
from hypersteer.lm.base import BaseLM

METHODS = {
    "prompting": "hypersteer.baselines.prompting:Prompting",
    "prompting-rewritten": "hypersteer.baselines.prompting:RewrittenPrompting",
    "reft-r1": "hypersteer.baselines.reft_r1:ReftR1",
    "diffmean": "hypersteer.baselines.diffmean:DiffMean",
    "random": "hypersteer.baselines.random:Random",
}
"""Where each method is; adding one is a file in `hypersteer.baselines` and a line here."""


@dataclass(frozen=True, slots=True)
class Unsteered:
    """The base LM as it is: what side effects are measured against."""

    learns: ClassVar[bool] = False
    scales: ClassVar[bool] = False

    def fit(
        self, lm: BaseLM, site: Site, concepts: Sequence[ConceptExamples], done: Done | None = None
    ) -> Learned:
        """Learn nothing."""
        del lm, site, concepts, done
        return Learned()

    def steer(self, lm: BaseLM, site: Site, learned: Learned, asked: Sequence[Asked]) -> Steering:
        """The base prompts as they are."""
        del site, learned
        return Steering(lm, [one.prompt for one in asked], [])


def make_methods(config: EvaluateConfig) -> dict[str, Method]:
    """The methods of an evaluation by the names that reports use, `unsteered` first.

    Raises:
        ConfigError: for an unknown method or setting, or two methods of one name.
        CheckpointError: for a folder that is no checkpoint.
    """
    methods: dict[str, Method] = {UNSTEERED: Unsteered()}
    for name in config.methods:
        label = name if name in METHODS else checkpoint_label(name)
        if label in methods:
            raise ConfigError(f"methods names '{label}' twice; rename one checkpoint's folder")
        methods[label] = _make(name, config.settings.get(name, {}))
    unused = sorted(set(config.settings) - set(config.methods))
    if unused:
        raise ConfigError(f"settings.{unused[0]} is for no method{nearest(unused[0], methods)}")
    if config.compare_to not in methods:
        known = nearest(config.compare_to, methods)
        raise ConfigError(f"compare_to '{config.compare_to}' is not evaluated{known}")
    return methods


def recipe(method: Method) -> dict[str, Any]:
    """What makes a method what it is: answers of another recipe are answers of another method."""
    if isinstance(method, Hypersteer):
        return method.recipe()
    return {
        field.name: value
        for field in dataclasses.fields(method)  # type: ignore[arg-type]
        if not callable(value := getattr(method, field.name))
    }


def _make(name: str, settings: dict[str, Any]) -> Method:
    if name in METHODS:
        module, kind = METHODS[name].split(":")
        return from_dict(
            getattr(importlib.import_module(module), kind), settings, f"settings.{name}"
        )
    try:
        method = Hypersteer(name)
    except CheckpointError as error:
        raise ConfigError(
            f"'{name}' is neither a method{nearest(name, METHODS)} nor a checkpoint: {error}"
        ) from error
    if settings:
        raise ConfigError(f"settings.{name}: a checkpoint has no settings of its own here")
    return method


def check_split(
    methods: dict[str, Method], held_in: Sequence[str], held_out: Sequence[str]
) -> None:
    """Refuse checkpoints that were trained on other concepts than those held in here.

    Raises:
        SteeringError: naming the checkpoint and the concept.
    """
    for name, method in methods.items():
        if not isinstance(method, Hypersteer):
            continue
        learnt = set(method.card.concepts)
        wrong = [("was trained on", text, "out") for text in held_out if text in learnt]
        wrong += [("never saw", text, "in") for text in held_in if text not in learnt]
        if wrong:
            did, text, where = wrong[0]
            raise SteeringError(
                f"'{name}' {did} '{text}', which is held {where} here; use the data.source, "
                "data.held_out_concepts, data.max_concepts and seed that it was trained with"
            )
