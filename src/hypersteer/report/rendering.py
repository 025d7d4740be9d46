"""The report as Markdown, and as one HTML file that needs nothing else and runs no script."""

import re

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from hypersteer.report.document import Document, Sample, Samples, ratings
from hypersteer.report.layout import NONE, Cell, Table, held_name, number
from hypersteer.report.strength_curves import SERIES, legend_mark

_SPECIAL = re.compile(r"([\\`*_\[\]<>#|~&$])")
_BLOCK = re.compile(r"^(\s*)([-+=]|\d+(?=[.)]))", re.MULTILINE)


def to_markdown(document: Document) -> str:
    """Write the whole report; all texts of models and people are escaped."""
    parts = [f"# {plain(document.title)}"]
    parts.append("\n".join(f"- **{plain(name)}:** {plain(text)}" for name, text in document.facts))
    parts += [f"> **Note:** {plain(notice)}" for notice in document.notices]
    for table in document.tables:
        parts += _table(table)
    if document.curve_table is not None:
        parts += _table(document.curve_table)
    parts.append("## Samples to read")
    parts.append("Best, median and worst reported answer of each method, at the chosen strength.")
    for samples in document.samples:
        parts += _samples(samples)
    parts.append("## Configuration")
    rows = [f"| {plain(name)} | {plain(value)} |" for name, value in document.config]
    parts.append("\n".join(["| Setting | Value |", "| --- | --- |", *rows]))
    return "\n\n".join(parts) + "\n"


def to_html(document: Document) -> str:
    """Write the whole report; whatever is not our own SVG or style sheet is escaped."""
    environment = Environment(
        loader=PackageLoader("hypersteer.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["score"] = _score
    legend = [(name, Markup(legend_mark(name))) for name in reversed(SERIES)]
    return environment.get_template("report.html").render(
        document=document,
        legend=legend,
        none_mark=NONE,
        held_name=held_name,
        ratings=ratings,
        svg=Markup,
    )


def plain(text: str) -> str:
    """Escape text, on one line, so that Markdown, its tables and HTML in it leave it as it is."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def quote(text: str) -> str:
    """Quote text, line by line, so that Markdown leaves it as it is."""
    escaped = [_BLOCK.sub(r"\1\\\2", _SPECIAL.sub(r"\\\1", line.strip())) for line in _lines(text)]
    return "\n".join(f"> {line}  ".rstrip() if not line else f"> {line}  " for line in escaped)


def _lines(text: str) -> list[str]:
    return text.strip().splitlines() or ["(empty)"]


def _table(table: Table) -> list[str]:
    headings = [plain(heading) for heading in _headings(table)]
    rule = ["---", *["---:"] * (len(headings) - 1)]
    lines = [f"| {' | '.join(headings)} |", f"| {' | '.join(rule)} |"]
    for section in table.sections:
        if section.heading:
            cells = [f"*{plain(section.heading)}*", *[""] * (len(headings) - 1)]
            lines.append(f"| {' | '.join(cells)} |")
        lines += [f"| {' | '.join(map(_cell, row))} |" for row in section.rows]
    return [f"## {plain(table.caption)}", "\n".join(lines), plain(table.note)]


def _headings(table: Table) -> list[str]:
    groups = [name for name, width in table.groups for _ in range(width)]
    groups = groups or [""] * len(table.columns)
    return [
        f"{group}: {column}" if group else column
        for group, column in zip(groups, table.columns, strict=True)
    ]


def _cell(cell: Cell) -> str:
    value = f"**{plain(cell.value)}**" if cell.best else plain(cell.value)
    return f"{value} {plain(cell.detail)}".strip()


def _samples(samples: Samples) -> list[str]:
    heading = f"### {plain(samples.method)}, {held_name(samples.held).lower()}"
    return [heading, *[part for sample in samples.samples for part in _sample(sample)]]


def _sample(sample: Sample) -> list[str]:
    row = sample.row
    strength = "" if row.strength is None else f", strength {row.strength:g}"
    scores = [f"overall {_score(row.overall)}"]
    scores += [f"{r.name.lower()} {_score(r.score)}" for r in ratings(row)]
    reasons = [f"- {r.name} {_score(r.score)}: {plain(r.reason)}" for r in ratings(row) if r.reason]
    return [
        f"**{sample.kind.capitalize()}**, {plain(', '.join(scores))}{strength}",
        f"Concept: {plain(row.concept)}  \nInstruction: {plain(row.instruction)}"
        + (f"  \nGiven: {plain(row.given)}" if row.given else ""),
        quote(row.response),
        *(["\n".join(reasons)] if reasons else []),
    ]


def _score(value: float | None) -> str:
    return NONE if value is None else number(value, 2)
