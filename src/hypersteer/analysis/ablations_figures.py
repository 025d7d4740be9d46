"""The figure on ablations: how each setting differs from the first, with its interval."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes

from hypersteer.analysis.ablations import Ablation
from hypersteer.analysis.style import FAINT, PALETTE, Drawn, new_figure, shortened, styled
from hypersteer.stats import Interval

HELD = {"held_out": (PALETTE[0], "o", 0.13), "held_in": (PALETTE[1], "s", -0.13)}
"""Colour, marker, and how far it stands above the line of its setting."""
NAMES = {"held_out": "never trained on", "held_in": "trained on, other prompts"}
PANELS = {"loss": "loss: left is better", "gap": "concept gap: right is better"}
ROW = 0.34
"""Inches of a setting."""
NAMED = 3
"""Settings that the finding names on either side."""


def draw_differences(found: Sequence[Ablation]) -> Drawn:
    """Draw how the losses and gaps of every setting differ from those of the first one.

    Args:
        found: at least two settings.
    """
    base, others = found[0], [one for one in found[1:] if one.differences]
    finding = _finding(base, others)
    with styled():
        figure = new_figure(finding, 2.0 + ROW * len(others))
        panels = figure.subplots(1, 2, sharey=True)
        for axes, kind in zip(panels, PANELS, strict=True):
            _panel(axes, others, kind)
            axes.set(title=PANELS[kind], xlabel="difference (nats per token)")
        panels[0].set_yticks(range(len(others)), [_label(one) for one in others])
        panels[0].invert_yaxis()
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
    meaning = (
        f"Each mark is the mean over concepts of the setting's value less that of "
        f"'{base.name}', which is the line at 0, with a 95 % interval (bootstrap over concepts, "
        "taken in pairs). An interval that holds 0 is no difference that can be told."
    )
    return finding, meaning, figure


def _label(one: Ablation) -> str:
    told = one.name if not one.group or one.group in one.name else f"{one.group}: {one.name}"
    return shortened(told, 44)


def _panel(axes: Axes, found: Sequence[Ablation], kind: str) -> None:
    axes.axvline(0, color=FAINT, linewidth=1.2)
    for held, (colour, marker, lift) in HELD.items():
        known = [
            (place, one.differences[f"{held}_{kind}"])
            for place, one in enumerate(found)
            if f"{held}_{kind}" in one.differences
        ]
        if not known:
            continue
        places = np.array([place - lift for place, _ in known])
        means = np.array([own.mean for _, own in known])
        low = np.nan_to_num(means - [own.low for _, own in known])
        high = np.nan_to_num(np.array([own.high for _, own in known]) - means)
        axes.errorbar(
            means,
            places,
            xerr=[low, high],
            fmt=marker,
            color=colour,
            markersize=5.5,
            elinewidth=1.4,
            label=f"concepts {NAMES[held]}",
        )
    axes.grid(visible=False, axis="y")
    axes.locator_params(axis="x", nbins=5)


def _finding(base: Ablation, others: Sequence[Ablation]) -> str:
    """Return which settings are clearly better or worse than the first, held out."""
    better = _clear(others, lambda own: own.high < 0)
    worse = _clear(others, lambda own: own.low > 0)
    told = []
    for verdict, names in (("lower with", better), ("higher with", worse)):
        if names:
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            told.append(f"{verdict} {', '.join(shortened(one, 26) for one in names[:NAMED])}{more}")
    left = len(others) - len(better) - len(worse)
    if left:
        told.append(f"not told apart for {left} of {len(others)} settings")
    return f"Held-out loss against '{shortened(base.name, 40)}': {'; '.join(told)}"


def _clear(found: Sequence[Ablation], holds: Callable[[Interval], bool]) -> list[str]:
    """Return the settings whose held-out loss differs clearly, the largest difference first."""
    known = [one for one in found if "held_out_loss" in one.differences]
    chosen = [one for one in known if holds(one.differences["held_out_loss"])]
    return [
        one.name
        for one in sorted(chosen, key=lambda one: -abs(one.differences["held_out_loss"].mean))
    ]
