"""`hypersteer evaluate`: methods side by side, as AxBench does it, with one report."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from tyro.conf import Positional, arg

from hypersteer.cli.options import parse
from hypersteer.config import EvaluateConfig, load_toml
from hypersteer.errors import ConfigError
from hypersteer.launched import rank


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluate:
    """Evaluate methods: answers at every strength, judged, and reported on other prompts.

    The same command again resumes an evaluation that was cut off; a method added later is
    evaluated into the same folder. Hyperparameters of a method are set in the file only, in a
    table [settings.METHOD].

    Examples:
      hypersteer evaluate experiments/table1_cpu.toml
      hypersteer evaluate --methods prompting diffmean runs/bundled --protocol.prompts 4
      hypersteer evaluate settings.toml --judge.kind llm --judge.model gpt-4o-mini
      accelerate launch -m hypersteer evaluate settings.toml
    """

    settings: Annotated[
        str | None, Positional, arg(metavar="[SETTINGS.toml]", help_behavior_hint="")
    ] = None
    """Settings, in tables as the options below name them; options win over it."""
    config: Annotated[EvaluateConfig, arg(name="")] = field(default_factory=EvaluateConfig)


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    settings = argv[0] if argv and not argv[0].startswith("-") else None
    if argv[:1] == ["--config"]:  # as `--config FILE` as well as `FILE`
        settings, argv = (argv[1] if len(argv) > 1 else ""), argv[1:]
    config = load_toml(settings, EvaluateConfig) if settings is not None else EvaluateConfig()
    args = parse(Evaluate, argv, "evaluate", Evaluate(settings=settings, config=config))
    if args.settings != settings:
        raise ConfigError(f"put the settings file '{args.settings}' right after 'evaluate'")

    from hypersteer.report.evaluate import evaluate

    result = evaluate(args.config)
    if rank():
        return
    print(f"rows: {result.rows}")
    print(f"report: {result.markdown}, and with figures {result.html}")
