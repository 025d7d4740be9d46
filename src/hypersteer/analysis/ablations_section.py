"""The section on ablations: one table, as Markdown, HTML and JSON, and a figure."""

from pathlib import Path
from typing import Any

from hypersteer.analysis.ablations import MEASURES, Ablation, ablations
from hypersteer.analysis.ablations_figures import draw_differences
from hypersteer.analysis.page import write_page
from hypersteer.analysis.run import Analysis
from hypersteer.analysis.scaling_figures import TERA
from hypersteer.analysis.scaling_section import cell, facts_of
from hypersteer.analysis.section import Drawing, Listing, Section, write_section
from hypersteer.errors import SteeringError
from hypersteer.files import reason, write_text
from hypersteer.sweeps.run import Swept

MARKDOWN = "ablations.md"


def report_ablations(swept: Swept, folder: Path) -> Analysis:
    """Write the table, the figure, the numbers and the report of a sweep over settings.

    Args:
        swept: the sweep.
        folder: where to.

    Raises:
        SteeringError: if files cannot be written.
    """
    section = ablations_section(swept)
    files = write_section(folder, section)
    path = folder / MARKDOWN
    try:
        write_text(path, "\n\n".join(map(markdown, section.listings)) + "\n")
    except OSError as error:
        raise SteeringError(f"cannot write to '{folder}': {reason(error)}") from error
    report = write_page(folder, [section], facts_of(swept), "Ablations of hypernetworks")
    findings = {drawing.name: drawing.finding for drawing in section.drawings}
    return Analysis(report, [*files, path], findings)


def ablations_section(swept: Swept) -> Section:
    """Lay out what each setting changes."""
    found = ablations(swept)
    names = [name for name in MEASURES if any(name in one.values for one in found)]
    seeds = len(swept.config.seeds)
    note = (
        f"Every setting is trained with {seeds} seed{'s' * (seeds > 1)}, and measured at its last "
        "step. Learning rates follow the paper's rule for depth, 8e-5 sqrt(20 / blocks), where the "
        "settings name none. Seeds apart is how far the means of the seeds lie from each other: a "
        "difference that is smaller may be one of seeds."
    )
    drawings = []
    if any(one.differences for one in found):
        drawings.append(Drawing("ablations", *draw_differences(found)))
    return Section(
        name="ablations",
        title="What each setting changes",
        notes=[note],
        drawings=drawings,
        listings=[_values(found, names), _differences(found, names)],
        numbers={
            "settings": [_numbers(one) for one in found],
            "compared_with": found[0].name,
            "seeds": list(swept.config.seeds),
        },
    )


def _numbers(one: Ablation) -> dict[str, Any]:
    return {
        "name": one.name,
        "group": one.group,
        "values": {name: value._asdict() for name, value in one.values.items()},
        "differences": {name: value._asdict() for name, value in one.differences.items()},
        "means_by_seed": dict(one.by_seed),
        "parameters": one.parameters,
        "learning_rate": one.rate,
        "flops": one.flops,
    }


def _values(found: list[Ablation], names: list[str]) -> Listing:
    columns = ["setting", "varied", *(name.replace("_", " ") for name in names)]
    columns += ["seeds apart (held-out loss)", "parameters", "peak rate", "TFLOPs"]
    rows = [
        [
            one.name,
            one.group,
            *(cell(one.values.get(name)) for name in names),
            f"{one.spread['held_out_loss']:.3f}" if "held_out_loss" in one.spread else "",
            f"{one.parameters / 1e6:.1f} M",
            f"{one.rate:.1e}",
            f"{one.flops / TERA:.1f}",
        ]
        for one in found
    ]
    return Listing("Means over concepts, with 95 % intervals", columns, rows)


def _differences(found: list[Ablation], names: list[str]) -> Listing:
    columns = ["setting", "varied", *(name.replace("_", " ") for name in names)]
    rows = [
        [one.name, one.group, *(cell(one.differences.get(name), sign=True) for name in names)]
        for one in found[1:]
    ]
    return Listing(f"Differences from '{found[0].name}', with 95 % intervals", columns, rows)


def markdown(listing: Listing) -> str:
    """Return a table as Markdown, under its title."""
    lines = [listing.columns, ["---"] * len(listing.columns), *listing.rows]
    escaped = [[" ".join(one.split()).replace("|", "\\|") for one in line] for line in lines]
    table = "\n".join(f"| {' | '.join(line)} |" for line in escaped)
    return f"**{listing.title}**\n\n{table}"
