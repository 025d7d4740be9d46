"""`hypersteer train`: from a TOML file and options to a checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from tyro.conf import Positional, arg

from hypersteer.cli.options import Flag, parse
from hypersteer.config import TrainConfig, load_toml
from hypersteer.errors import ConfigError
from hypersteer.launched import rank


@dataclass(frozen=True, slots=True, kw_only=True)
class Train:
    """Train a hypernetwork; the base LM stays as it is.

    The same command again resumes a run that was cut off; with --extend and more --optim.steps,
    also where it had finished. Settings that neither the file nor an option names keep their
    defaults.

    Examples:
      hypersteer train --out runs/mine --optim.steps 100 --hypernet.blocks 2
      hypersteer train settings.toml --data.source axbench:concept10/2b/l20
      hypersteer train settings.toml --extend --optim.steps 600
      hypersteer train settings.toml --dry-run --plan.processes 8
      accelerate launch -m hypersteer train settings.toml
    """

    settings: Annotated[
        str | None, Positional, arg(metavar="[SETTINGS.toml]", help_behavior_hint="")
    ] = None
    """Settings, in tables as the options below name them; options win over it."""
    extend: Flag = False
    """Go on with the run in the folder though optim.steps is another number."""
    dry_run: Flag = False
    """Check the settings and print what the run would be: parameters, memory, FLOPs, hours, disk.
    No weights are loaded or fetched, and nothing is written."""
    config: Annotated[TrainConfig, arg(name="")] = field(default_factory=TrainConfig)


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    settings = argv[0] if argv and not argv[0].startswith("-") else None
    config = load_toml(settings, TrainConfig) if settings is not None else TrainConfig()
    args = parse(Train, argv, "train", Train(settings=settings, config=config))
    if args.settings != settings:
        raise ConfigError(f"put the settings file '{args.settings}' right after 'train'")

    if args.dry_run:
        from hypersteer.cli.plan import print_plan
        from hypersteer.training.plan import make_plan

        print_plan(make_plan(args.config))
        return

    from hypersteer.training.loop import train

    result = train(args.config, extend=args.extend)
    if rank():
        return

    from hypersteer.cli.show import print_next
    from hypersteer.hypernet.card import read_card

    of = f"step {result.best_step} of {result.step}"
    print(f"checkpoint: {result.folder} (the best, {of}); metrics: {result.folder}/metrics.jsonl")
    print_next(result.folder, read_card(result.folder).concepts[-1])
