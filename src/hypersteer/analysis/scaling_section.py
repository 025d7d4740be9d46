"""The sections on scaling and cost, and their report."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from hypersteer.analysis.page import write_page
from hypersteer.analysis.run import Analysis
from hypersteer.analysis.scaling import (
    PAPER,
    PAPER_REFT,
    PAPER_SPREAD,
    Spent,
    Spot,
    measures_of,
    spending,
    spots,
)
from hypersteer.analysis.scaling_figures import TERA, decays_of, draw_cost, draw_measure, lines_of
from hypersteer.analysis.section import Drawing, Listing, Section, write_section
from hypersteer.stats import Interval, mean
from hypersteer.sweeps.run import Swept

KINDS = ("loss", "gap", "score")
HELD = ("held_out", "held_in")


def report_scaling(swept: Swept, folder: Path) -> Analysis:
    """Write figures, numbers and the report of a sweep over numbers of training concepts.

    Args:
        swept: the sweep, ReFT-r1 measured beside it.
        folder: where to.

    Raises:
        SteeringError: if files cannot be written.
    """
    sections = [scaling_section(swept), cost_section(swept)]
    files = [path for section in sections for path in write_section(folder, section)]
    report = write_page(folder, sections, facts_of(swept), "Scaling and cost of hypernetworks")
    findings = {drawing.name: drawing.finding for one in sections for drawing in one.drawings}
    return Analysis(report, files, findings)


def facts_of(swept: Swept) -> list[tuple[str, str]]:
    """Return what was run, in a few lines."""
    train = swept.config.train
    steps, rows = train.optim.steps, train.optim.batch_size
    seconds = sum(one.seconds for one in swept.measured)
    return [
        ("Base LM", train.base_lm.name),
        ("Data", ", ".join(train.data.source)),
        (
            "Runs",
            f"{len(swept.runs)}, {steps} steps of {rows} rows unless a setting says otherwise",
        ),
        ("Seeds", ", ".join(map(str, swept.config.seeds))),
        (
            "Time",
            f"{seconds / 60:.0f} min of training and measuring, runs of other sweeps included",
        ),
    ]


def scaling_section(swept: Swept) -> Section:
    """Lay out what more training concepts bring."""
    found = spots(swept)
    kinds = [kind for kind in KINDS if any(f"{h}_{kind}" in s.values for s in found for h in HELD)]
    levels = _levels(swept)
    note = (
        "Held out are the same concepts in all runs of a seed, and so are those that held-in "
        "measures are of. What is measured is the checkpoint of the last step."
    )
    return Section(
        name="scaling",
        title="More training concepts",
        notes=[note],
        drawings=[
            Drawing(f"scaling_{one}", *draw_measure(found, one, levels if one == "loss" else {}))
            for one in kinds
        ],
        listings=[_listing(found, kinds)],
        numbers={
            "points": [
                {
                    "setting": spot.setting,
                    "concepts": spot.concepts,
                    **{name: value._asdict() for name, value in spot.values.items()},
                }
                for spot in found
            ],
            "lines_over_log2_of_concepts": {
                f"{held}_{kind}": {
                    name: line._asdict() for name, line in lines_of(found, f"{held}_{kind}").items()
                }
                for kind in kinds
                for held in HELD
            },
            "levels": levels,
        },
        tables={"scaling_concepts": _table(swept)},
    )


def _levels(swept: Swept) -> dict[str, dict[str, float]]:
    """Return the losses of the prompted base LM and of ReFT-r1, which steps do not change."""
    found: dict[str, dict[str, float]] = {}
    for held in HELD:
        own = [one.plain.get(f"prompted_{held}_loss") for one in swept.measured]
        known = [value for value in own if value is not None]
        found[held] = {"prompted base LM": mean(known)} if known else {}
    if swept.references:
        found["held_in"]["ReFT-r1"] = mean(one.loss for one in swept.references.values())
    return found


def cell(value: Interval | None, *, sign: bool = False) -> str:
    """Return a mean and its interval as tables show them."""
    if value is None:
        return ""
    form = "+.3f" if sign else ".3f"
    bounds = "" if value.count == 1 else f" [{value.low:{form}}, {value.high:{form}}]"
    return f"{value.mean:{form}}{bounds}"


def _listing(found: list[Spot], kinds: list[str]) -> Listing:
    names = [f"{held}_{kind}" for kind in kinds for held in HELD]
    rows = [
        [spot.setting, f"{spot.concepts:,}", *(cell(spot.values.get(name)) for name in names)]
        for spot in found
    ]
    columns = ["setting", "concepts", *(name.replace("_", " ") for name in names)]
    return Listing("Means over concepts, with 95 % intervals", columns, rows)


def _table(swept: Swept) -> pa.Table:
    """Return one row per setting, number of concepts, measure and concept."""
    rows: list[dict[str, Any]] = [
        {
            "setting": setting.name,
            "concepts": count,
            "measure": name,
            "concept_id": int(id_),
            "value": value,
        }
        for setting in swept.config.settings
        for count in swept.config.concepts
        for name, own in measures_of(swept, setting.name, count).items()
        for id_, value in own.items()
    ]
    return pa.Table.from_pylist(rows)


def cost_section(swept: Swept) -> Section:
    """Lay out what it costs to be as good as ReFT-r1."""
    spent = spending(swept)
    reft = mean(one.flops for one in swept.references.values())
    return Section(
        name="cost",
        title="Operations until the loss of ReFT-r1",
        notes=[_note(swept, reft)],
        drawings=[Drawing("cost_reft", *draw_cost(spent, reft))],
        listings=[
            _fits(spent),
            Listing(
                "Operations per concept",
                ["setting", "concepts", "TFLOPs per concept", "of ReFT-r1's", "seeds there"],
                [
                    [
                        one.setting,
                        f"{one.concepts:,}",
                        f"{_bound(one)}{one.each / TERA:.3g}",
                        f"{_bound(one)}{one.each / reft:.2f}",
                        f"{one.reached} of {one.seeds}",
                    ]
                    for one in spent
                ],
            ),
        ],
        numbers={
            "reft_flops_per_concept": reft,
            "reft": {str(seed): _reference(one) for seed, one in swept.references.items()},
            "points": [
                {
                    "setting": one.setting,
                    "concepts": one.concepts,
                    "flops_per_concept": one.each,
                    "seeds_that_reached_it": one.reached,
                    "seeds": one.seeds,
                    "between_validations": one.exact,
                }
                for one in spent
            ],
            "fits_a_b_exp_d_n": {name: fit._asdict() for name, fit in decays_of(spent).items()},
            "paper": {
                "tflops_a_b_exp_d_n": PAPER._asdict(),
                "reft_tflops": PAPER_REFT,
                "reft_tflops_spread": PAPER_SPREAD,
            },
        },
    )


def _bound(spent: Spent) -> str:
    """Return what stands before what is only a bound of what was spent."""
    if not spent.reached:
        return "above "
    return "" if spent.exact else "at most "


def _fits(spent: list[Spent]) -> Listing:
    """Lay out the fits beside the paper's."""
    found = {name: (fit, TERA) for name, fit in decays_of(spent).items()}
    found["the paper, cross attention on Gemma-2-2B"] = (PAPER, 1.0)
    rows = [
        [name, f"{fit.a / unit:.4g}", f"{fit.b / unit:.4g}", f"{fit.d:.2g}", f"{fit.r2:.4f}"]
        for name, (fit, unit) in found.items()
    ]
    title = "TFLOPs per concept as a + b exp(d n), over n training concepts"
    return Listing(title, ["setting", "a", "b", "d", "R\u00b2"], rows)


def _reference(one: Any) -> dict[str, Any]:
    return {"form": one.form, "loss": one.loss, "losses_by_form": one.forms, "flops": one.flops}


def _note(swept: Swept, reft: float) -> str:
    forms = {one.form for one in swept.references.values()}
    losses = ", ".join(f"{one.loss:.3f}" for one in swept.references.values())
    return (
        f"ReFT-r1 learns each of the validated concepts from the same rows; its lowest held-in "
        f"loss is {losses} (form: {', '.join(sorted(forms))}), for {reft / TERA:.3g} TFLOPs a "
        "concept. Counted are the matrix products of all training steps."
    )
