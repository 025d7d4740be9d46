"""`hypersteer concepts`: list concepts, and make datasets with a teacher or by distillation."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from tyro.conf import DisallowNone, Positional, arg

from hypersteer.cli.concepts_import import import_
from hypersteer.cli.options import Flag, parse
from hypersteer.config import load_toml
from hypersteer.config.synthesis import DistillationConfig, SynthesisConfig
from hypersteer.errors import ConfigError
from hypersteer.files import holds_checkpoint, path_of
from hypersteer.launched import processes, rank

if TYPE_CHECKING:
    from hypersteer.synthesis.build import Confirm
    from hypersteer.synthesis.report import Estimate

C = TypeVar("C", SynthesisConfig, DistillationConfig)

LISTED = 50
"""Concepts listed by default in a table."""
SETTINGS = ".toml"
BUILD, DISTIL = "concepts build", "concepts distil"
Listed = Annotated[
    str | None,
    Positional,
    arg(metavar="[CONCEPTS|SETTINGS.toml]", help_behavior_hint=""),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Concepts:
    """List the concepts of a data source, or those that a checkpoint was trained on.

    Examples:
      hypersteer concepts
      hypersteer concepts axbench:concept10/2b/l20 --examples 2
      hypersteer concepts runs/demo

    To make a dataset from a list of concepts: hypersteer concepts build --help, or with the base
    LM as its own teacher: hypersteer concepts distil --help; from answers that are there already:
    hypersteer concepts import --help
    """

    source: Annotated[str, Positional, arg(metavar="[SOURCE]")] = "bundled"
    """Folder of data or of a checkpoint, bundled, axbench:concept10/2b/l20, or hub:owner/name."""
    split: Literal["train", "test"] = "train"
    """Which rows of a data source to count."""
    limit: Annotated[int | None, DisallowNone, arg(help_behavior_hint="")] = None
    """Concepts listed at most; by default 50 in a table, all with --json."""
    examples: int = 0
    """Examples shown of each concept of a data source."""
    json: Flag = False
    """Print one JSON object per concept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConceptsBuild:
    r"""Make a dataset in AxBench's format, with a teacher that writes the responses.

    It tells first what it will ask and, with prices set, what that costs. The same command again
    resumes where it was cut off; nothing is paid for twice. The finished folder is a data source
    for train, evaluate and concepts.

    Examples:
      hypersteer concepts build concepts.txt --out data/mine --instructions bundled \
        --counts.train-positives 12 --counts.test-positives 4 --counts.test-negatives 8 \
        --counts.pool-negatives 12 --teacher.input-price 0.15 --teacher.output-price 0.6
      hypersteer concepts build features.json --limit 100 --out data/features
      hypersteer concepts build settings.toml --yes
      hypersteer concepts build concepts.txt --teacher.base-url http://localhost:11434/v1 \
        --teacher.model qwen3:8b
      hypersteer concepts build concepts.txt --out data/mine --instructions bundled \
        --counts.train-positives 12 --counts.test-positives 4 --counts.test-negatives 8 \
        --counts.pool-negatives 12 --teacher.model qwen2.5-coder-1.5b-instruct
      hypersteer concepts build --theme "moods of the sea" --invent 30 --teacher.kind local
    """

    listed: Listed = None
    """List of concepts (.txt, .jsonl, .json), or settings in tables as the options name them."""
    yes: Flag = False
    """Begin without asking, whatever it costs."""
    config: Annotated[SynthesisConfig, arg(name="")] = field(default_factory=SynthesisConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConceptsDistil:
    r"""Make a dataset in which the base LM itself, prompted with each concept, is the teacher.

    Its answers are pushed away from what it says unprompted, and a judge keeps those that show the
    concept and still answer. Nothing is asked of any server unless the judge's settings name one.
    The same command again resumes where it was cut off.

    Examples:
      hypersteer concepts distil concepts.txt --out data/distilled --base-lm.dtype bfloat16
      hypersteer concepts distil bundled:wide --limit 320 --out data/distilled
      hypersteer train --data.source data/distilled --loss.objective distillation
    """

    listed: Listed = None
    """List of concepts (.txt, .jsonl, .json, bundled:wide), or settings in tables."""
    config: Annotated[DistillationConfig, arg(name="")] = field(default_factory=DistillationConfig)


def main(argv: Sequence[str]) -> None:
    """Run the command, or the part of it that is named first."""
    parts = {"build": build, "distil": distil, "import": import_}
    if argv and argv[0] in parts:
        parts[argv[0]](argv[1:])
        return
    args = parse(Concepts, argv, "concepts")
    for name, value, least in (("limit", args.limit, 1), ("examples", args.examples, 0)):
        if value is not None and value < least:
            raise ConfigError(f"--{name} {value} is below {least}")
    source = path_of(args.source, "the source")
    if holds_checkpoint(source):
        if args.examples:
            raise ConfigError(
                f"'{args.source}' is a checkpoint, which holds no examples; leave out --examples, "
                "or name the data"
            )
        rows, title = _of_checkpoint(source)
    else:
        rows, title = _of_data(args)
    wanted = args.limit or (len(rows) if args.json else LISTED)
    if args.json:
        for row in rows[:wanted]:
            print(json.dumps(row, ensure_ascii=False))
    else:
        _print_table(rows[:wanted], title)
        if len(rows) > wanted:
            print(f"and {len(rows) - wanted:,} more; list them with --limit {len(rows)}")


def build(argv: Sequence[str]) -> None:
    """Run `concepts build`: from a list of concepts to a dataset, written by a teacher."""
    listed, config = _settings(argv, SynthesisConfig)
    args = parse(ConceptsBuild, argv, BUILD, ConceptsBuild(listed=listed, config=config))
    if args.listed != listed:
        raise ConfigError(f"put '{args.listed}' right after '{BUILD}'")

    from hypersteer.synthesis.build import build as build_dataset
    from hypersteer.synthesis.report import report_table, usage_line

    result = build_dataset(args.config, confirm=_confirm(args))
    if rank():
        return
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


def distil(argv: Sequence[str]) -> None:
    """Run `concepts distil`: from a list of concepts to a dataset, with no teacher at all."""
    listed, config = _settings(argv, DistillationConfig)
    args = parse(ConceptsDistil, argv, DISTIL, ConceptsDistil(listed=listed, config=config))
    if args.listed != listed:
        raise ConfigError(f"put '{args.listed}' right after '{DISTIL}'")

    from hypersteer.synthesis.distillation import distil as distil_dataset

    folder, report = distil_dataset(args.config)
    if rank():
        return
    print(f"{report['kept']:,} of {report['tried']:,} answers kept, of", end=" ")
    print(f"{report['concepts'] - report['concepts_without_rows']:,} of", end=" ")
    print(f"{report['concepts']:,} concepts; dropped:")
    for reason, count in report["dropped"].items():
        print(f"  {count:6,}  {reason}")
    print(f"dataset: {folder}; list it with: hypersteer concepts {folder}")


def _settings(argv: Sequence[str], kind: type[C]) -> tuple[str | None, C]:
    """Return the first argument, if it is no option, and the settings that follow from it."""
    listed = argv[0] if argv and not argv[0].startswith("-") else None
    if listed is None:
        return None, kind()
    if listed.endswith(SETTINGS):
        return listed, load_toml(listed, kind)
    return listed, kind(concepts=listed)


def _confirm(args: ConceptsBuild) -> "Confirm":
    """Show the estimate; ask where someone is there to answer, and something may cost."""

    def confirm(found: "Estimate") -> bool:
        from rich.console import Console

        from hypersteer.synthesis.served import on_this_machine

        teacher = args.config.teacher
        base_lm = teacher.kind == "local"
        free = base_lm or on_this_machine(teacher)
        if found.calls and not rank():
            console = Console(stderr=True)
            console.print(found.table(args.config.base_lm.name if base_lm else teacher.model))
        asked = found.calls and sys.stdin.isatty() and sys.stderr.isatty()
        if args.yes or free or not asked:
            return True
        if processes() > 1:
            raise ConfigError("several processes were launched, and only one can ask; add --yes")
        print("begin? [y/N] ", end="", file=sys.stderr, flush=True)
        return sys.stdin.readline().strip().casefold() in ("y", "yes")

    return confirm


def _of_checkpoint(folder: Path) -> tuple[list[dict[str, Any]], str]:
    """Return the concepts of a checkpoint, and what it is."""
    from hypersteer.hypernet.card import read_card

    card = read_card(folder)
    rows = [{"training": "trained on", "text": text} for text in card.concepts]
    rows += [{"training": "held out", "text": text} for text in card.held_out]
    title = (
        f"{folder}: {len(card.concepts):,} concepts trained on and {len(card.held_out):,} held "
        f"out, for {card.base_lm} at {card.site}"
    )
    return rows, title


def _of_data(args: Concepts) -> tuple[list[dict[str, Any]], str]:
    """Return the concepts of a data source, and a summary of it."""
    from hypersteer.data.sources import load_concepts

    data = load_concepts(args.source, split=args.split)
    rows = []
    for concept in data.concepts:
        numbers = data.rows(concept.id)
        row: dict[str, Any] = {
            "id": concept.id,
            "kind": concept.kind or concept.genre,
            "rows": len(numbers),
            "text": concept.text,
        }
        if args.examples:
            examples = data.examples(numbers[: args.examples].tolist())
            row["examples"] = [{"prompt": e.prompt, "response": e.response} for e in examples]
        rows.append(row)
    return rows, data.summary()


def _print_table(rows: Sequence[dict[str, Any]], title: str) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0))
    names = [name for name in rows[0] if name != "examples"]
    for name in names:
        table.add_column("concept" if name == "text" else name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(row[name])) for name in names))
        for example in row.get("examples", ()):
            shown = Text.assemble(
                (f"> {example['prompt']}\n", "dim"), (f"{example['response']}\n", "italic")
            )
            table.add_row(*[""] * (len(names) - 1), shown)
    console = Console()
    console.print(Text(title))
    console.print(table)
