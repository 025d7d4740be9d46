"""Skill kept and refusals in the report: columns beside the overall score, and a table by kind."""

from hypersteer.methods.registry import UNSTEERED
from hypersteer.report.layout import EMPTY, Cell, Section, Table, bounds, share
from hypersteer.report.summary import Summary
from hypersteer.stats import Interval


def measure_columns(summary: Summary) -> list[str]:
    """Return headings of what was measured beside the scores; empty where nothing was."""
    names = {"skills": "Skill kept", "refusals": "Refusals"}
    return [heading for measure, heading in names.items() if measure in summary.findings.measures]


def measure_cells(summary: Summary, method: str) -> list[Cell]:
    """Return a method's cells under `measure_columns`."""
    cells, found = [], summary.findings.measures
    if "skills" in found:
        values = found["skills"].get(method)
        cells.append(_kept(method, values.kept if values else None))
    if "refusals" in found:
        values = found["refusals"].get(method)
        cells.append(_share(values.share if values else None))
    return cells


def measure_note(summary: Summary) -> str:
    """Return how to read the columns; empty where there are none."""
    said = {
        "skills": " Skill kept: solved skill items, steered at the chosen strengths, over those "
        "that the unsteered model solves; bootstrapped in pairs over items.",
        "refusals": " Refusals: share of harmless requests refused, steered likewise.",
    }
    return "".join(text for measure, text in said.items() if measure in summary.findings.measures)


def skill_table(summary: Summary) -> Table | None:
    """Lay out the shares of skill items solved, by kind; None if they were not measured."""
    found = summary.findings.measures.get("skills")
    if not found:
        return None
    kinds = list(dict.fromkeys(kind for values in found.values() for kind in values.kinds))
    rows = [
        [
            Cell(method),
            _kept(method, values.kept),
            _share(values.share),
            *[_share(values.kinds.get(kind)) for kind in kinds],
        ]
        for method in summary.methods
        if (values := found.get(method)) is not None
    ]
    count = next(iter(found.values())).share.count
    return Table(
        name="skills",
        caption="Skill kept, by kind",
        note=f"Share of {count} small tasks with exact answers that are solved, with 95 % "
        "intervals over items. Each item is steered towards one of the evaluated concepts, with "
        "which it has nothing to do, at the strength chosen for it; answers are greedy. Kept: over "
        "the share of the unsteered model on the same items.",
        groups=[("", 1), ("", 1), ("Solved", 1 + len(kinds))],
        columns=["Method", "Kept", "All", *[kind.capitalize() for kind in kinds]],
        sections=[Section("", rows)],
    )


def _kept(method: str, interval: Interval | None) -> Cell:
    return Cell("reference") if method == UNSTEERED else _share(interval)


def _share(interval: Interval | None) -> Cell:
    return EMPTY if interval is None else Cell(share(interval.mean), bounds(interval, share))
