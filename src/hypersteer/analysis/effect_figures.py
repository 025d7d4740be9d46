"""Figures on effect: strength against effect, and one answer token by token."""

import itertools
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from hypersteer.analysis.effect import Point, SteeredAnswer, breaking_strength
from hypersteer.analysis.style import (
    FAINT,
    PALETTE,
    Drawn,
    log_ticks,
    look,
    new_figure,
    shortened,
    styled,
    token_label,
)

LINES = 6
"""Steering prompts that are drawn; the rest is in the table."""
TOKENS = 44
"""Tokens of the answer that are drawn."""
HALF = 0.5


def draw_strengths(curves: Mapping[str, Sequence[Point]], limit: float) -> Drawn:
    """Draw mean divergence and perplexity over strength, with the strengths where texts break.

    Args:
        curves: points by steering prompt, ascending.
        limit: perplexity above which a text counts as broken.
    """
    shown = dict(list(curves.items())[:LINES])
    finding = _finding(shown)
    with styled():
        figure = new_figure(finding, 3.6 + 0.2 * -(-len(shown) // 2))
        left, right = figure.subplots(1, 2)
        for number, (text, curve) in enumerate(shown.items()):
            colour, marker = look(number)
            strengths = [one.strength for one in curve]
            for axes, name in ((left, "mean_kl"), (right, "perplexity")):
                values = [getattr(one, name) for one in curve]
                axes.plot(strengths, values, color=colour, linewidth=1.6)
                _points(axes, curve, values, colour, marker, shortened(text, 42))
        left.set(title="how far next tokens move", ylabel="mean KL per token (nats)")
        left.set_ylim(bottom=0)
        right.set_yscale("log")
        right.axhline(limit, color=FAINT, linestyle="--", label="limit of whole text")
        log_ticks(right.yaxis)
        right.set(title="what the unsteered model thinks", ylabel="perplexity (logarithmic)")
        for axes in (left, right):
            axes.set_xlabel("strength (empty mark: text broken)")
        handles, labels = right.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
    meaning = (
        "Left: divergence of the steered from the unsteered next-token distribution along the "
        "steered answers. Right: their median perplexity under the unsteered model, and the limit "
        "above which a text counts as broken; repetition breaks texts as well."
    )
    return finding, meaning, figure


def _points(
    axes: Axes,
    curve: Sequence[Point],
    values: Sequence[float],
    colour: str,
    marker: str,
    label: str,
) -> None:
    """Mark the points of a curve: filled where the text is whole, empty where it is broken."""
    for one, value in zip(curve, values, strict=True):
        face = "white" if one.broken else colour
        axes.plot(one.strength, value, marker, markersize=6, mfc=face, mec=colour, zorder=3)
    axes.plot([], [], marker, color=colour, linestyle="-", label=label)


def _finding(curves: Mapping[str, Sequence[Point]]) -> str:
    """Return where the texts break, and how far the edits move tokens before."""
    breaks = {text: breaking_strength(curve) for text, curve in curves.items()}
    at_one = [
        min(curve, key=lambda one: abs(one.strength - 1)).mean_kl for curve in curves.values()
    ]
    moved = f"{min(at_one):.2f}" if len(at_one) == 1 else f"{min(at_one):.2f} to {max(at_one):.2f}"
    broken = sorted(strength for strength in breaks.values() if strength is not None)
    whole = len(breaks) - len(broken)
    if not broken:
        highest = max(one.strength for curve in curves.values() for one in curve)
        told = f"no text breaks up to strength {highest:g}"
    else:
        spread = f"{broken[0]:g}" if broken[0] == broken[-1] else f"{broken[0]:g} to {broken[-1]:g}"
        told = f"texts break at strength {spread}"
        if whole:
            told += f", {whole} of {len(breaks)} never"
    return f"At strength 1 edits move next tokens by {moved} nats on average; {told}"


def draw_tokens(answer: SteeredAnswer) -> Drawn:
    """Draw the divergence at each token of a steered answer."""
    tokens = answer.tokens[:TOKENS]
    values = [token.kl for token in tokens]
    total = sum(values)
    sums = itertools.accumulate(sorted(values, reverse=True))
    few = next((n for n, sum_ in enumerate(sums, 1) if sum_ >= HALF * total), len(values))
    finding = (
        f"'{shortened(answer.steer, 40)}' at strength {answer.strength:g}: half of the shift lies "
        f"on {few} of {len(tokens)} tokens"
    )
    least = sorted(values, reverse=True)[few - 1]
    with styled():
        figure = new_figure(finding, 3.3)
        axes = figure.subplots()
        colours = [PALETTE[1] if value >= least else PALETTE[0] for value in values]
        axes.bar(range(len(tokens)), values, color=colours, width=0.8)
        axes.set_xticks(range(len(tokens)), [token_label(t.text, 12) for t in tokens], rotation=90)
        axes.set(ylabel="KL (nats)", xlabel=f"answer to '{shortened(answer.prompt, 60)}'")
        axes.margins(x=0.01)
        axes.grid(visible=False, axis="x")
    meaning = (
        "A bar is the divergence of the steered from the unsteered distribution of that token, "
        "given the same words before it; orange bars make up half of the whole. \u2423 is a space."
    )
    return finding, meaning, figure
