"""`hypersteer conditions teach` and `conditions write`: conditions from words alone."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import DisallowNone, Positional, arg

from hypersteer.cli.condition_reader import Reader, print_condition
from hypersteer.cli.options import OptionalText, parse
from hypersteer.config.conditions import HeadConfig
from hypersteer.errors import ConfigError
from hypersteer.files import CONDITION_HEAD, holds_checkpoint, is_folder, output_file, path_of

if TYPE_CHECKING:
    from hypersteer.conditions.head_measures import HeadMeasured


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionsTeach:
    """Train a head that writes conditions from words, and measure it on conditions held out.

    Examples:
      hypersteer conditions teach --concepts bundled bundled:wide --out head.safetensors
      hypersteer conditions teach bundled mine.jsonl --out runs/mine --lm my-model --steps 600
    """

    data: Annotated[
        tuple[str, ...], Positional, arg(metavar="[CONDITIONS ...]", help_behavior_hint="")
    ] = ("bundled",)
    """Files of lines {"condition": TEXT, "in": [...], "off": [...]}, and `bundled`."""
    concepts: Annotated[tuple[str, ...], arg(metavar="SOURCE ...", help_behavior_hint="")] = ()
    """Concept data whose answers teach as well, such as bundled, bundled:wide and bundled:more, or
    a folder in AxBench's format: each concept is a condition about the answer."""
    out: OptionalText = None
    """File to write, such as head.safetensors; or a checkpoint's folder, whose rules use it."""
    config: Annotated[HeadConfig, arg(name="")] = field(default_factory=HeadConfig)
    reader: Annotated[Reader, arg(name="")] = field(default_factory=Reader)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionsWrite:
    """Write a condition from words, with no examples or a few, to a file.

    Examples:
      hypersteer conditions write "asks about health" --out health.safetensors
      hypersteer conditions write "asks about tea" --false-positives 0.02 --out tea.safetensors
      hypersteer conditions write "the answer has begun to list things" --out list.safetensors
      hypersteer conditions write "asks about tea" --in tea.txt --out tea.safetensors
    """

    words: Annotated[str, Positional, arg(metavar="WORDS")]
    """When it holds, such as "asks about health"."""
    above: float = 0.5
    """Probability above which it fires; a guard that should rather fire once too often has a low
    one, such as 0.2."""
    false_positives: Annotated[float | None, DisallowNone] = None
    """Share of texts of many kinds on which it may fire at most; for what is rarely true."""
    inside: Annotated[OptionalText, arg(name="in", metavar="FILE", help_behavior_hint="")] = None
    """A few prompts of which it is true, which sharpen it: one a line, or a .jsonl file of lines
    {"prompt": TEXT}. With more than 32 use 'hypersteer conditions fit'."""
    outside: Annotated[OptionalText, arg(name="off", metavar="FILE", help_behavior_hint="")] = None
    """A few of which it is not true, likewise."""
    out: OptionalText = None
    """File to write, such as health.safetensors."""
    head: OptionalText = None
    """File of the head that writes it; by default the one that ships for this base LM."""
    reader: Annotated[Reader, arg(name="")] = field(default_factory=Reader)


def teach(argv: Sequence[str]) -> None:
    """Run `conditions teach`: from conditions with texts to a head."""
    args = parse(ConditionsTeach, argv, "conditions teach")
    if args.out is None:
        raise ConfigError("say where to write the head: --out NAME.safetensors")
    out = _head_file(args.out)

    from hypersteer.conditions.described import read_described

    described = [one for name in args.data for one in read_described(name)]
    if args.concepts:
        from hypersteer.conditions.from_concepts import described_concepts
        from hypersteer.data.sources import load_concepts

        described += described_concepts(load_concepts(args.concepts))

    from hypersteer.conditions.head_measures import measure_head
    from hypersteer.conditions.lessons import read_lessons
    from hypersteer.conditions.teach import teach_head
    from hypersteer.progress import ProgressBar

    lm = args.reader.load()
    with ProgressBar("reading texts", None, transient=True, quarters=True) as bar:
        lessons = read_lessons(lm, described, args.config, bar.update)
    with ProgressBar("training", None, transient=True, quarters=True) as bar:
        head = teach_head(lessons, args.config, base_lm=str(lm.identity), watch=bar.update)
    path = head.save(out)
    held_out = [one for one in lessons if one.described.held_out]
    if held_out:
        _print_measured(measure_head(head, held_out))
    print(f"wrote {path}, taught by {len(lessons) - len(held_out):,} conditions")


def write(argv: Sequence[str]) -> None:
    """Run `conditions write`: from words to a condition's file."""
    args = parse(ConditionsWrite, argv, "conditions write")
    if args.out is None:
        raise ConfigError("say where to write the condition: --out NAME.safetensors")
    out = output_file(args.out, "--out")

    from hypersteer.conditions.contrasts import read_prompts
    from hypersteer.conditions.head import load_head
    from hypersteer.conditions.score import check_words
    from hypersteer.conditions.written import check_examples, check_share, condition

    check_words(args.words)
    check_share("above", args.above)
    if args.false_positives is not None:
        check_share("false_positives", args.false_positives)
    inside, outside = (
        [] if name is None else read_prompts(name) for name in (args.inside, args.outside)
    )
    check_examples(inside, outside)
    if args.head is not None:
        load_head(args.head)  # told before a model is loaded
    found = condition(
        args.words,
        lm=args.reader.load(),
        above=args.above,
        false_positives=args.false_positives,
        inside=inside,
        outside=outside,
        head=args.head,
    )
    path = found.save(out)
    print_condition(found)
    print(f"wrote {path}; test it on prompts with: hypersteer conditions test {path} ...")


def _head_file(name: str) -> Path:
    """Return the path of a head that will be written; beside a checkpoint, where its folder is."""
    folder = path_of(name, "--out")
    if is_folder(folder) and holds_checkpoint(folder):
        return output_file(folder / CONDITION_HEAD, "--out")
    return output_file(name, "--out")


def _print_measured(measured: Sequence["HeadMeasured"]) -> None:
    """Print how a head does on held-out conditions, kind by kind."""
    from rich.console import Console
    from rich.table import Table

    from hypersteer.conditions.head_measures import mean_of

    table = Table(box=None, padding=(0, 2, 0, 0))
    figures = {"AUROC": "auroc", "F1": "f1", "near misses": "near", "other texts": "off"}
    for name in ("held-out conditions", "", *figures):
        table.add_column(name, justify="left" if name == "held-out conditions" else "right")
    kinds = sorted({one.kind for one in measured})
    for kind in (*kinds, "all") if len(kinds) > 1 else ("all",):
        some = [one for one in measured if kind in ("all", one.kind)]
        cells = []
        for name in figures.values():
            there = any(getattr(one, name) is not None for one in some)
            cells.append(f"{mean_of(some, name).mean:.3f}" if there else "")
        table.add_row(kind, str(len(some)), *cells)
    Console(soft_wrap=True).print(table)
