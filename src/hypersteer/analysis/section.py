"""A part of an analysis: what was found, its figures, and the numbers behind them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.figure import Figure

from hypersteer.analysis.style import write_figure
from hypersteer.errors import SteeringError
from hypersteer.files import reason, replacing, to_json, write_text


class Drawing(NamedTuple):
    """A figure.

    Attributes:
        name: of its files.
        finding: what it shows, in one sentence; the figure's own title.
        meaning: how it is to be read.
        figure: drawn under `style.styled`.
    """

    name: str
    finding: str
    meaning: str
    figure: Figure


class Listing(NamedTuple):
    """A small table of texts, the first column being what a row is about."""

    title: str
    columns: list[str]
    rows: list[list[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of an analysis.

    Attributes:
        name: as the command line calls it.
        title: its heading.
        notes: what a reader must know.
        drawings: its figures; the first one's finding is the section's.
        listings: its tables.
        numbers: of JSON types; written to `NAME.json`.
        tables: by name; written to `NAME.parquet`.
    """

    name: str
    title: str
    notes: list[str] = field(default_factory=list)
    drawings: list[Drawing] = field(default_factory=list)
    listings: list[Listing] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, pa.Table] = field(default_factory=dict)


def write_section(folder: Path, section: Section) -> list[Path]:
    """Write a section's figures and numbers, each file whole or not at all.

    Args:
        folder: where to; made if it is not there. Files of an earlier analysis are replaced.
        section: what to write.

    Returns:
        The files.

    Raises:
        SteeringError: if they cannot be written.
    """
    written = []
    try:
        for drawing in section.drawings:
            written += write_figure(folder, drawing.name, drawing.figure)
        for name, table in section.tables.items():
            with replacing(folder / f"{name}.parquet") as temporary:
                pq.write_table(table, temporary)
            written.append(folder / f"{name}.parquet")
        path = folder / f"{section.name}.json"
        findings = {one.name: one.finding for one in section.drawings}
        text = to_json({"findings": findings, **section.numbers}, indent=2, ensure_ascii=False)
        write_text(path, f"{text}\n")
    except OSError as error:
        raise SteeringError(f"cannot write to '{folder}': {reason(error)}") from error
    return [*written, path]
