"""`hypersteer concepts build`: from a list of concepts to a dataset, written by a teacher."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from hypersteer.cli.options import Flag, parse
from hypersteer.config import load_toml
from hypersteer.config.synthesis import SynthesisConfig
from hypersteer.errors import ConfigError

if TYPE_CHECKING:
    from hypersteer.synthesis.build import Confirm
    from hypersteer.synthesis.estimate import Estimate

COMMAND = "concepts build"
SETTINGS = ".toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConceptsBuild:
    r"""Make a dataset in AxBench's format, with a teacher that writes the responses.

    It tells first what it will ask and, with prices set, what that costs. The same command again
    goes on where it was cut off; nothing is paid for twice. The finished folder is a data source
    for train, evaluate and concepts.

    Examples:
      hypersteer concepts build concepts.txt --out data/mine --instructions bundled \
        --counts.train-positives 12 --counts.test-positives 4 --counts.test-negatives 8 \
        --counts.pool-negatives 12 --teacher.input-price 0.15 --teacher.output-price 0.6
      hypersteer concepts build features.json --limit 100 --out data/features
      hypersteer concepts build settings.toml --yes
      hypersteer concepts build concepts.txt --teacher.base-url http://localhost:11434/v1 \
        --teacher.model qwen3:8b
      hypersteer concepts build --theme "moods of the sea" --invent 30 --teacher.kind local
    """

    listed: Annotated[
        str | None,
        Positional,
        arg(metavar="[CONCEPTS|SETTINGS.toml]", help_behavior_hint=""),
    ] = None
    """List of concepts (.txt, .jsonl, .json), or settings in tables as the options name them."""
    yes: Flag = False
    """Begin without asking, whatever it costs."""
    config: Annotated[SynthesisConfig, arg(name="")] = field(default_factory=SynthesisConfig)


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    listed = argv[0] if argv and not argv[0].startswith("-") else None
    if listed is not None and listed.endswith(SETTINGS):
        config = load_toml(listed, SynthesisConfig)
    else:
        config = SynthesisConfig(concepts=listed)
    args = parse(ConceptsBuild, argv, COMMAND, ConceptsBuild(listed=listed, config=config))
    if args.listed != listed:
        raise ConfigError(f"put '{args.listed}' right after '{COMMAND}'")

    from hypersteer.synthesis.build import build
    from hypersteer.synthesis.report import report_table, usage_line

    result = build(args.config, confirm=_confirm(args))
    if result is None:
        print("nothing was asked", file=sys.stderr)
        return

    from rich.console import Console

    Console().print(report_table(result.report))
    print(f"this run: {usage_line(result.usage)}")
    short = len(result.report["missing"])
    if short:
        print(f"{short:,} parts have fewer rows than wanted; see {result.folder}/report.json")
    print(f"dataset: {result.folder}; list it with: hypersteer concepts {result.folder}")


def _confirm(args: ConceptsBuild) -> "Confirm":
    """Shows the estimate; asks where someone is there to answer, and something may cost."""

    def confirm(found: "Estimate") -> bool:
        from rich.console import Console

        teacher = args.config.teacher
        local = teacher.kind == "local"
        if found.calls:
            console = Console(stderr=True)
            console.print(found.table(args.config.base_lm.name if local else teacher.model))
        asked = found.calls and sys.stdin.isatty() and sys.stderr.isatty()
        if args.yes or local or not asked:
            return True
        print("begin? [y/N] ", end="", file=sys.stderr, flush=True)
        return sys.stdin.readline().strip().casefold() in ("y", "yes")

    return confirm
