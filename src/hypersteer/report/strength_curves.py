"""Strength curves as SVG: one small panel per method and held set, the same axes in all."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from hypersteer.evaluation.metrics import Point
from hypersteer.report.layout import held_name, number
from hypersteer.report.summary import Summary

WIDTH, HEIGHT = 320, 216
LEFT, RIGHT, TOP, BOTTOM = 42, 14, 12, 40
TOP_SCORE = 2.0
APART = 26
"""Pixels between labels on the strength axis, at least."""

# Drawn in this order, so that the overall score is on top.
SERIES = ("concept", "instruction", "fluency", "overall")
MARKS = {
    "overall": "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0z",
    "concept": "M-3,-3h6v6h-6z",
    "instruction": "M0,-4L4,3.2H-4z",
    "fluency": "M0,-4.2L4.2,0L0,4.2L-4.2,0z",
}
"""A shape for each score, around its point: disc, square, triangle, diamond."""


class Panel(NamedTuple):
    """A figure with its heading and its highest overall score; `svg` is safe markup."""

    heading: str
    best: str
    svg: str


def panels(summary: Summary) -> list[Panel]:
    """Draw a panel for each method and held set with strengths, in the order of the report."""
    found = []
    for method in summary.methods:
        for held in summary.held:
            if curve := summary.curves.get((method, held)):
                heading = f"{method}, {held_name(held).lower()}"
                best = max(curve, key=lambda point: point.overall)
                said = f"best {number(best.overall, 2)} at {best.strength:g}"
                found.append(Panel(heading, said, draw(f"{heading}, {said}", curve)))
    return found


def draw(heading: str, points: Sequence[Point]) -> str:
    """Draw the overall score and the three scores over strength, from 0 to 2.

    Args:
        heading: says what it shows, for those who cannot see it.
        points: in ascending order of strength, at least one.
    """
    low, high = points[0].strength, points[-1].strength
    xs = {p.strength: LEFT + 8 + _along(p.strength, low, high) for p in points}
    label = escape(f"{heading}: scores over strength {low:g} to {high:g}")
    lines = [_line(name, points, xs) for name in SERIES]
    return "\n".join(
        [
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">',
            *_axes(xs),
            *lines,
            "</svg>",
        ]
    )


def legend_mark(name: str) -> str:
    """Draw a line with its mark, as in the panels."""
    return (
        f'<svg class="key" viewBox="0 0 30 12" aria-hidden="true"><g class="{name}">'
        f'<path class="line" d="M1,6H29"/><path class="mark" transform="translate(15,6)" '
        f'd="{MARKS[name]}"/></g></svg>'
    )


def _along(strength: float, low: float, high: float) -> float:
    room = WIDTH - LEFT - RIGHT - 16
    return room / 2 if high == low else room * (strength - low) / (high - low)


def _y(score: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * score / TOP_SCORE


def _axes(xs: dict[float, float]) -> list[str]:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    drawn = []
    for score in (0.0, 0.5, 1.0, 1.5, 2.0):
        y = _y(score)
        kind = "axis" if score == 0 else "grid"
        drawn.append(f'<path class="{kind}" d="M{LEFT},{y:.1f}H{right}"/>')
        drawn.append(f'<text class="tick end" x="{LEFT - 6}" y="{y + 3.5:.1f}">{score:.1f}</text>')
    last = -float(WIDTH)
    for strength, x in xs.items():
        drawn.append(f'<path class="axis" d="M{x:.1f},{bottom}v4"/>')
        if x - last >= APART:
            drawn.append(
                f'<text class="tick mid" x="{x:.1f}" y="{bottom + 15}">{strength:g}</text>'
            )
            last = x
    middle = (TOP + bottom) / 2
    drawn.append(
        f'<text class="name mid" x="{(LEFT + right) / 2}" y="{HEIGHT - 7}">strength</text>'
    )
    drawn.append(
        f'<text class="name mid" transform="translate(11,{middle}) rotate(-90)">'
        "score, 0 to 2</text>"
    )
    return drawn


def _line(name: str, points: Sequence[Point], xs: dict[float, float]) -> str:
    scores = [getattr(point, name) for point in points]
    path = "L".join(f"{x:.1f},{_y(s):.1f}" for x, s in zip(xs.values(), scores, strict=True))
    marks = "".join(
        f'<path class="mark" transform="translate({x:.1f},{_y(score):.1f})" d="{MARKS[name]}">'
        f"<title>strength {strength:g}: {name} {number(score, 2)}</title></path>"
        for (strength, x), score in zip(xs.items(), scores, strict=True)
    )
    return f'<g class="{name}"><path class="line" d="M{path}"/>{marks}</g>'
