"""`hypersteer conditions`: fit, test and show conditions, which decide when an edit acts."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import DisallowNone, Positional, arg

from hypersteer.cli.condition_heads import teach, write
from hypersteer.cli.condition_reader import Reader, print_condition, print_metrics
from hypersteer.cli.condition_texts import build
from hypersteer.cli.options import Flag, OptionalText, parse
from hypersteer.config.conditions import ConditionConfig
from hypersteer.errors import ConfigError, nearest
from hypersteer.files import output_file, to_json

if TYPE_CHECKING:
    from hypersteer.conditions.condition import Condition
    from hypersteer.conditions.contrasts import Sides
    from hypersteer.conditions.fit import Measured

Labelled = Annotated[
    str | None, Positional, DisallowNone, arg(metavar="[PROMPTS]", help_behavior_hint="")
]
"""A file whose lines say which side they are on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """Prompts in and off the topic."""

    positives: Annotated[OptionalText, arg(name="in", metavar="FILE", help_behavior_hint="")] = None
    """Prompts in the topic, one a line, or a .jsonl file of lines {"prompt": TEXT}."""
    negatives: Annotated[OptionalText, arg(name="off", metavar="FILE", help_behavior_hint="")] = (
        None
    )
    """Prompts off the topic, likewise; in the same order where they make pairs."""
    split: OptionalText = None
    """Only lines of PROMPTS that have this split, such as train."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionsFit:
    r"""Learn a condition from prompts in and off its topic, at all layers in one pass.

    Layers and threshold are chosen by scores of held-out prompts, each by what the others taught.

    Examples:
      hypersteer conditions fit bundled:health --split train --out health.safetensors
      hypersteer conditions fit --in legal.txt --off other.txt --out legal.safetensors
      hypersteer conditions fit bundled:health --out health.safetensors --false-positives 0.02
      hypersteer conditions fit bundled:health --out cast.safetensors --scorer legacy \
        --pooling all --method paired
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionsTest:
    """Measure a condition on prompts that it was not fitted on, and show what it gets wrong.

    Examples:
      hypersteer conditions test health.safetensors bundled:health --split test
      hypersteer conditions test "asks about health" bundled:health --split test
      hypersteer conditions test legal.safetensors --in legal-test.txt --off other-test.txt --json
    """

    condition: Annotated[str, Positional, arg(metavar="CONDITION")]
    """File that 'hypersteer conditions fit' wrote, or a condition's words."""
    labelled: Labelled = None
    """File of lines {"prompt": TEXT, "label": "in" or "out"}; or give --in and --off."""
    topic: Annotated[Topic, arg(name="")] = field(default_factory=Topic)
    wrong: int = 5
    """Prompts shown at most of those that it gets wrong, worst first."""
    json: Flag = False
    """Print one JSON object per prompt (prompt, label, score, fired), then one of the figures."""
    reader: Annotated[Reader, arg(name="")] = field(default_factory=Reader)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionsShow:
    """Say what is in the file of a condition: where it is read, when it fires, how well it does.

    Examples:
      hypersteer conditions show health.safetensors
      hypersteer conditions show health.safetensors --layers
    """

    condition: Annotated[str, Positional, arg(metavar="CONDITION")]
    """File that 'hypersteer conditions fit' wrote."""
    layers: Flag = False
    """List all fitted layers with the variance that their directions explain."""


def main(argv: Sequence[str]) -> None:
    """Run the part of the command that is named first."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return
    if argv[0] not in PARTS:
        raise ConfigError(f"unknown command 'conditions {argv[0]}'{nearest(argv[0], PARTS)}")
    PARTS[argv[0]][1](argv[1:])


def fit(argv: Sequence[str]) -> None:
    """Run `conditions fit`: from prompts in and off a topic to a condition's file."""
    args = parse(ConditionsFit, argv, "conditions fit")
    if args.out is None:
        raise ConfigError("say where to write the condition: --out NAME.safetensors")
    out = output_file(args.out, "--out")
    positives, negatives = _read_sides(args.labelled, args.topic)

    from hypersteer.conditions.fit import fit_condition
    from hypersteer.progress import ProgressBar

    lm, name = args.reader.load(), args.name or out.stem
    with ProgressBar("reading prompts", None, transient=True) as bar:
        condition = fit_condition(
            lm, positives, negatives, name=name, config=args.config, watch=bar.update
        )
    path = condition.save(out)
    print_condition(condition)
    print(f"wrote {path}; test it on other prompts with: hypersteer conditions test {path} ...")


def test(argv: Sequence[str]) -> None:
    """Run `conditions test`: a condition, with its threshold, on prompts of their own."""
    args = parse(ConditionsTest, argv, "conditions test")
    sides = _read_sides(args.labelled, args.topic)

    from hypersteer.conditions.condition import load_condition
    from hypersteer.conditions.fit import measure_condition
    from hypersteer.conditions.written import condition as written_condition
    from hypersteer.progress import ProgressBar

    in_words = _in_words(args.condition)
    known = None if in_words else load_condition(args.condition)
    lm = args.reader.load()
    condition = known or written_condition(args.condition, lm=lm)
    with ProgressBar("reading prompts", None, transient=True) as bar:
        measured = measure_condition(lm, condition, *sides, watch=bar.update)
    decided = _decisions(condition, sides, measured)
    if args.json:
        for prompt, label, score, fired in decided:
            line = {"prompt": prompt, "label": label, "score": round(score, 6), "fired": fired}
            print(to_json(line, ensure_ascii=False))
        print(to_json({"figures": measured.metrics}))
        return
    print_metrics(measured.metrics, f"{len(sides.positives)} in, {len(sides.negatives)} off")
    wrong = [
        (label, abs(score - condition.threshold), prompt)
        for prompt, label, score, fired in decided
        if fired != (label == "in")
    ]
    for label, distance, prompt in sorted(wrong, key=lambda one: -one[1])[: max(0, args.wrong)]:
        told = "should fire" if label == "in" else "should not fire"
        print(f"{told}, off by {distance:.3f}: {prompt}")


def show(argv: Sequence[str]) -> None:
    """Run `conditions show`: what is in the file of a condition."""
    args = parse(ConditionsShow, argv, "conditions show")

    from hypersteer.conditions.condition import load_condition

    condition = load_condition(args.condition)
    print_condition(condition)
    if args.layers:
        for layer, share in zip(condition.fitted, condition.explained, strict=False):
            print(f"layer {layer}: {share:.1%} of the variance")


PARTS = {
    "write": ("Write a condition from words, with no examples or a few.", write),
    "fit": ("Learn a condition from prompts in and off its topic.", fit),
    "test": ("Measure a condition on prompts of their own.", test),
    "show": ("Say what is in the file of a condition.", show),
    "build": ("Have texts written for conditions in words, for a head to learn from.", build),
    "teach": ("Train a head that writes conditions from words.", teach),
}


def _overview() -> str:
    listed = "\n".join(f"  {name:<6} {text}" for name, (text, _) in PARTS.items())
    return f"""\
usage: hypersteer conditions [-h] {{write,fit,test,show,build,teach}} ...

Conditions decide when an edit acts: directions that are only measured.

commands:
{listed}

Examples:
  hypersteer conditions write "asks about health" --out health.safetensors
  hypersteer conditions fit bundled:health --out health.safetensors
  hypersteer conditions fit --in legal.txt --off other.txt --out legal.safetensors
  hypersteer conditions test health.safetensors bundled:health --split test
  hypersteer conditions show health.safetensors
  hypersteer conditions fit --help"""


def _in_words(condition: str) -> bool:
    """Return whether a condition is told in words: no file, and no name of one."""
    return " " in condition.strip() and not Path(condition).exists()


def _read_sides(labelled: str | None, topic: Topic) -> "Sides":
    """Read the prompts of both sides.

    Raises:
        ConfigError: unless there is one labelled file, or a file for each side.
        DataError: if a file cannot be read, is malformed, or holds no prompts.
    """
    from hypersteer.conditions.contrasts import Sides, read_labelled, read_prompts

    two = (topic.positives, topic.negatives)
    if labelled is not None and two == (None, None):
        return read_labelled(labelled, topic.split)
    if labelled is not None or None in two:
        raise ConfigError(
            "give one .jsonl file of prompts with a label, or two files with --in and --off"
        )
    if topic.split is not None:
        raise ConfigError("--split picks lines of a labelled file; --in and --off have no splits")
    assert topic.positives is not None
    assert topic.negatives is not None
    return Sides([*read_prompts(topic.positives)], [*read_prompts(topic.negatives)])


def _decisions(
    condition: "Condition", sides: "Sides", measured: "Measured"
) -> list[tuple[str, str, float, bool]]:
    """Return prompt, label, score and decision of every prompt."""
    import torch

    found = []
    for label, texts, scores in (
        ("in", sides.positives, measured.positives),
        ("out", sides.negatives, measured.negatives),
    ):
        fired = condition.passed(torch.tensor(scores, dtype=torch.float32)).tolist()
        names = [str(text) for text in texts]
        found += list(zip(names, [label] * len(texts), scores, fired, strict=True))
    return found
