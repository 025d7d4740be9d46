"""Figures on composition: two edits at once, interference against cosine, and strengths."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from hypersteer.analysis.composition import (
    JOINT,
    SPLIT,
    SUM,
    Composed,
    Swing,
    rank_correlation,
)
from hypersteer.analysis.style import FAINT, PALETTE, Drawn, look, new_figure, shortened, styled
from hypersteer.stats import Interval, bootstrap, mean

PLAIN, BESIDE, ALONE = "no edit", "the other's edit", "its own edit"
FORMS = (SUM, SPLIT, JOINT)
SURE = 0.05
"""Share of shuffled orders below which a rank correlation is one."""


def levels_of(found: Sequence[Composed]) -> dict[str, Interval]:
    """Return the mean loss of own answers in every reading, with intervals over concepts."""
    readings = {
        PLAIN: [one.plain for one in found],
        BESIDE: [one.beside for one in found],
        ALONE: [one.alone for one in found],
    }
    for form in FORMS:
        if all(form in one.forms for one in found):
            readings[form] = [one.forms[form] for one in found]
    concepts = list(dict.fromkeys(one.own for one in found))
    return {
        name: bootstrap(
            [
                mean(value for value, one in zip(values, found, strict=True) if one.own == concept)
                for concept in concepts
            ]
        )
        for name, values in readings.items()
    }


def draw_composed(name: str, found: Sequence[Composed]) -> Drawn:
    """Draw the loss of own answers under both edits, and what that has to do with their cosine.

    Args:
        name: of the checkpoint.
        found: pairs of concepts, both ways round.
    """
    levels = levels_of(found)
    cosines = [one.cosine for one in found]
    taken = [one.interference(SUM) for one in found]
    correlation = rank_correlation(cosines, taken)
    finding = f"{shortened(name, 30)}: {_kept(levels)}; {_told(correlation.rho, correlation.p)}"
    with styled():
        figure = new_figure(finding, 3.9)
        left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
        _levels(left, levels)
        right.axhline(0, color=FAINT, linewidth=1)
        right.scatter(cosines, taken, s=26, c=PALETTE[0], alpha=0.75, linewidths=0)
        right.set(title=f"sum: rank correlation {correlation.rho:+.2f}")
        right.set(xlabel="cosine of the two edits", ylabel="loss above its own edit's (nats)")
    meaning = (
        "Left: mean loss of each concept's own answers, lower is better, with 95 % intervals over "
        "concepts. Right: each point is a concept beside another; above 0, the other edit takes "
        f"from its effect. Of shuffled orders, {100 * correlation.p:.0f} % have a rank correlation "
        "as far from 0."
    )
    return finding, meaning, figure


def _kept(levels: Mapping[str, Interval]) -> str:
    """Return how much of an edit's effect is left beside another, by form."""
    whole = levels[PLAIN].mean - levels[ALONE].mean
    if whole <= 0:
        return f"its own edit does not lower the loss of a concept's answers ({whole:+.3f} nats)"
    told = [
        f"{round(100 * (levels[PLAIN].mean - levels[form].mean) / whole)} % ({form})"
        for form in FORMS
        if form in levels
    ]
    return f"beside another, an edit keeps {', '.join(told)} of its effect of {whole:.2f} nats"


def _told(rho: float, p: float) -> str:
    if p >= SURE:
        return "interference has nothing to do with the cosine that could be told"
    return f"edits interfere {'more' if rho > 0 else 'less'} where they are alike"


def _levels(axes: Axes, levels: Mapping[str, Interval]) -> None:
    for place, (name, own) in enumerate(levels.items()):
        colour = PALETTE[1] if name in FORMS else PALETTE[7]
        spread = np.nan_to_num([[own.mean - own.low], [own.high - own.mean]])
        marker = "s" if name in FORMS else "o"
        axes.errorbar([own.mean], [place], xerr=spread, fmt=marker, color=colour, markersize=6.5)
    axes.set_yticks(range(len(levels)), list(levels))
    axes.invert_yaxis()
    axes.set(title="answers that show the concept", xlabel="loss (nats per token)")
    axes.grid(visible=False, axis="y")


def draw_swings(swings: Mapping[str, Swing]) -> Drawn:
    """Draw the loss of own answers over the strength of the edit, for every checkpoint.

    Args:
        swings: by name of the checkpoint.
    """
    best = {name: float(one.effects.mean(0).min()) for name, one in swings.items()}
    at = {name: one.strengths[int(one.effects.mean(0).argmin())] for name, one in swings.items()}
    told = [
        f"at strength {at[name]:g} with {shortened(name, 36)} ({best[name]:+.2f} nats)"
        for name in swings
    ]
    finding = f"Answers that show the concept are likeliest {', '.join(told)}"
    with styled():
        figure = new_figure(finding, 4.3)
        axes = figure.subplots()
        axes.axhline(0, color=FAINT, linewidth=1)
        axes.axvline(0, color=FAINT, linewidth=1)
        for number, (name, one) in enumerate(swings.items()):
            colour, marker = look(number)
            found = [bootstrap(column.tolist()) for column in one.effects.T]
            means = [own.mean for own in found]
            axes.plot(one.strengths, means, marker=marker, color=colour, label=shortened(name, 36))
            low, high = ([getattr(own, side) for own in found] for side in ("low", "high"))
            axes.fill_between(
                one.strengths, np.nan_to_num(low), np.nan_to_num(high), color=colour, alpha=0.15
            )
        axes.set(xlabel="strength of the edit", ylabel="loss less unsteered (nats)")
        figure.legend(loc="outside lower center", ncols=2)
    meaning = (
        "Mean over concepts of the loss of their own answers under their edit, less that of the "
        "unsteered model; bands are 95 % intervals over concepts. Below 0 the edit makes such "
        "answers likelier; at negative strengths it should make them less likely."
    )
    return finding, meaning, figure
