"""Write a report: `report.md` and `report.html`, the same figures in both."""

from pathlib import Path

from hypersteer.evaluation.document import compose
from hypersteer.evaluation.report_html import to_html
from hypersteer.evaluation.report_markdown import to_markdown
from hypersteer.evaluation.summary import Findings, summarise
from hypersteer.files import write_text


def write_report(folder: Path, findings: Findings) -> tuple[Path, Path]:
    """Write both forms of the report, each whole or not at all.

    Args:
        folder: where to; made if it is not there. Reports of an earlier run are replaced.
        findings: what the evaluation found.

    Returns:
        Paths of the Markdown and of the HTML file.

    Raises:
        SteeringError: there is nothing to report, or the rows contradict each other.
    """
    document = compose(summarise(findings))
    texts = {"report.md": to_markdown(document), "report.html": to_html(document)}
    for name, text in texts.items():
        write_text(folder / name, text)
    return folder / "report.md", folder / "report.html"
