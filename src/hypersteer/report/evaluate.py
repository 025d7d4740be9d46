"""Evaluate and report: `rows.parquet`, `report.md` and `report.html`, the same values in all."""

from pathlib import Path

from hypersteer.config import EvaluateConfig
from hypersteer.evaluation.findings import Findings
from hypersteer.evaluation.run import EvaluateResult, run
from hypersteer.files import write_text
from hypersteer.lm.base import BaseLM
from hypersteer.report.document import compose
from hypersteer.report.rendering import to_html, to_markdown
from hypersteer.report.summary import summarise


def evaluate(config: EvaluateConfig, lm: BaseLM | None = None) -> EvaluateResult:
    """Evaluate methods as AxBench does; an evaluation that was cut off resumes.

    Args:
        config: all settings.
        lm: a loaded base LM to share; by default the one that the settings name.

    Raises:
        ConfigError: for an unknown method or judge, or a folder of another evaluation or in use.
        DataError: if data or instructions cannot be read.
        SteeringError: for anything else in the settings that cannot be done.
    """
    return run(config, lm, write_report)


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
