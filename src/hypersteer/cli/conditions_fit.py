"""`hypersteer conditions fit`: from prompts in and off a topic to a condition's file."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from tyro.conf import arg

from hypersteer.cli.conditions_data import Labelled, Reader, Topic, read_sides, watching
from hypersteer.cli.options import OptionalText, parse
from hypersteer.config.conditions import ConditionConfig
from hypersteer.errors import ConfigError
from hypersteer.files import output_file


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionsFit:
    r"""Learn a condition from prompts in and off its topic, at all layers in one pass.

    Layers and threshold are chosen by scores of held-out prompts, each by what the others taught.

    Examples:
      hypersteer conditions fit health.jsonl --split train --out health.safetensors
      hypersteer conditions fit --in legal.txt --off other.txt --out legal.safetensors
      hypersteer conditions fit health.jsonl --out health.safetensors --false-positives 0.02
      hypersteer conditions fit health.jsonl --out cast.safetensors --scorer legacy --pooling all \
        --method paired
    """

    labelled: Labelled = None
    """File of lines {"prompt": TEXT, "label": "in" or "out"}; or give --in and --off."""
    topic: Annotated[Topic, arg(name="")] = field(default_factory=Topic)
    out: OptionalText = None
    """File to write, such as health.safetensors."""
    name: OptionalText = None
    """What the condition is about; by default the name of the file."""
    config: Annotated[ConditionConfig, arg(name="")] = field(default_factory=ConditionConfig)
    reader: Annotated[Reader, arg(name="")] = field(default_factory=Reader)


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    args = parse(ConditionsFit, argv, "conditions fit")
    if args.out is None:
        raise ConfigError("say where to write the condition: --out NAME.safetensors")
    out = output_file(args.out, "--out")
    sides = read_sides(args.labelled, args.topic)

    from hypersteer.conditions.fit import fit_condition

    lm = args.reader.load()
    with watching("reading prompts") as watch:
        condition = fit_condition(
            lm,
            sides.positives,
            sides.negatives,
            name=args.name or out.stem,
            config=args.config,
            watch=watch,
        )
    path = condition.save(out)

    from hypersteer.cli.conditions_show import print_condition

    print_condition(condition)
    print(f"wrote {path}; test it on other prompts with: hypersteer conditions test {path} ...")
