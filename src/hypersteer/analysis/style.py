"""How figures look: one style, colours that colour-blind readers can tell apart, text that prints.

Widths are those of a page with margins, so a font size is the size in print.
"""

import math
import textwrap
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import matplotlib as mpl
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ticker import FixedLocator, NullFormatter, StrMethodFormatter

from hypersteer.files import replacing

Drawn = tuple[str, str, Figure]
"""What a figure shows, how it is to be read, and the figure."""

WIDTH = 7.2
"""Inches."""
DPI = 160
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6A3D9A", "#4D4D4D")
"""Okabe and Ito's colours without yellow and black, and two darker ones."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
SEQUENTIAL, DIVERGING = "cividis", "PuOr_r"
FAINT = "#8A8F98"
"""Of what is there to compare with."""
MOST_TICKS = 9
"""Labels on a logarithmic axis."""
TITLE_CHARACTERS = 76
"""Of a title's line on the full width."""
STYLE = {
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "axes.facecolor": "white",
    "axes.edgecolor": "#59636e",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.labelsize": 9.5,
    "grid.color": "#e4e7eb",
    "grid.linewidth": 0.8,
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "text.parse_math": False,  # a dollar sign is a dollar sign
    "svg.hashsalt": "hypersteer",
    "svg.fonttype": "path",
}


@contextmanager
def styled() -> Generator[None]:
    """Draw in the one style while the context lasts; settings of the user come back afterwards."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        yield


def new_figure(title: str, height: float, width: float = WIDTH) -> Figure:
    """Return an empty figure with its finding as the title.

    Args:
        title: one sentence.
        height: inches.
        width: inches.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    wrapped = textwrap.fill(drawable(title), max(20, round(TITLE_CHARACTERS * width / WIDTH)))
    figure.suptitle(wrapped, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return figure


def write_figure(folder: Path, name: str, figure: Figure) -> list[Path]:
    """Write a figure as SVG and as PNG, each whole or not at all; return both files.

    Raises:
        OSError: if they cannot be written.
    """
    written = []
    with styled():
        for form, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
            path = folder / f"{name}.{form}"
            with replacing(path) as temporary:
                figure.savefig(temporary, format=form, dpi=DPI, metadata=metadata)
            written.append(path)
    return written


@cache
def _font() -> set[int]:
    return set(get_font(findfont(FontProperties(family="DejaVu Sans"))).get_charmap())


def drawable(text: str) -> str:
    """Return a text with escapes for what does not print or the figures' font has no letter for."""
    return "".join(map(_letter, text))


def _letter(one: str) -> str:
    if not one.isprintable():
        return one.encode("unicode_escape").decode()
    return one if ord(one) in _font() else f"\\u{ord(one):04x}"


def shortened(text: str, most: int) -> str:
    """Return a text that can be drawn, cut to at most so many characters."""
    text = drawable(" ".join(text.split()))
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}\u2026"


def token_label(text: str, most: int = 14) -> str:
    """Return a token's text as a label: its spaces can be seen, and it is cut."""
    text = drawable(text.replace(" ", "\u2423"))
    return text if len(text) <= most else f"{text[: most - 1]}\u2026"


def look(number: int) -> tuple[str, str]:
    """Return colour and marker of group number i; 64 differ."""
    colours = len(PALETTE)
    return PALETTE[number % colours], MARKERS[(number + number // colours) % len(MARKERS)]


def spread_labels(count: int, most: int) -> Sequence[int]:
    """Return which of `count` places in a row get a label, so that at most `most` do."""
    step = max(1, -(-count // most))
    return range(0, count, step)


def log_ticks(axis: Axis, most: int = MOST_TICKS) -> None:
    """Label a logarithmic axis at 1, 2, 5, 10 and so on; at fewer places where it is long.

    Args:
        axis: with all that is drawn on it, since its range decides.
        most: labels at most.
    """
    low, high = sorted(math.log10(end) for end in axis.get_view_interval())
    decades = [10.0**power for power in range(math.floor(low), math.ceil(high) + 1)]
    for steps in ((1.0, 2.0, 5.0), (1.0, 3.0), (1.0,)):
        places = [decade * step for decade in decades for step in steps]
        shown = [place for place in places if low - 1e-9 <= math.log10(place) <= high + 1e-9]
        if len(shown) <= most:
            break
    else:
        shown = shown[:: -(-len(shown) // most)]
    axis.set_major_locator(FixedLocator(shown))
    axis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axis.set_minor_formatter(NullFormatter())
