"""Every method by name: baselines, and checkpoints of hypernetworks."""

import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from hypersteer.concepts import text_key
from hypersteer.config import EvaluateConfig, from_dict
from hypersteer.edits.sites import Site
from hypersteer.errors import CheckpointError, ConfigError, SteeringError, nearest
from hypersteer.learning.values import Asked, ConceptExamples, Done, Learned, Steering
from hypersteer.lm.base import BaseLM
from hypersteer.methods.hypernetwork import Hypersteer, checkpoint_label
from hypersteer.methods.prompting import Prompting
from hypersteer.methods.protocol import Adapts, Learner, can_steer
from hypersteer.methods.together import Together

UNSTEERED = "unsteered"
"""Name of the plain base LM among the methods; side effects are measured against it."""

METHODS = {
    "prompting": "hypersteer.methods.prompting:Prompting",
    "prompting-system": "hypersteer.methods.prompting:SystemPrompting",
    "prompting-few-shot": "hypersteer.methods.prompting:FewShotPrompting",
    "prompting-rewritten": "hypersteer.methods.prompting:RewrittenPrompting",
    "reft-r1": "hypersteer.methods.reft_r1:ReftR1",
    "loreft": "hypersteer.methods.loreft:Loreft",
    "lora": "hypersteer.methods.lora:Lora",
    "sft": "hypersteer.methods.finetuning:FineTuning",
    "ssv": "hypersteer.methods.ssv:Ssv",
    "diffmean": "hypersteer.methods.diffmean:DiffMean",
    "pca": "hypersteer.methods.pca:Pca",
    "lat": "hypersteer.methods.lat:Lat",
    "probe": "hypersteer.methods.probe:LinearProbe",
    "mass-mean": "hypersteer.methods.mass_mean:MassMean",
    "caa": "hypersteer.methods.caa:Caa",
    "actadd": "hypersteer.methods.actadd:ActAdd",
    "iti": "hypersteer.methods.iti:Iti",
    "ig": "hypersteer.methods.gradients:IntegratedGradients",
    "ixg": "hypersteer.methods.gradients:InputXGradient",
    "bag-of-words": "hypersteer.methods.bag_of_words:BagOfWords",
    "random": "hypersteer.methods.random:Random",
    "sae": "hypersteer.methods.sae:Sae",
    "sae-a": "hypersteer.methods.sae:SaeA",
}
"""Where each method is; adding one is a file in `hypersteer.methods` and a line here."""


SAID = ("prompting", "prompting-system", "prompting-few-shot")
"""Ways of prompting that may go together with an edit, as `prompting+actadd`."""
ALONE = "alone"
"""Before a checkpoint that was learnt beside the prompt, `alone+runs/beside`: only its edits."""
BESIDE = "+"


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
        """Return the base prompts as they are."""
        del site, learned
        return Steering(lm, [one.prompt for one in asked], [])


def make_methods(config: EvaluateConfig) -> dict[str, Learner]:
    """Make the methods of an evaluation by the names that reports use, `unsteered` first.

    Raises:
        ConfigError: for an unknown method or setting, two methods of one name, or a method that
            only detects where it is to be compared with or nothing is detected.
        CheckpointError: for a folder that is no checkpoint.
    """
    methods: dict[str, Learner] = {UNSTEERED: Unsteered()}
    for name in config.methods:
        label = _label(name)
        if label in methods:
            raise ConfigError(f"methods names '{label}' twice; rename one checkpoint's folder")
        methods[label] = _make(name, config.settings)
    # A file may have settings of methods that this run leaves out.
    unknown = sorted(set(config.settings) - set(config.methods) - set(METHODS))
    if unknown:
        near = nearest(unknown[0], [*METHODS, *config.methods])
        raise ConfigError(f"settings.{unknown[0]} is for no method{near}")
    if config.compare_to not in methods:
        known = nearest(config.compare_to, methods)
        raise ConfigError(f"compare_to '{config.compare_to}' is not evaluated{known}")
    _check_detectors(config, [name for name in methods if not can_steer(methods[name])])
    return methods


def _check_detectors(config: EvaluateConfig, names: Sequence[str]) -> None:
    """Refuse methods that only detect where they would have nothing to do."""
    if config.compare_to in names:
        raise ConfigError(
            f"compare_to '{config.compare_to}' only detects concepts; compare with one that steers"
        )
    if names and not config.protocol.detection:
        raise ConfigError(
            f"'{names[0]}' only detects concepts, but protocol.detection is false; set it to true, "
            "or leave the method out"
        )


def recipe(method: Learner) -> dict[str, Any]:
    """Return what makes a method what it is: with another recipe it is another method."""
    if isinstance(method, Hypersteer):
        return method.recipe()
    if isinstance(method, Together):
        return {"said": recipe(method.prompting), "edited": recipe(method.edited)}
    return {
        field.name: value
        for field in dataclasses.fields(method)  # type: ignore[arg-type]
        if not callable(value := getattr(method, field.name))
    }


def _parts(name: str) -> tuple[str, str] | None:
    """Return what `prompting+other` names: a way of prompting, and what edits beside it.

    `alone+other` is in two parts, too.
    """
    said, plus, edited = name.partition(BESIDE)
    if name in METHODS or not plus or said not in (*SAID, ALONE):
        return None
    return said, edited


def _label(name: str) -> str:
    """Return what reports call a method."""
    if parts := _parts(name):
        return BESIDE.join((parts[0], _label(parts[1])))
    return name if name in METHODS else checkpoint_label(name)


def _make(name: str, all_settings: Mapping[str, dict[str, Any]]) -> Learner:
    if (parts := _parts(name)) and parts[0] == ALONE:
        edited = None if parts[1] in METHODS else _make(parts[1], all_settings)
        if not isinstance(edited, Together) or _parts(parts[1]) is not None:
            raise ConfigError(
                f"'{name}': '{parts[1]}' is no checkpoint that was learnt beside the prompt, so "
                f"leave out '{ALONE}{BESIDE}'"
            )
        return cast(Learner, edited.edited)
    if parts:
        said, edited = (_make(part, all_settings) for part in parts)
        if isinstance(edited, Together) and _parts(parts[1]) is None:
            edited = edited.edited  # a checkpoint that is said anyway, here in another way
        alone = isinstance(edited, (Prompting, Together, Adapts))
        if alone or not can_steer(edited) or not edited.scales:
            raise ConfigError(
                f"'{name}' joins prompting with an edit, but '{parts[1]}' makes none; name a "
                "method that adds vectors or low-rank edits, or a checkpoint"
            )
        assert isinstance(said, Prompting)
        # Whether it learns depends on its parts, so it is no attribute of the class.
        return cast(Learner, Together(said, edited))
    settings = all_settings.get(name, {})
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
    return cast(Learner, Together(Prompting(), method)) if method.card.prompted else method


def check_split(
    methods: dict[str, Learner], held_in: Sequence[str], held_out: Sequence[str]
) -> None:
    """Refuse checkpoints that were trained on other concepts than those held in here.

    Raises:
        SteeringError: naming the checkpoint and the concept.
    """
    for name, whole in methods.items():
        method = whole.edited if isinstance(whole, Together) else whole
        if not isinstance(method, Hypersteer):
            continue
        learnt = set(map(text_key, method.card.concepts))
        wrong = [("was trained on", text, "out") for text in held_out if text_key(text) in learnt]
        wrong += [("never saw", text, "in") for text in held_in if text_key(text) not in learnt]
        if wrong:
            did, text, where = wrong[0]
            raise SteeringError(
                f"'{name}' {did} '{text}', which is held {where} here; use the data.source, "
                "data.held_out_concepts, data.max_concepts and seed that it was trained with"
            )
