"""The figure on perplexities: one distribution per source of answers."""

from collections.abc import Collection, Mapping

import numpy as np

from hypersteer.analysis.style import PALETTE, Drawn, log_ticks, new_figure, shortened, styled


def draw_perplexities(found: Mapping[str, np.ndarray], own: Collection[str]) -> Drawn:
    """Draw a box and all points of each source, on a logarithmic axis.

    Args:
        found: perplexities by source.
        own: sources that are the base LM's own answers, in another colour.
    """
    finding = _finding(found, own)
    names = list(found)[::-1]
    generator = np.random.default_rng(0)
    with styled():
        figure = new_figure(finding, 0.62 * len(names) + 1.4)
        axes = figure.subplots()
        for place, name in enumerate(names):
            values = found[name]
            colour = PALETTE[1 if name in own else 0]
            drift = place + generator.uniform(-0.26, 0.26, len(values))
            axes.scatter(values, drift, s=10, c=colour, alpha=0.45, linewidths=0)
            axes.boxplot(
                [values],
                positions=[place],
                widths=0.62,
                whis=(5, 95),
                showfliers=False,
                orientation="horizontal",
                manage_ticks=False,
                medianprops={"color": "black", "linewidth": 1.8},
            )
        axes.set_xscale("log")
        log_ticks(axes.xaxis)
        labels = [f"{shortened(name, 44)} ({len(found[name])})" for name in names]
        axes.set_yticks(range(len(names)), labels)
        axes.set_xlabel("perplexity under the base LM (logarithmic)")
        axes.grid(visible=False, axis="y")
    meaning = (
        "Every point is an answer; boxes are quartiles with the median, whiskers 5 to 95 %, the "
        "number of answers stands in brackets."
    )
    return finding, meaning, figure


def _finding(found: Mapping[str, np.ndarray], own: Collection[str]) -> str:
    """Return how the first source compares with the base LM's own answers."""
    medians = {name: float(np.median(values)) for name, values in found.items()}
    given = {name: value for name, value in medians.items() if name not in own}
    itself = {name: value for name, value in medians.items() if name in own}
    if not given or not itself:
        told = ", ".join(f"{name} {value:.1f}" for name, value in medians.items())
        return f"Median perplexity under the base LM: {told}"
    low, high = min(given.values()), max(given.values())
    spread = f"{low:.1f}" if len(given) == 1 else f"{low:.1f} to {high:.1f}"
    mine = " and ".join(f"{value:.1f}" for value in itself.values())
    verb = "surprise the base LM more than" if low > max(itself.values()) else "are to the base LM"
    end = "its own" if low > max(itself.values()) else "not clearly unlike its own"
    return f"Answers to learn from {verb} {end}: median perplexity {spread}, its own {mine}"
