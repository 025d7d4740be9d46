"""Figures on attention: shares by layer, one reading token by token, and head by head."""

import numpy as np

from hypersteer.analysis.attention import NAMES, Kind, Maps, Shares
from hypersteer.analysis.style import (
    FAINT,
    PALETTE,
    SEQUENTIAL,
    WIDTH,
    Drawn,
    new_figure,
    spread_labels,
    styled,
    token_label,
)

MOST_LAYERS, MOST_HEADS = 8, 12
"""Shown head by head; of more, an even choice."""
FULL_LAYERS = 3
"""Layers that are shown token by token: the first, one in the middle, the last."""
BESIDE = 14
"""Keys up to which maps stand side by side."""
PER_LABEL = 0.14
"""Inches between two labels, at least."""
ABOVE = 1.1
"""Times that attention must be above even attention, so that it counts as more."""


def draw_shares(shares: list[Shares], top: int) -> Drawn:
    """Draw, for each layer and head, how much of the attention a few tokens take."""
    finding = f"The {top} tokens most attended to take {' and '.join(map(_share, shares))}"
    with styled():
        figure = new_figure(finding, 3.2)
        grid = figure.subplots(1, len(shares), squeeze=False, sharey=True)[0]
        for number, (one, axes) in enumerate(zip(shares, grid, strict=True)):
            colour = PALETTE[number]
            places = np.repeat(one.layers, one.heads.shape[1])
            heads = one.heads.numpy()
            axes.scatter(places, heads.flatten(), s=16, c=colour, alpha=0.6, linewidths=0)
            axes.plot(one.layers, heads.mean(1), color=colour, label="mean of the heads")
            axes.axhline(one.uniform, color=FAINT, linestyle="--", label="even attention")
            axes.set(title=NAMES[one.kind], xlabel="layer of the hypernetwork", ylim=(0, 1.03))
            axes.set_xticks([one.layers[i] for i in spread_labels(len(one.layers), 12)])
            axes.margins(x=0.1)
            axes.legend(loc="lower right")
        grid[0].set_ylabel(f"share of the {top} top tokens")
    favourites = "; ".join(
        f"{NAMES[one.kind]} goes most often to {_favourite(one)}" for one in shares
    )
    meaning = (
        f"A point is a head: the share of its attention that falls on the {top} tokens which all "
        f"queries together read most. {favourites}."
    )
    return finding, meaning, figure


def _share(shares: Shares) -> str:
    """Return how much the top tokens take, and whether that is more than even attention gives."""
    mean, even = float(shares.heads.mean()), 100 * shares.uniform
    more = "even attention:" if mean > ABOVE * shares.uniform else "no more than even attention:"
    return f"{100 * mean:.0f} % of {NAMES[shares.kind]} ({more} {even:.0f} %)"


def _favourite(shares: Shares) -> str:
    token, share = shares.favourites[0]
    return f"'{token_label(token)}' (first in {100 * share:.0f} % of heads and readings)"


def draw_tokens(maps: Maps, kind: Kind) -> Drawn:
    """Draw which tokens read which, in a few layers, heads averaged."""
    found = maps.of(kind)
    chosen = sorted({min(found), sorted(found)[len(found) // 2], max(found)})[:FULL_LAYERS]
    keys = [token_label(one, 12) for one in maps.keys(kind)]
    queries = [token_label(one, 12) for one in maps.tokens]
    means = {layer: found[layer].mean(0).numpy() for layer in chosen}
    last = means[chosen[-1]].mean(0)
    place = int(last.argmax())
    finding = (
        f"{NAMES[kind].capitalize()} in layer {chosen[-1]}: "
        f"'{keys[place]}' gets {100 * last[place]:.0f} %, heads and queries averaged"
    )
    side = len(keys) <= BESIDE
    rows, columns = (1, len(chosen)) if side else (len(chosen), 1)
    high = 1.0 + PER_LABEL * max(len(queries), 8) + 0.5
    with styled():
        figure = new_figure(finding, rows * high + 0.4)
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flatten()
        for axes, layer in zip(grid, chosen, strict=True):
            axes.imshow(means[layer], cmap=SEQUENTIAL, vmin=0, vmax=1, aspect="auto")
            axes.grid(visible=False)
            axes.set_title(f"layer {layer}")
            places = spread_labels(len(keys), int((WIDTH - 1.5) / columns / PER_LABEL))
            axes.set_xticks(places, [keys[i] for i in places], rotation=90)
            axes.set_yticks(range(len(queries)), queries)
        grid[0].set_ylabel("read by")
        bar = grid[0].get_images()[0]
        figure.colorbar(bar, ax=list(grid), label="share of attention", shrink=0.8)
    what = "base prompt" if kind == "cross" else "what the hypernetwork reads"
    meaning = (
        f"Rows are the tokens that the hypernetwork reads, columns those of the {what}; a row sums "
        "to 1. \u2423 is a space."
    )
    return finding, meaning, figure


def draw_heads(maps: Maps, kind: Kind) -> Drawn:
    """Draw the same reading for every head by itself."""
    found = maps.of(kind)
    layers = _some(sorted(found), MOST_LAYERS)
    count = found[layers[0]].shape[0]
    heads = _some(list(range(count)), MOST_HEADS)
    peaks = [float(found[layer].mean(1).max()) for layer in layers]
    sharpest = layers[int(np.argmax(peaks))]
    head = int(found[sharpest].mean(1).max(-1).values.argmax())
    finding = (
        f"{NAMES[kind].capitalize()} head by head: the sharpest is head {head} of layer "
        f"{sharpest}, {100 * max(peaks):.0f} % on one token"
    )
    with styled():
        figure = new_figure(finding, 0.75 * len(layers) + 1.2)
        grid = figure.subplots(len(layers), len(heads), squeeze=False)
        for layer, row in zip(layers, grid, strict=True):
            for number, axes in zip(heads, row, strict=True):
                weights = found[layer][number].numpy()
                axes.imshow(weights, cmap=SEQUENTIAL, vmin=0, vmax=1, aspect="auto")
                axes.set(xticks=[], yticks=[])
                axes.grid(visible=False)
                if layer == layers[0]:
                    axes.set_title(str(number), loc="center", fontsize=9)
            row[0].set_ylabel(f"layer {layer}", rotation=0, ha="right", va="center")
        figure.supxlabel("head (numbers above); columns of a map are the tokens read", fontsize=9.5)
        bar = grid[0, 0].get_images()[0]
        figure.colorbar(bar, ax=list(grid.flatten()), label="share", fraction=0.03)
    meaning = "The same reading as token by token, each head by itself; rows and columns likewise."
    return finding, meaning, figure


def _some(values: list[int], most: int) -> list[int]:
    """Return at most so many of some numbers, evenly spread, the first and the last among them."""
    if len(values) <= most:
        return values
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]
