"""Conditions with the settings that CAST publishes (arXiv 2409.05907)."""

import re
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from hypersteer.conditions.condition import Condition
from hypersteer.errors import ConfigError, SteeringError, nearest, shown
from hypersteer.tensor_files import real_tensor
from hypersteer.values import as_whole


def cast_condition(
    vectors: Mapping[int, Sequence[float] | Tensor] | Mapping[str, Sequence[float]],
    *,
    layers: Sequence[int],
    threshold: float,
    comparator: Literal["larger", "smaller"],
    mode: Literal["mean", "last"] = "mean",
    name: str = "cast",
    base_lm: str = "",
) -> Condition:
    """Return a condition with the settings that CAST publishes, in CAST's own numbering.

    CAST measures at the *input* of its condition layer, so its layer L with vector L is read here
    at the output of block L - 1. Its comparator describes the threshold: `larger` fires where the
    threshold is larger than the score.

    Args:
        vectors: vectors by CAST's layer, as its files hold them.
        layers: CAST's condition layers; it fires if any of them does.
        threshold: CAST's threshold.
        comparator: `larger` or `smaller`.
        mode: `mean` over all tokens, chat prefix included, or `last`.
        name: what it is about.
        base_lm: fingerprint of the base LM it is for, where known.

    Raises:
        SteeringError: for a layer without a vector, layer 0 (its input is no block's output), or
            an unknown comparator or mode.
    """
    fires = {"larger": "below", "smaller": "above"}
    if not isinstance(comparator, str) or comparator not in fires:
        raise ConfigError(f"unknown comparator {comparator!r}{nearest(str(comparator), fires)}")
    poolings = {"mean": "all", "last": "last"}
    if not isinstance(mode, str) or mode not in poolings:
        raise ConfigError(f"unknown mode {mode!r}{nearest(str(mode), poolings)}")
    known = {_layer(layer): vector for layer, vector in vectors.items()}
    for layer in layers:
        if layer not in known:
            raise SteeringError(f"CAST's layer {layer} has no vector; there are {sorted(known)}")
        if layer == 0:
            raise SteeringError("CAST's layer 0 reads the embeddings, which are no block's output")
    rows = [real_tensor(known[layer], f"CAST's vector {layer}").float() for layer in layers]
    if any(row.ndim != 1 for row in rows):
        raise SteeringError(f"CAST's vectors have shapes {[list(r.shape) for r in rows]}, not [D]")
    if len({len(row) for row in rows}) > 1:
        raise SteeringError(f"CAST's vectors have widths {[len(row) for row in rows]}; give equal")
    directions = torch.stack(rows) if rows else torch.zeros(0, 0)
    below = tuple(layer - 1 for layer in layers)
    return Condition(
        name=name,
        directions=directions,
        means=torch.zeros_like(directions),
        fitted=below,
        layers=below,
        threshold=threshold,
        fires=fires[comparator],  # type: ignore[arg-type]
        scorer="legacy",
        pooling=poolings[mode],  # type: ignore[arg-type]
        base_lm=base_lm,
        note="CAST's settings",
    )


def _layer(key: object) -> int:
    """Return a layer's number; as a key of JSON it is a text."""
    number = int(key) if isinstance(key, str) and re.fullmatch(r"\d{1,9}", key) else as_whole(key)
    if number is None:
        raise SteeringError(f"CAST's layer {shown(key)} is not a whole number")
    return number
