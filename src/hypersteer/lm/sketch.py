"""The identity of a base LM, measured on its weights: see `hypersteer.identity`."""

import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hypersteer.identity import PROJECTIONS, Identity

ENTRIES = 4096
"""Entries of each weight that are looked at, spread evenly."""

RUN = 32
"""Neighbours among which the steps of quantised weights are looked for; formats share a scale among
so many or more."""

RUNS = 16
"""Runs of each weight that are looked at."""

SIZES = ("num_attention_heads", "num_key_value_heads", "intermediate_size")


def measure(model: PreTrainedModel, blocks: nn.ModuleList) -> Identity:
    """Return the identity of a model, from some thousand entries of each of its weights.

    Weights are grouped by block, matrices apart from norms and biases, since quantisation spares
    the latter; the input embeddings are a group of their own. A group with weights that are no
    floating point numbers (packed by a quantisation library) counts as unreadable.
    """
    table = cast(nn.Embedding, model.get_input_embeddings()).weight
    groups: list[list[Tensor]] = [[table]]
    for block in blocks:
        weights = [weight for _, weight in sorted(block.named_parameters())]
        groups.append([weight for weight in weights if weight.ndim > 1])
        groups.append([weight for weight in weights if weight.ndim <= 1])
    sampled = [_sampled(group) for group in groups]
    norms = np.array([np.linalg.norm(x) if x is not None else np.nan for x in sampled])
    projections = [_projected(x, norm) for x, norm in zip(sampled, norms, strict=True)]
    return Identity(
        architecture=_architecture(model, table),
        label=legacy_fingerprint(model),
        rounding=_rounding(groups[1::2]),
        norms=norms,
        projections=np.stack(projections),
    )


def _architecture(model: PreTrainedModel, table: Tensor) -> str:
    config = model.config.get_text_config()
    sizes = [
        "/".join(str(getattr(config, name, "")) for name in SIZES),
        "x".join(map(str, table.shape)),
    ]
    return f"{config.model_type} {config.num_hidden_layers} blocks {' '.join(sizes)}".replace(
        "|", ""
    )


def _sampled(weights: Iterable[Tensor]) -> np.ndarray | None:
    """Evenly spaced entries of the weights, one after the other; None where they are packed."""
    parts = [np.zeros(1)]
    for weight in weights:
        if not weight.is_floating_point() or weight.is_meta:
            return None
        flat = weight.detach().flatten()
        picked = torch.linspace(
            0, flat.numel() - 1, min(ENTRIES, flat.numel()), dtype=torch.float64
        )
        entries = flat[picked.round().long().to(flat.device)].float().cpu().numpy()
        parts.append(entries.astype(np.float64))
    return np.concatenate(parts)


def _projected(entries: np.ndarray | None, norm: float) -> np.ndarray:
    """Sum the entries under K random signs, in units of their norm."""
    if entries is None or not norm:
        return np.zeros(PROJECTIONS)
    return _signs(len(entries)) @ entries / norm


@lru_cache(maxsize=8)
def _signs(count: int) -> np.ndarray:
    """Signs [K, count] that are the same on every machine and in every version of every library."""
    raw = hashlib.shake_256(b"hypersteer identity").digest(PROJECTIONS * (count // 8 + 1))
    bits = np.unpackbits(np.frombuffer(raw, np.uint8)).reshape(PROJECTIONS, -1)[:, :count]
    return 1.0 - 2.0 * bits


def _rounding(groups: Iterable[Sequence[Tensor]]) -> float:
    """Relative rounding error of groups of matrices; 0 where no steps show, as in floats."""
    found = []
    for group in groups:
        readable = [w for w in group if w.is_floating_point() and not w.is_meta]
        runs = [run for w in readable if w.shape[-1] >= RUN for run in _runs(w)]
        size = sum(float(np.sum(run**2)) for run in runs)
        if size:
            error = sum(RUN * _step(run) ** 2 / 12 for run in runs)
            found.append(error / size)
    return float(np.sqrt(np.mean(found))) if found else 0.0


def _runs(weight: Tensor) -> np.ndarray:
    """Return some runs [n, RUN] of neighbours, none across two rows."""
    rows = weight.detach().flatten(0, -2)
    picked = torch.linspace(0, len(rows) - 1, min(RUNS, len(rows))).round().long()
    return rows[picked.to(rows.device), :RUN].float().cpu().numpy().astype(np.float64)


def _step(run: np.ndarray) -> float:
    """Return the step between neighbouring values of quantised weights; 0 if none is seen."""
    values, few = np.unique(run), np.unique(run[: RUN // 2])
    if len(few) < 3:
        return 0.0
    gaps = np.diff(few)
    step = float(gaps.min())
    even = np.abs(gaps / step - np.round(gaps / step)).max() < 0.02
    seen = step if even and few[-1] - few[0] < 300 * step else 0.0
    if len(values) <= RUN // 2:  # 4 bits, on even steps or not
        return max(seen, float(values[-1] - values[0]) / (RUN // 2 - 1))
    return seen


def legacy_fingerprint(model: PreTrainedModel, samples: int = 65536) -> str:
    """Return the fingerprint of earlier versions: sizes, and signs of some embedding entries."""
    config = model.config.get_text_config()
    table = cast(nn.Embedding, model.get_input_embeddings()).weight.detach().flatten()
    signs = (table[:: max(1, table.numel() // samples)] < 0).cpu().numpy()
    sizes = (config.model_type, config.hidden_size, config.num_hidden_layers, table.numel())
    return hashlib.sha256(repr(sizes).encode() + signs.tobytes()).hexdigest()[:16]
