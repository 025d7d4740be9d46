"""Figures on geometry: maps of edits, mean cosines, and what both are to be held against."""

import math
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from numpy import ndarray

from hypersteer.analysis.geometry import Clusters, Projections
from hypersteer.analysis.style import (
    DIVERGING,
    FAINT,
    PALETTE,
    Drawn,
    look,
    new_figure,
    shortened,
    styled,
)

LEGEND = 12
"""Groups that a legend names; more are told apart by colour and marker alone."""
VALUES = 10
"""Groups up to which the cells of a heat map hold their values."""
VALUE_SIZE, SMALLEST = 9.0, 5.0
"""Points of the values in cells, and the fewest that can be read."""
TITLE = 20
"""Characters above a heat map, whose neighbour has a title as well."""
ROOM = 0.9
"""Share of a cell's width that its value may take."""
NAMED = 26
"""Groups up to which the rows of a heat map have names."""
ALIKE = 0.9
"""Mean cosine between groups from which edits are said to be nearly all alike."""
CLEAR = 0.25
"""Silhouette from which clusters are not weak (Kaufman and Rousseeuw 1990)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shown:
    """One checkpoint's edits as the figures show them.

    Attributes:
        name: of the checkpoint.
        by: what the groups are: `concept`, `kind`, or `edit` where each is a group of its own.
        groups: of each edit.
        projections: edits in two dimensions.
        clusters: how they group.
        sites: where they are written.
        lengths: of what each writes there, relative to the states.
        notes: what a reader must know.
    """

    name: str
    by: str
    groups: Int[ndarray, " N"]
    projections: Projections
    clusters: Clusters
    sites: list[str]
    lengths: Float[ndarray, "N S"]
    notes: list[str] = field(default_factory=list)


def headline(shown: Shown) -> str:
    """Return what the numbers say of the clusters of one checkpoint, in one sentence."""
    counted = shown.clusters
    alike = ", nearly all alike," if counted.between > ALIKE else ""
    if shown.by == "edit":
        return (
            f"{shown.name}: edits of different concepts{alike} have a mean cosine of "
            f"{counted.between:.2f}"
        )
    chance = max(counted.shuffled, default=0.0)
    score = "undefined" if counted.silhouette is None else f"{counted.silhouette:.2f}"
    return (
        f"{shown.name}: edits{alike} {_verdict(counted, chance)} by {shown.by} (cosine within "
        f"{counted.within:.2f}, between {counted.between:.2f}; silhouette {score}, shuffled at "
        f"most {chance:.2f})"
    )


def _verdict(counted: Clusters, chance: float) -> str:
    """Return whether groups are clusters: closer within than between, and more so than shuffled."""
    found = counted.silhouette
    if found is None or found <= chance or counted.within <= counted.between:
        return "do not cluster"
    return "cluster" if found >= CLEAR else "cluster weakly"


def draw_maps(shown: list[Shown]) -> Drawn:
    """Draw PCA and t-SNE of every checkpoint's edits, coloured by group."""
    finding = "; ".join(map(headline, shown))
    named = len(shown[0].clusters.names) <= LEGEND
    with styled():
        figure = new_figure(finding, 3.5 * len(shown) + (0.9 if named else 0.3))
        grid = figure.subplots(len(shown), 2, squeeze=False)
        for one, (left, right) in zip(shown, grid, strict=True):
            shares = [f"{100 * share:.0f} % of variance" for share in one.projections.explained]
            _scatter(left, one, one.projections.pca)
            left.locator_params(nbins=5)
            left.set(title=f"{shortened(one.name, 30)}: PCA")
            left.set(xlabel=f"direction 1, {shares[0]}", ylabel=f"direction 2, {shares[1]}")
            if one.projections.tsne is None:
                right.set_axis_off()
                continue
            _scatter(right, one, one.projections.tsne)
            right.set(title=f"{shortened(one.name, 30)}: t-SNE", xticks=[], yticks=[])
            right.set(xlabel="only neighbourhoods mean something here")
        if named:
            handles, labels = grid[0, 0].get_legend_handles_labels()
            columns = 2 if max(map(len, labels)) > 22 else 4
            figure.legend(
                handles, labels, loc="outside lower center", ncols=columns, markerscale=1.4
            )
    meaning = (
        f"Every point is an edit. {'Colour and marker tell' if named else 'Colours tell'} the "
        f"{shown[0].by}. PCA keeps distances as far as two directions can; t-SNE, on the first 50 "
        "directions, keeps neighbours only."
    )
    return finding, meaning, figure


def _scatter(axes: Axes, shown: Shown, places: ndarray) -> None:
    size = 26 if len(places) <= 400 else 9
    for number, name in enumerate(shown.clusters.names):
        own = places[shown.groups == number]
        colour, marker = look(number)
        axes.scatter(
            own[:, 0],
            own[:, 1],
            s=size,
            c=colour,
            marker=marker,
            linewidths=0,
            alpha=0.8,
            label=shortened(name, 42),
            rasterized=True,
        )


def draw_cosines(shown: list[Shown]) -> Drawn:
    """Draw the mean cosine similarity of the edits of every two groups."""
    if len(shown) == 1:
        finding = headline(shown[0])
    else:
        told = [f"{one.name} {_told(one)}" for one in shown]
        finding = f"Mean cosine of edits: {'; '.join(told)}"
    count = max(len(one.clusters.names) for one in shown)
    side = 3.0 if count <= VALUES else 4.4
    with styled():
        figure = new_figure(finding, side * len(shown) + 0.7)
        grid = figure.subplots(len(shown), 2, squeeze=False)
        for one, (left, right) in zip(shown, grid, strict=True):
            by = one.by.replace("edit", "concept")
            _heat(left, one.clusters.cosines, one.clusters.names)
            title = f"{one.name}, by {by}"
            left.set_title(title if len(title) <= TITLE else shortened(one.name, TITLE))
            _heat(right, one.clusters.centred, one.clusters.names)
            right.set(title="without the mean edit", yticks=[])
        bar = grid[0, 0].get_images()[0]
        figure.colorbar(bar, ax=list(grid.flatten()), label="mean cosine similarity", shrink=0.7)
        figure.draw_without_rendering()  # places the axes
        for axes in grid.flatten():
            _fit_values(axes, count)
    shares = ", ".join(f"{one.name} {100 * one.clusters.common:.0f} %" for one in shown)
    meaning = (
        "Each cell is the mean over all pairs of edits of two groups; on the diagonal, over pairs "
        "of different edits of one group. Right, the mean of all edits is subtracted from each "
        f"first; this mean has so much of the edits' squared length: {shares}."
    )
    if any(one.by == "edit" for one in shown):
        meaning += " Where a concept has one edit there is no such pair, and the cell is empty."
    return finding, meaning, figure


def _told(shown: Shown) -> str:
    between = f"between {shown.clusters.between:.2f}"
    if math.isnan(shown.clusters.within):
        return between
    return f"within {shown.clusters.within:.2f}, {between}"


def _heat(axes: Axes, values: ndarray, names: list[str]) -> None:
    axes.imshow(values, cmap=DIVERGING, vmin=-1, vmax=1, aspect="auto")
    axes.grid(visible=False)
    if len(names) <= NAMED:
        axes.set_xticks(range(len(names)), [str(number + 1) for number in range(len(names))])
        labels = [f"{shortened(name, 28)}  {number + 1}" for number, name in enumerate(names)]
        axes.set_yticks(range(len(names)), labels)
    else:
        axes.set(xticks=[], yticks=[], xlabel=f"{len(names)} groups")
    if len(names) <= VALUES:
        for (row, column), value in np.ndenumerate(values):
            if not math.isnan(value):
                ink = "white" if abs(value) > 0.65 else "black"
                told = f"{value:.2f}".replace("0.", ".")
                axes.text(column, row, told, ha="center", va="center", color=ink, size=VALUE_SIZE)


def _fit_values(axes: Axes, count: int) -> None:
    """Make the values in cells as small as their cells want; leave out what nobody could read."""
    if not axes.texts:
        return
    room = ROOM * axes.get_window_extent().width / count
    widest = max(text.get_window_extent().width for text in axes.texts)
    size = VALUE_SIZE * min(1.0, room / widest)
    for text in list(axes.texts):
        if size < SMALLEST:
            text.remove()
        else:
            text.set_fontsize(size)


def draw_controls(shown: list[Shown]) -> Drawn:
    """Draw silhouettes beside those of shuffled groups, and how long edits are at each site."""
    longest = max(float(np.median(one.lengths)) for one in shown)
    lengths = ", ".join(f"{one.name} {np.median(one.lengths):.2f}" for one in shown)
    finding = f"Median length of what an edit writes, relative to the states: {lengths}"
    known = [one for one in shown if one.clusters.silhouette is not None]
    with styled():
        figure = new_figure(finding, 3.7)
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.5))
        for number, one in enumerate(shown):
            _silhouettes(left, one, number, labelled=one in known[:1])
        left.set_xticks(range(len(shown)), [shortened(one.name, 16) for one in shown])
        left.set(title="silhouette", ylabel="mean silhouette, -1 to 1")
        left.set_xlim(-0.6, len(shown) - 0.4)
        if not known:
            left.text(0.5, 0.5, "one edit per group:\nnone", transform=left.transAxes, ha="center")
        _lengths(right, shown)
        handles = [*left.get_legend_handles_labels()[0], *right.get_legend_handles_labels()[0]]
        figure.legend(handles=handles, loc="outside lower center", ncols=4)
    top = "below" if longest < 1 else "above"
    meaning = (
        "Left: the silhouette of the true groups, and of the same edits with the groups dealt out "
        f"at random {len(known[0].clusters.shuffled) if known else 0} times; only what is above "
        "these is structure. Right: the length of what edits write in typical lengths of the "
        f"hidden states at the site (box: quartiles, whiskers: 5 to 95 %); the longest median is "
        f"{top} the states' own length."
    )
    return finding, meaning, figure


def _silhouettes(axes: Axes, shown: Shown, place: int, *, labelled: bool) -> None:
    counted = shown.clusters
    if counted.silhouette is None:
        return
    offsets = np.linspace(-0.12, 0.12, len(counted.shuffled))
    axes.scatter(
        place + offsets,
        counted.shuffled,
        s=14,
        c=FAINT,
        linewidths=0,
        label="shuffled groups" if labelled else None,
    )
    axes.scatter(
        [place],
        [counted.silhouette],
        s=60,
        c=PALETTE[place],
        marker="D",
        label="true groups" if labelled else None,
    )
    axes.axhline(0, color=FAINT, linewidth=0.8)


def _lengths(axes: Axes, shown: list[Shown]) -> None:
    sites = sorted({site for one in shown for site in one.sites}, key=_layer)
    wide = 0.7 / len(shown)
    for number, one in enumerate(shown):
        places = [sites.index(site) + (number - (len(shown) - 1) / 2) * wide for site in one.sites]
        colour = PALETTE[number]
        drawn = axes.boxplot(
            one.lengths,
            positions=places,
            widths=0.8 * wide,
            whis=(5, 95),
            showfliers=False,
            patch_artist=True,
            manage_ticks=False,
            boxprops={"facecolor": colour, "alpha": 0.35, "edgecolor": colour},
            medianprops={"color": "black"},
        )
        drawn["boxes"][0].set_label(shortened(one.name, 24))
    axes.set_xticks(range(len(sites)), sites, rotation=30, ha="right")
    axes.set(title="length of the write", ylabel="in lengths of the states", xlabel="site")
    axes.set_ylim(bottom=0)


def _layer(site: str) -> tuple[int, str]:
    kind, _, layer = site.partition("@")
    return int(layer), kind
