"""Steer and detect with what a method learnt: one dispatch on the kind of it.

A method whose `Learned` is of a shared kind has these functions as its own, so that a baseline is
one file with its hyperparameters and its `fit`. Adding a kind is a module beside this one and an
entry of `KINDS`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

from hypersteer.concepts import Concept
from hypersteer.data.schema import Example
from hypersteer.edits.sites import Site
from hypersteer.errors import SteeringError
from hypersteer.learning import sae_features, vectors
from hypersteer.learning.values import Asked, Kind, Learned, Steering
from hypersteer.lm.base import BaseLM


class Shared(NamedTuple):
    """How a kind steers and detects, whichever method learnt it.

    Attributes:
        steer: as `Method.steer` in `hypersteer.methods.protocol`.
        detect: as `Detector.detect` there.
        tensor: a tensor that `Learned.tensors` holds for this kind only.
        settings: hyperparameters that are among `Learned.notes`.
    """

    steer: Callable[[BaseLM, Site, Learned, Sequence[Asked]], Steering]
    detect: Callable[[BaseLM, Site, Learned, Sequence[Concept], Sequence[Example]], Tensor]
    tensor: str
    settings: tuple[str, ...]


KINDS: dict[Kind, Shared] = {
    "directions": Shared(vectors.steer, vectors.detect, "directions", ("scopes",)),
    "features": Shared(sae_features.steer, sae_features.detect, "features", ("dictionary", "mode")),
}


def steer(lm: BaseLM, site: Site, learned: Learned, asked: Sequence[Asked]) -> Steering:
    """Return how to steer towards these concepts on these prompts.

    Raises:
        SteeringError: for a concept that was not learnt, or a kind that only its method can apply.
    """
    return _shared(learned).steer(lm, site, learned, asked)


def detect(
    lm: BaseLM, site: Site, learned: Learned, concepts: Sequence[Concept], texts: Sequence[Example]
) -> Float[Tensor, "K N"]:
    """Return how much of each of K concepts each of N texts shows.

    Raises:
        SteeringError: for a concept that was not learnt, a kind that only its method can apply, or
            a text that does not fit the context window.
    """
    return _shared(learned).detect(lm, site, learned, concepts, texts)


def of_earlier_version(learned: Learned, settings: Mapping[str, Any]) -> Learned:
    """Complete what was kept before `Learned` had a kind.

    Args:
        learned: tensors, notes and cost as they were kept.
        settings: hyperparameters of the method that learnt it.
    """
    for kind, shared in KINDS.items():
        if shared.tensor in learned.tensors:
            missing = {name: settings[name] for name in shared.settings if name in settings}
            return replace(learned, kind=kind, notes={**missing, **learned.notes})
    return learned


def _shared(learned: Learned) -> Shared:
    if learned.kind not in KINDS:
        raise SteeringError(
            f"what was learnt is of kind '{learned.kind}', which only the method that learnt it "
            "can apply"
        )
    return KINDS[learned.kind]
