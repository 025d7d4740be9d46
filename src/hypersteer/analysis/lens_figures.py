"""The figure on words: what each edit raises and lowers."""

from collections.abc import Mapping

from hypersteer.analysis.lens import Lens
from hypersteer.analysis.style import PALETTE, Drawn, new_figure, shortened, styled, token_label

MOST = 6
"""Steering prompts that are drawn; the rest is in the table."""
COLUMNS = 3


def draw_words(lenses: Mapping[str, Lens]) -> Drawn:
    """Draw the words that each steering prompt's edit raises and lowers, as bars.

    Args:
        lenses: one by steering prompt.
    """
    shown = dict(list(lenses.items())[:MOST])
    text, first = next(iter(shown.items()))
    words = ", ".join(f"'{token_label(one.text)}'" for one in first.raised[:3])
    finding = f"What sets the edit of '{text}' apart raises {words} most"
    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    with styled():
        figure = new_figure(finding, 3.9 * rows + 0.4)
        grid = figure.subplots(rows, columns, squeeze=False).flatten()
        for axes, (name, lens) in zip(grid, shown.items(), strict=False):
            bars = [*lens.raised, *lens.lowered[::-1]]
            places = range(len(bars), 0, -1)
            colours = [PALETTE[0] if word.logit > 0 else PALETTE[1] for word in bars]
            axes.barh(places, [word.logit for word in bars], color=colours)
            axes.set_yticks(places, [token_label(word.text, 12) for word in bars])
            axes.axvline(0, color="black", linewidth=0.8)
            axes.set(title=shortened(name, 60 // columns), xlabel="logit above the mean")
            axes.grid(visible=False, axis="y")
        for axes in grid[len(shown) :]:
            axes.set_axis_off()
    meaning = (
        f"Bars are logits that the base LM reads from what the edit writes, {first.site}, in place "
        "of its last block's output, above the mean of the vocabulary: the words raised most above "
        "those lowered most. \u2423 is a space."
    )
    return finding, meaning, figure
