"""`hypersteer analyze scaling` and `ablations`: sweeps of runs, and what they show."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from hypersteer.cli.options import Flag, OptionalText, missing_extra, parse
from hypersteer.config import load_toml
from hypersteer.config.sweeps import SweepConfig

if TYPE_CHECKING:
    from hypersteer.sweeps.run import Sweep

File = Annotated[str, Positional, arg(metavar="SWEEP.toml", help_behavior_hint="")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """Train on more and more concepts, and draw what that brings and what it costs.

    The figures are those of the paper: scores and losses over the number of training concepts
    (Figure 2), and the operations until the loss of ReFT-r1 is reached (Figure 3). The same command
    again goes on where it was cut off; runs that are there are not trained again.

    Examples:
      hypersteer analyze scaling experiments/scaling_cpu.toml --dry-run
      hypersteer analyze scaling experiments/scaling_cpu.toml --out figures/scaling
    """

    file: File
    """What is trained; see docs/analysis.md."""
    dry_run: Flag = False
    """Only say what would be done, and about how long it takes."""
    out: OptionalText = None
    """Folder of the report instead of the file's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablations:
    """Train a run and variations of it, and lay them out in one table (the paper's Table 2).

    The table is written as Markdown, HTML and JSON. The same command again goes on where it was cut
    off; runs that are there are not trained again.

    Examples:
      hypersteer analyze ablations experiments/ablations_cpu.toml --dry-run
      hypersteer analyze ablations experiments/ablations_cpu.toml --out figures/ablations
    """

    file: File
    """What is trained; see docs/analysis.md."""
    dry_run: Flag = False
    """Only say what would be done, and about how long it takes."""
    out: OptionalText = None
    """Folder of the report instead of the file's."""


def main(part: str, argv: Sequence[str]) -> None:
    """Run the command.

    Args:
        part: `scaling` or `ablations`.
        argv: what follows it.
    """
    args = parse(Scaling if part == "scaling" else Ablations, argv, f"analyze {part}")
    config = load_toml(args.file, SweepConfig)
    try:
        from hypersteer.analysis.ablations_section import report_ablations
        from hypersteer.analysis.scaling_section import report_scaling
    except ImportError as error:
        raise missing_extra("the analysis", "analysis", error) from error
    from hypersteer.files import output_folder
    from hypersteer.report.evaluate import write_report
    from hypersteer.sweeps.run import go, plan_sweep

    folder = output_folder(args.out or config.out, "out")
    sweep = plan_sweep(config, compared=part == "scaling")
    _show(sweep)
    if args.dry_run:
        return
    swept = go(sweep, write_report)
    done = (report_scaling if part == "scaling" else report_ablations)(swept, folder)
    for finding in done.findings.values():
        print(finding)
    print(f"report: {done.report}, beside {len(done.files)} files of figures and numbers")


def _show(sweep: "Sweep") -> None:
    """Print the plan."""
    from hypersteer.sweeps.estimate import duration

    found = sweep.expected
    width = max(len(task.run.told) for task in found.tasks)
    for number, task in enumerate(found.tasks, start=1):
        left = "" if not task.seconds else f", about {duration(task.seconds)}"
        judged = ", judged" if task.run.judged else ""
        steps = f"{task.run.config.optim.steps} steps"
        print(f"{number:>3}  {task.run.told:<{width}}  {steps}{judged}  {task.state}{left}")
    rate = f"{found.per_row:.2f} s for a training row"
    known = f"as {found.known} finished runs took" if found.known else "a guess"
    todo = sum(task.state in ("to do", "begun") for task in found.tasks)
    print(
        f"{todo} of {len(found.tasks)} runs left, {found.answers:,} answers to judge in all: about "
        f"{duration(found.seconds)} ({rate}, {known})",
        flush=True,
    )
