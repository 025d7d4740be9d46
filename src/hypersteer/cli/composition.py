"""`hypersteer analyze composition`: two steering prompts at once, and negative strengths."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from tyro.conf import Positional, arg

from hypersteer.cli.options import BUNDLED, Loading, missing_extra, parse
from hypersteer.config.analysis import AnalysisConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Composition:
    """Measure what becomes of two edits that act at once, and of edits from strength -2 to 2.

    Two steering prompts go together as the sum of their edits, as edits at two sites, and as one
    joint text. Each concept's own answers are read under both and under its edit alone, and what is
    lost is held against the cosine of the two edits.

    Examples:
      hypersteer analyze composition
      hypersteer analyze composition runs/vector runs/gated --concepts 10 --out figures
    """

    checkpoints: Annotated[
        tuple[str, ...], Positional, arg(metavar="[CHECKPOINT ...]", help_behavior_hint="")
    ] = (BUNDLED,)
    """Folders or Hub ids, or bundled, the default; more than one are drawn side by side."""
    data: tuple[str, ...] = ("bundled",)
    """Where concepts and their answers come from, as `hypersteer train` takes them."""
    concepts: int = 8
    """How many concepts; those that no checkpoint was trained on come first."""
    max_new_tokens: int = 48
    """Most tokens of an answer that are read."""
    seed: int = 0
    """Chooses concepts, pairs and answers."""
    out: str = "runs/composition"
    """Folder of the report, the figures and their numbers."""
    loading: Annotated[Loading, arg(name="")] = field(default_factory=Loading)


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    args = parse(Composition, argv, "analyze composition")
    names = ("data", "concepts", "max_new_tokens", "seed", "out")
    config = AnalysisConfig(**{name: getattr(args, name) for name in names})
    try:
        from hypersteer.analysis.composition_section import report_composition
        from hypersteer.analysis.run import BaseLMChoice
    except ImportError as error:
        raise missing_extra("the analysis", "analysis", error) from error
    loading = args.loading
    done = report_composition(
        args.checkpoints, config, BaseLMChoice(loading.lm, loading.device, loading.dtype)
    )
    for finding in done.findings.values():
        print(finding)
    print(f"report: {done.report}, beside {len(done.files)} files of figures and numbers")
