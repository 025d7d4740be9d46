"""The report: one HTML file that holds its figures, needs nothing else and runs no script."""

import base64
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from hypersteer.analysis.section import Section
from hypersteer.errors import SteeringError
from hypersteer.files import reason, write_text

NAME = "report.html"


TITLE = "Analysis of steering edits"


def write_page(
    folder: Path,
    sections: Sequence[Section],
    facts: Sequence[tuple[str, str]],
    title: str = TITLE,
) -> Path:
    """Write the report, whole or not at all; every text in it is escaped.

    Args:
        folder: where the sections' figures lie, and the report goes.
        sections: in their order.
        facts: what was analysed: names and values.
        title: of the page.

    Raises:
        SteeringError: if it cannot be written.
    """
    try:
        images = {
            drawing.name: _embedded(folder / f"{drawing.name}.svg")
            for section in sections
            for drawing in section.drawings
        }
        write_text(folder / NAME, render(sections, facts, images, title))
    except OSError as error:
        raise SteeringError(f"cannot write to '{folder}': {reason(error)}") from error
    return folder / NAME


def render(
    sections: Sequence[Section],
    facts: Sequence[tuple[str, str]],
    images: dict[str, str],
    title: str = TITLE,
) -> str:
    """Return the report as HTML.

    Args:
        sections: in their order.
        facts: names and values.
        images: the address of each figure, by name.
        title: of the page.
    """
    environment = Environment(
        loader=PackageLoader("hypersteer.analysis"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("analysis.html")
    return template.render(sections=sections, facts=facts, images=images, title=title)


def _embedded(path: Path) -> str:
    """Return an image as an address that holds it."""
    return f"data:image/svg+xml;base64,{base64.b64encode(path.read_bytes()).decode()}"
