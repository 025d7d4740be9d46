"""`hypersteer concepts distil`: from a list of concepts to a dataset, with no teacher at all."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from tyro.conf import Positional, arg

from hypersteer.cli.options import parse
from hypersteer.config import load_toml
from hypersteer.config.distillation import DistillationConfig
from hypersteer.errors import ConfigError

COMMAND = "concepts distil"
SETTINGS = ".toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConceptsDistil:
    r"""Make a dataset in which the base LM itself, prompted with each concept, is the teacher.

    Its answers are pushed away from what it says unprompted, and the likelihood judge keeps those
    that show the concept and still answer. Nothing is asked of any server. The same command again
    goes on where it was cut off.

    Examples:
      hypersteer concepts distil concepts.txt --out data/distilled --base-lm.dtype bfloat16
      hypersteer concepts distil bundled:wide --limit 320 --out data/distilled
      hypersteer train --data.source data/distilled --loss.objective distillation
    """

    listed: Annotated[
        str | None,
        Positional,
        arg(metavar="[CONCEPTS|SETTINGS.toml]", help_behavior_hint=""),
    ] = None
    """List of concepts (.txt, .jsonl, .json, bundled:wide), or settings in tables."""
    config: Annotated[DistillationConfig, arg(name="")] = field(default_factory=DistillationConfig)


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    listed = argv[0] if argv and not argv[0].startswith("-") else None
    if listed is not None and listed.endswith(SETTINGS):
        config = load_toml(listed, DistillationConfig)
    elif listed is not None:
        config = DistillationConfig(concepts=listed)
    else:
        config = DistillationConfig()
    args = parse(ConceptsDistil, argv, COMMAND, ConceptsDistil(listed=listed, config=config))
    if args.listed != listed:
        raise ConfigError(f"put '{args.listed}' right after '{COMMAND}'")

    from hypersteer.synthesis.distillation import distil

    folder, report = distil(args.config)
    print(f"{report['kept']:,} of {report['tried']:,} answers kept, of", end=" ")
    print(f"{report['concepts'] - report['concepts_without_rows']:,} of", end=" ")
    print(f"{report['concepts']:,} concepts; dropped:")
    for reason, count in report["dropped"].items():
        print(f"  {count:6,}  {reason}")
    print(f"dataset: {folder}; list it with: hypersteer concepts {folder}")
