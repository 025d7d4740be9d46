"""The report as one HTML file that needs nothing else and runs no script."""

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from hypersteer.report.document import Document
from hypersteer.report.examples import ratings
from hypersteer.report.formatting import NONE, held_name, number
from hypersteer.report.strength_curves import SERIES, legend_mark


def to_html(document: Document) -> str:
    """The whole report; whatever is not our own SVG or style sheet is escaped."""
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


def _score(value: float | None) -> str:
    return NONE if value is None else number(value, 2)
