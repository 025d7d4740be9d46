"""An evaluation from settings to report: learn, answer, judge, measure; resumable at any moment."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hypersteer.config import EvaluateConfig
from hypersteer.evaluation.findings import Finder, Findings
from hypersteer.evaluation.parts import writing
from hypersteer.evaluation.probes import check_probes_fit, make_probes
from hypersteer.evaluation.protocol import check_fits, make_plan, ways_to_ask
from hypersteer.evaluation.store import ResultsFolder
from hypersteer.evaluation.work import Work
from hypersteer.judges.choose import make_judge
from hypersteer.lm.base import BaseLM
from hypersteer.lm.load import open_lm
from hypersteer.methods.registry import check_split, make_methods
from hypersteer.sharing import Share


@dataclass(frozen=True, slots=True)
class EvaluateResult:
    """What an evaluation leaves.

    Attributes:
        folder: its folder.
        rows: all judged answers, as parquet.
        markdown: the report.
        html: the same with figures, in one self-contained file.
    """

    folder: Path
    rows: Path
    markdown: Path
    html: Path


WriteReport = Callable[[Path, Findings], tuple[Path, Path]]
"""Writes the report of what was found into a folder; paths of its Markdown and its HTML file."""


def run(config: EvaluateConfig, lm: BaseLM | None, write_report: WriteReport) -> EvaluateResult:
    """Evaluate methods; see `hypersteer.report.evaluate.evaluate`, which has it reported.

    Args:
        config: all settings.
        lm: a loaded base LM to share; by default the one that the settings name.
        write_report: writes the report at the end, while the folder is still held.
    """
    folder = ResultsFolder(config)
    with folder.share(config) as share:
        names = _evaluate(config, folder, share, lm, write_report)
        paths = {what: folder.path / name for what, name in names.items()}
        return EvaluateResult(folder.path, paths["rows"], paths["markdown"], paths["html"])


def _evaluate(
    config: EvaluateConfig,
    folder: ResultsFolder,
    share: Share,
    lm: BaseLM | None,
    write_report: WriteReport,
) -> dict[str, str]:
    """Open what the evaluation needs, and do it; return the names of the files at its end."""
    methods = make_methods(config)
    probes = make_probes(config.protocol)
    plan = make_plan(config)
    held_in, held_out = ([c.text for c in plan.concepts(held)] for held in ("held_in", "held_out"))
    check_split(methods, held_in, held_out)
    lm = lm or open_lm(config.base_lm)
    judge = make_judge(config.judge, lm)
    site = lm.site(config.site.layer, config.site.kind)
    check_fits(lm, plan, config, methods)
    check_probes_fit(lm, plan, probes, ways_to_ask(methods))
    folder.start(config)
    work = Work(config, folder, share, methods, plan, lm, site, judge)
    prepared = work.do()

    def report() -> dict[str, str]:
        finder = Finder(config, folder, plan, prepared, judge.name, work.console)
        findings, rows = finder.find(work.rows(), probes)
        with writing(folder.path):
            markdown, html = write_report(folder.path, findings)
        return {"rows": rows.name, "markdown": markdown.name, "html": html.name}

    return share.finish(report)
