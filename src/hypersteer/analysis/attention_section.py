"""The section on attention: one reading in full, and how concentrated many are."""

from typing import Any

import pyarrow as pa
import torch

from hypersteer.analysis.attention import NAMES, AttentionReader, Kind, Maps, Shares, measure
from hypersteer.analysis.attention_figures import draw_heads, draw_shares, draw_tokens
from hypersteer.analysis.section import Drawing, Section
from hypersteer.analysis.subject import Subject, reads_prompts
from hypersteer.progress import ProgressBar

TOP = 3
"""Tokens whose share of the attention is told."""
READINGS = 24
"""Pairs of steering prompt and base prompt over which shares are averaged."""


def attention_section(subject: Subject) -> Section:
    """Look at the attention of a hypernetwork while it makes edits."""
    reader = AttentionReader(subject.steerer)
    prompt = min(subject.prompts, key=len)
    first = reader.read(subject.steer[0], prompt)
    kinds: list[Kind] = [kind for kind in ("cross", "self") if first.of(kind)]
    where = f" on '{prompt}'" if reads_prompts(subject.steerer.card) else ""
    notes = [
        (
            f"The maps in full are of '{subject.steer[0]}'{where}. Shares are averaged over many "
            "steering prompts."
        )
    ]
    if not first.cross:
        notes.append(
            f"A {subject.steerer.card.hypernet.variant} hypernetwork has no cross-attention."
        )
    if not kinds:
        notes.append("This architecture shows no attention weights, so there is no figure.")
        return Section(name="attention", title="Attention of the hypernetwork", notes=notes)
    shares = _measured(subject, reader, kinds)
    drawings = [
        Drawing("attention_shares", *draw_shares(shares, TOP)),
        *(Drawing(f"attention_{kind}", *draw_tokens(first, kind)) for kind in kinds),
        *(Drawing(f"attention_{kind}_heads", *draw_heads(first, kind)) for kind in kinds),
    ]
    return Section(
        name="attention",
        title="Attention of the hypernetwork",
        notes=notes,
        drawings=drawings,
        numbers={"top": TOP, "readings": READINGS, "kinds": [_numbers(one) for one in shares]},
        tables={"attention_maps": _table(first, kinds)},
    )


def _measured(subject: Subject, reader: AttentionReader, kinds: list[Kind]) -> list[Shares]:
    """Return the shares of the attention over many readings."""
    concepts, prompts = subject.concepts, subject.prompts
    pairs = [
        (concepts[number % len(concepts)].text, prompts[number % len(prompts)])
        for number in range(min(READINGS, len(concepts) * len(prompts)))
    ]
    found: dict[Kind, list[Maps]] = {kind: [] for kind in kinds}
    with ProgressBar("reading attention", len(pairs), transient=True) as bar:
        for text, prompt in pairs:
            maps = reader.read(text, prompt)
            for kind in kinds:
                found[kind].append(maps)
            bar.advance(1)
    return [measure(kind, maps, TOP) for kind, maps in found.items()]


def _numbers(shares: Shares) -> dict[str, Any]:
    return {
        "kind": NAMES[shares.kind],
        "layers": shares.layers,
        "share_by_layer_and_head": shares.heads.tolist(),
        "mean_share_by_layer": shares.heads.mean(1).tolist(),
        "share_if_uniform": shares.uniform,
        "most_attended": [{"token": token, "share": share} for token, share in shares.favourites],
    }


def _table(maps: Maps, kinds: list[Kind]) -> pa.Table:
    """Return every weight of one reading as a row."""
    columns: dict[str, list[Any]] = {
        name: [] for name in ("kind", "layer", "head", "query", "query_token", "key", "key_token")
    }
    weights: list[float] = []
    for kind in kinds:
        keys = maps.keys(kind)
        for layer, found in maps.of(kind).items():
            for head, query, key in torch.cartesian_prod(*map(torch.arange, found.shape)).tolist():
                row = (NAMES[kind], layer, head, query, maps.tokens[query], key, keys[key])
                for column, value in zip(columns.values(), row, strict=True):
                    column.append(value)
            weights += found.flatten().tolist()
    return pa.table({**columns, "weight": weights})
