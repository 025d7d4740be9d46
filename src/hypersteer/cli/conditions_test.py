"""`hypersteer conditions test`: a condition, with its threshold, on prompts of their own."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from hypersteer.cli.conditions_data import Labelled, Reader, Topic, read_sides, watching
from hypersteer.cli.options import Flag, parse
from hypersteer.files import to_json

if TYPE_CHECKING:
    from hypersteer.conditions.condition import Condition
    from hypersteer.conditions.contrasts import Sides
    from hypersteer.conditions.fit import Measured


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionsTest:
    """Measure a condition on prompts that it was not fitted on, and show what it gets wrong.

    Examples:
      hypersteer conditions test health.safetensors health.jsonl --split test
      hypersteer conditions test legal.safetensors --in legal-test.txt --off other-test.txt --json
    """

    condition: Annotated[str, Positional, arg(metavar="CONDITION")]
    """File that 'hypersteer conditions fit' wrote."""
    labelled: Labelled = None
    """File of lines {"prompt": TEXT, "label": "in" or "out"}; or give --in and --off."""
    topic: Annotated[Topic, arg(name="")] = field(default_factory=Topic)
    wrong: int = 5
    """Prompts shown at most of those that it gets wrong, worst first."""
    json: Flag = False
    """Print one JSON object per prompt (prompt, label, score, fired), then one of the figures."""
    reader: Annotated[Reader, arg(name="")] = field(default_factory=Reader)


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    args = parse(ConditionsTest, argv, "conditions test")
    sides = read_sides(args.labelled, args.topic)

    from hypersteer.conditions.condition import load_condition
    from hypersteer.conditions.fit import measure_condition

    condition = load_condition(args.condition)
    lm = args.reader.load()
    with watching("reading prompts") as watch:
        measured = measure_condition(lm, condition, *sides, watch=watch)
    if args.json:
        _print_json(condition, sides, measured)
        return

    from hypersteer.cli.conditions_show import print_figures

    print_figures(measured.figures, f"{len(sides.positives)} in, {len(sides.negatives)} off")
    for label, distance, prompt in _mistakes(condition, sides, measured)[: max(0, args.wrong)]:
        told = "should fire" if label == "in" else "should not fire"
        print(f"{told}, off by {distance:.3f}: {prompt}")


def _judged(
    condition: "Condition", sides: "Sides", measured: "Measured"
) -> list[tuple[str, str, float, bool]]:
    """Prompt, label, score and decision of every prompt."""
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


def _mistakes(
    condition: "Condition", sides: "Sides", measured: "Measured"
) -> list[tuple[str, float, str]]:
    """Label, distance from the threshold and prompt of what is wrong, worst first."""
    wrong = [
        (label, abs(score - condition.threshold), prompt)
        for prompt, label, score, fired in _judged(condition, sides, measured)
        if fired != (label == "in")
    ]
    return sorted(wrong, key=lambda one: -one[1])


def _print_json(condition: "Condition", sides: "Sides", measured: "Measured") -> None:
    for prompt, label, score, fired in _judged(condition, sides, measured):
        line = {"prompt": prompt, "label": label, "score": round(score, 6), "fired": fired}
        print(to_json(line, ensure_ascii=False))
    print(to_json({"figures": measured.figures}))
