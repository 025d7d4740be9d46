"""Figures on scaling: measures over the number of training concepts, and what a loss costs."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator, StrMethodFormatter

from hypersteer.analysis.scaling import (
    PAPER,
    PAPER_REFT,
    PAPER_SPREAD,
    Decay,
    Line,
    Spent,
    Spot,
    fit_decay,
    fit_line,
)
from hypersteer.analysis.style import FAINT, Drawn, log_ticks, look, new_figure, shortened, styled

CLEAR = 0.5
"""R2 from which a trend is one."""
NUDGE = 0.035
"""Of the settings, so that their intervals do not lie on each other: shares of a doubling."""
NAMES = {"loss": "loss (nats per token)", "gap": "concept gap (nats per token)"}
NAMES |= {"score": "overall score, 0 to 2"}
HELD = {"held_out": "concepts never trained on", "held_in": "concepts trained on, other prompts"}
PAPER_COUNTS = (10, 16000)
"""The paper's range of training concepts."""
SOLID, EMPTY = 6.5, 6.0
TERA = 1e12


def draw_measure(
    spots: Sequence[Spot], kind: str, levels: Mapping[str, Mapping[str, float]]
) -> Drawn:
    """Draw a measure of every setting over the number of training concepts, and its trend.

    Args:
        spots: of all settings.
        kind: `loss`, `gap` or `score`.
        levels: what it is held against, by held set and name.
    """
    settings = list(dict.fromkeys(spot.setting for spot in spots))
    finding = _trends(spots, settings, kind)
    with styled():
        figure = new_figure(finding, 4.1 + 0.18 * len(settings))
        panels = figure.subplots(1, 2, sharey=True)
        for axes, held in zip(panels, HELD, strict=True):
            for number, setting in enumerate(settings):
                own = [one for one in spots if one.setting == setting]
                _measure(axes, own, f"{held}_{kind}", number, len(settings))
            for number, (name, level) in enumerate(levels.get(held, {}).items()):
                style = ("--", ":", "-.")[number % 3]
                axes.axhline(level, color="#4D4D4D", linestyle=style, linewidth=1.1, label=name)
            _counts(axes, sorted({spot.concepts for spot in spots}))
            axes.set(title=HELD[held], ylabel=NAMES[kind] if held == "held_out" else "")
        shown = dict(zip(*panels[1].get_legend_handles_labels()[::-1], strict=True))
        shown |= dict(zip(*panels[0].get_legend_handles_labels()[::-1], strict=True))
        names = [shortened(one, 30) for one in settings]
        order = [*names, *(name for name in shown if name not in names)]
        figure.legend([shown[one] for one in order], order, loc="outside lower center", ncols=3)
    meaning = (
        "Means over concepts with 95 % intervals (bootstrap over concepts); dashed, the straight "
        "line over the logarithm of the number of concepts. All runs take as many steps, so a run "
        "on more concepts sees each of them less often."
    )
    return finding, meaning, figure


def _measure(axes: Axes, spots: Sequence[Spot], name: str, number: int, settings: int) -> None:
    """Draw one setting: points, intervals, and the line fitted to them."""
    known = [one for one in spots if name in one.values]
    if not known:
        return
    colour, marker = look(number)
    counts = np.array([one.concepts for one in known], float)
    places = counts * 2 ** (NUDGE * (2 * number - settings + 1))
    found = [one.values[name] for one in known]
    means = [one.mean for one in found]
    whole = [[i.mean - i.low for i in found], [i.high - i.mean for i in found]]
    axes.errorbar(
        places,
        means,
        np.nan_to_num(whole),
        fmt=marker,
        color=colour,
        markersize=SOLID,
        elinewidth=1.1,
        label=shortened(known[0].setting, 30),
    )
    if line := fit_line(list(counts), means):
        axes.plot(counts, [line.at(n) for n in counts], "--", color=colour, linewidth=1.3)


def _counts(axes: Axes, counts: Sequence[int]) -> None:
    """Lay out an axis of numbers of concepts."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [f"{count:,}" for count in counts])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("training concepts (logarithmic)")
    if len(counts) > 5:
        axes.tick_params(axis="x", labelrotation=35)


def lines_of(spots: Sequence[Spot], name: str) -> dict[str, Line]:
    """Return the line of every setting that has points enough, for a measure."""
    found = {}
    for setting in dict.fromkeys(spot.setting for spot in spots):
        own = [one for one in spots if one.setting == setting and name in one.values]
        line = fit_line([one.concepts for one in own], [one.values[name].mean for one in own])
        if line is not None:
            found[setting] = line
    return found


def _trends(spots: Sequence[Spot], settings: Sequence[str], kind: str) -> str:
    """Return what held-out steering does with more concepts, setting by setting."""
    lines = lines_of(spots, f"held_out_{kind}")
    what = {"loss": "Held-out loss", "gap": "Held-out concept gap", "score": "Held-out score"}[kind]
    if not lines:
        return _ends(spots, settings, f"held_out_{kind}", what)
    told: dict[str, list[str]] = {}
    for setting in settings:
        if setting in lines:
            line = lines[setting]
            size = f"{shortened(setting, 30)} ({line.slope:+.3f}, R\u00b2 {line.r2:.2f})"
            told.setdefault(_verdict(line), []).append(size)
    said = "; ".join(f"{verdict} for {', '.join(own)}" for verdict, own in told.items())
    return f"{what} per doubling of training concepts: {said}"


def _ends(spots: Sequence[Spot], settings: Sequence[str], name: str, what: str) -> str:
    """Return a measure at the fewest and at the most concepts, where points are too few to fit."""
    told, counts = [], set()
    for setting in settings:
        own = [one for one in spots if one.setting == setting and name in one.values]
        if own:
            counts |= {own[0].concepts, own[-1].concepts}
            first, last = own[0].values[name].mean, own[-1].values[name].mean
            told.append(f"{shortened(setting, 30)} {first:.2f} to {last:.2f}")
    span = f" from {min(counts):,} to {max(counts):,} training concepts" if counts else ""
    return f"{what}{span}: {', '.join(told)}"


def _verdict(line: Line) -> str:
    if line.r2 < CLEAR:
        return "no clear trend"
    return "falls" if line.slope < 0 else "rises"


def draw_cost(spent: Sequence[Spent], reft: float) -> Drawn:
    """Draw the operations per concept until ReFT-r1's loss is reached, and the paper's beside it.

    Args:
        spent: of all settings.
        reft: operations of a ReFT-r1 vector here.
    """
    settings = list(dict.fromkeys(one.setting for one in spent))
    finding = _cheaper(spent, settings, reft)
    with styled():
        figure = new_figure(finding, 4.4)
        left, right = figure.subplots(1, 2)
        for number, setting in enumerate(settings):
            _spending(left, [one for one in spent if one.setting == setting], number)
        left.axhline(reft / TERA, color="black", linewidth=1.4, label="ReFT-r1, each concept")
        _counts(left, sorted({one.concepts for one in spent}))
        left.set(title="here", ylabel="TFLOPs per concept (logarithmic)", yscale="log")
        _paper(right)
        right.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        for axes in (left, right):
            log_ticks(axes.yaxis)
        handles, labels = left.get_legend_handles_labels()
        others = right.get_legend_handles_labels()
        figure.legend(
            [*handles, *others[0]], [*labels, *others[1]], loc="outside lower center", ncols=3
        )
    meaning = (
        "Left: floating-point operations of all steps until the held-in loss is that of ReFT-r1 on "
        "the same rows, divided by the training concepts; curves are fits a + b exp(d n). A hollow "
        "mark is no crossing: pointing up, the loss was not reached and this much was spent in "
        "vain; pointing down, it was reached at the first validation or before, so no more than "
        "this was spent, and no curve is fitted. Right: the paper's own fit for cross attention on "
        "Gemma-2-2B, and its ReFT-r1."
    )
    return finding, meaning, figure


def decays_of(spent: Sequence[Spent]) -> dict[str, Decay]:
    """Return the fit of every setting that reached the loss often enough, in FLOPs.

    Crossings at the first validation or before are upper bounds, which no curve is fitted to.
    """
    found = {}
    for setting in dict.fromkeys(one.setting for one in spent):
        own = [one for one in spent if one.setting == setting and one.reached and one.exact]
        fit = fit_decay([one.concepts for one in own], [one.each for one in own])
        if fit is not None:
            found[setting] = fit
    return found


def _spending(axes: Axes, spent: Sequence[Spent], number: int) -> None:
    """Draw one setting: what it spends, and the fit."""
    colour, marker = look(number)
    for one in spent:
        shape = marker if one.reached and one.exact else "v" if one.reached else "^"
        face = colour if one.reached and one.exact else "white"
        axes.plot(one.concepts, one.each / TERA, shape, mec=colour, mfc=face, markersize=SOLID)
    fit = decays_of(spent).get(spent[0].setting)
    axes.plot([], [], marker, color=colour, linestyle="-", label=shortened(spent[0].setting, 30))
    reached = [one.concepts for one in spent if one.reached and one.exact]
    if fit is not None:
        counts = np.geomspace(min(reached), max(reached), 200)
        values = np.array([fit.at(n) for n in counts]) / TERA
        axes.plot(counts[values > 0], values[values > 0], color=colour, linewidth=1.3)


def _paper(axes: Axes) -> None:
    """Draw the paper's fit and its ReFT-r1."""
    counts = np.geomspace(*PAPER_COUNTS, 300)
    axes.plot(counts, [PAPER.at(n) for n in counts], color=FAINT, linewidth=2, label="paper's fit")
    axes.axhspan(PAPER_REFT - PAPER_SPREAD, PAPER_REFT + PAPER_SPREAD, color=FAINT, alpha=0.35)
    axes.axhline(
        PAPER_REFT,
        color=FAINT,
        linestyle="--",
        linewidth=1.4,
        label="paper's ReFT-r1, each concept",
    )
    axes.set(xscale="log", yscale="log", title="the paper, Gemma-2-2B")
    axes.set_xlabel("training concepts (logarithmic)")


def _cheaper(spent: Sequence[Spent], settings: Sequence[str], reft: float) -> str:
    """Return from how many concepts on each setting costs less than ReFT-r1."""
    told = []
    for setting in settings:
        own = [one for one in spent if one.setting == setting]
        name, reached = shortened(setting, 30), [one for one in own if one.reached]
        below = [one.concepts for one in reached if one.each < reft]
        if below:
            told.append(f"{name} from {min(below):,} concepts on")
        elif reached:
            told.append(f"{name} at none of {len(own)} sizes")
        else:
            told.append(f"{name} never gets there")
    return f"Cheaper per concept than ReFT-r1, for the same held-in loss: {'; '.join(told)}"
