"""Fit a condition or a behaviour vector from contrastive texts, and test a condition on others."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from hypersteer.conditions.checks import check_condition
from hypersteer.conditions.condition import Condition
from hypersteer.conditions.contrasts import ContrastText, Fold, Watch, make_folds, read_states
from hypersteer.conditions.directions import Directions, check_counts, find_directions, side_scales
from hypersteer.conditions.score import score
from hypersteer.conditions.search import Point, check_combinations, describe, find_point
from hypersteer.config.conditions import ConditionConfig, Contrast
from hypersteer.config.reading import check_choice
from hypersteer.edits.edit import Edit, VectorEdit
from hypersteer.edits.sites import Scope, Site, check_scope
from hypersteer.errors import ConfigError
from hypersteer.lm.base import BaseLM
from hypersteer.lm.pooling import TokenPooling

FIGURES = ("auroc", "f1", "precision", "recall", "false_positives", "margin")


class Measured(NamedTuple):
    """How a condition does on texts.

    Attributes:
        metrics: AUROC, F1, precision, recall, share of false positives, and margin.
        positives: scores of the texts that should fire, in the order given.
        negatives: scores of the others.
    """

    metrics: dict[str, float]
    positives: list[float]
    negatives: list[float]


def fit_condition(
    lm: BaseLM,
    positives: Sequence[ContrastText],
    negatives: Sequence[ContrastText],
    *,
    name: str = "condition",
    config: ConditionConfig | None = None,
    watch: Watch | None = None,
) -> Condition:
    """Learn a condition from prompts in and off its topic.

    States at all layers are read in one pass over each batch. Layers, threshold and direction of
    comparison are chosen on held-out scores: the prompts are dealt into folds, and each fold is
    scored by directions learnt from the others. The directions that are kept are learnt from all.
    The metrics kept with them are those of the held-out scores, which chose the point and so are a
    little too kind: test the condition on prompts of their own.

    Args:
        lm: the base LM.
        positives: prompts that it should fire for.
        negatives: prompts that it should not fire for; equally many make pairs with the positives.
        name: what it is about.
        config: how to fit; by default `ConditionConfig()`.
        watch: told how many prompts of how many have been read.

    Raises:
        DataError: if there are too few prompts, or they cannot be told apart.
        ConfigError: if a layer is not there, or too many combinations are wanted.
        SteeringError: for a prompt that is empty or too long.
    """
    config = ConditionConfig() if config is None else config
    layers = tuple(lm.site(layer).layer for layer in config.layers) or tuple(range(lm.depth))
    check_counts(len(positives), len(negatives), config.method)
    check_combinations(len(layers), config.max_layers)
    folds = make_folds(len(positives), len(negatives), config.folds, config.seed)
    states = read_states(
        lm,
        [*positives, *negatives],
        layers,
        config.pooling,
        batch_tokens=config.batch_tokens,
        watch=watch,
    )
    above, below = states.split([len(positives), len(negatives)])
    learnt = _learn(above, below, config)
    point = find_point(
        _held_out_scores(above, below, folds, config),
        _labels(len(positives), len(negatives)),
        max_layers=config.max_layers,
        false_positives=config.false_positives,
    )
    return Condition(
        name=name,
        directions=learnt.directions.vectors,
        means=learnt.means,
        scales=learnt.scales,
        fitted=layers,
        layers=tuple(layers[column] for column in point.columns),
        threshold=point.threshold,
        fires=point.fires,
        scorer=config.scorer,
        pooling=config.pooling,
        explained=tuple(round(float(share), 6) for share in learnt.directions.explained),
        base_lm=str(lm.identity),
        metrics={**_metrics(point), "positives": len(positives), "negatives": len(negatives)},
        note=f"{config.method} contrast of {len(positives)} and {len(negatives)} prompts",
    )


class _Learnt(NamedTuple):
    """What scores are made of.

    Attributes:
        directions: of states divided by the scales.
        means: midpoints of the sides, of states as they are, [L, D].
        scales: [L, D], or None for states as they are.
    """

    directions: Directions
    means: Tensor
    scales: Tensor | None


def _learn(
    above: Float[Tensor, "P L D"], below: Float[Tensor, "N L D"], config: ConditionConfig
) -> _Learnt:
    """Find the directions of all layers; the published score has no scales."""
    if config.scorer == "legacy":
        found = find_directions(above, below, config.method)
        return _Learnt(found, found.means, None)
    scales = side_scales(above, below)
    found = find_directions(above / scales, below / scales, config.method)
    return _Learnt(found, found.means * scales, scales)


@torch.no_grad()
def _held_out_scores(
    above: Float[Tensor, "P L D"],
    below: Float[Tensor, "N L D"],
    folds: Sequence[Fold],
    config: ConditionConfig,
) -> Float[Tensor, "M L"]:
    """Score all texts, positives first, each by directions learnt from the other folds."""
    scores = (torch.zeros(above.shape[:2]), torch.zeros(below.shape[:2]))
    for fold in folds:
        kept = [
            torch.tensor([place for place in range(len(side)) if place not in set(held)])
            for side, held in zip((above, below), fold, strict=True)
        ]
        learnt = _learn(above[kept[0]], below[kept[1]], config)
        parts = (learnt.directions.vectors, learnt.means, config.scorer, learnt.scales)
        for side, held, into in zip((above, below), fold, scores, strict=True):
            into[held] = score(side[held], *parts)
    return torch.cat(scores)


@torch.no_grad()
def condition_scores(
    lm: BaseLM,
    condition: Condition,
    texts: Sequence[ContrastText],
    *,
    batch_tokens: int = 2048,
    watch: Watch | None = None,
) -> Float[Tensor, " N"]:
    """Score prompts by a condition.

    Raises:
        SteeringError: if it is not for this base LM, or a prompt is empty or too long.
    """
    check_condition(lm, condition)
    layers = [layer % lm.depth for layer in condition.layers]
    states = read_states(
        lm, texts, layers, condition.pooling, batch_tokens=batch_tokens, watch=watch
    )
    return condition.score(dict(zip(condition.layers, states.unbind(1), strict=True)))


def measure_condition(
    lm: BaseLM,
    condition: Condition,
    positives: Sequence[ContrastText],
    negatives: Sequence[ContrastText],
    *,
    watch: Watch | None = None,
) -> Measured:
    """Measure a condition, with its threshold, on prompts in and off its topic.

    Raises:
        ConfigError: if a side is empty.
        SteeringError: if it is not for this base LM, or a prompt is empty or too long.
    """
    if not positives or not negatives:
        raise ConfigError("a condition is tested on prompts in and off its topic; give both")
    scores = condition_scores(lm, condition, [*positives, *negatives], watch=watch)
    labels = _labels(len(positives), len(negatives))
    point = describe(scores, labels, (), condition.threshold, condition.fires)
    values = scores.tolist()
    return Measured(_metrics(point), values[: len(positives)], values[len(positives) :])


def fit_behaviour(
    lm: BaseLM,
    positives: Sequence[ContrastText],
    negatives: Sequence[ContrastText],
    *,
    layer: int | None = None,
    method: Contrast = "paired",
    pooling: TokenPooling = "response",
    scope: Scope = "all",
    name: str = "behaviour",
) -> Edit:
    """Learn a steering vector from texts that show a behaviour and texts that do not.

    CAST's recipe: the same prompts on both sides, with responses that begin in the wanted and in
    the opposite way, pooled over the response. CAST adds a unit vector; here the vector is as long
    as the two sides lie apart along it, so that strength 1 is about the difference between them
    whatever the model. CAST adds it one block late; here it acts where it was read.

    Args:
        lm: the base LM.
        positives: prompts with responses, or prompts where `pooling` is not `response`.
        negatives: likewise without the behaviour; pairs with the positives where equally many.
        layer: block at whose output it is read and acts; by default 40 % of the way up.
        method: see `find_directions`.
        pooling: which tokens are averaged.
        scope: which tokens the edit touches.
        name: its steering prompt, or another note.

    Raises:
        DataError: if there are too few texts, or they do not differ.
        ConfigError: for an unknown method, pooling or scope.
        SteeringError: for a text that is empty, too long, or has no tokens to pool.
    """
    site: Site = lm.site(layer)
    check_choice("method", method, Contrast)
    check_choice("pooling", pooling, TokenPooling)
    check_scope(scope)
    check_counts(len(positives), len(negatives), method)
    states = read_states(lm, [*positives, *negatives], [site.layer], pooling)
    found: Directions = find_directions(states[: len(positives)], states[len(positives) :], method)
    return VectorEdit(
        vector=found.vectors[0] * found.gaps[0].abs(),
        site=site,
        scope=scope,
        base_lm=str(lm.identity),
        steering_prompt=name,
    )


def _labels(positives: int, negatives: int) -> Tensor:
    return torch.arange(positives + negatives) < positives


def _metrics(point: Point) -> dict[str, float]:
    return {name: round(float(getattr(point, name)), 6) for name in FIGURES}
