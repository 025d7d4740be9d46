"""`hypersteer concepts`: what a data source holds, and what a checkpoint was trained on."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import DisallowNone, Positional, arg

from hypersteer.cli import concepts_build, concepts_distil
from hypersteer.cli.options import Flag, parse
from hypersteer.config.folders import holds_checkpoint
from hypersteer.errors import ConfigError
from hypersteer.files import path_of

LISTED = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Concepts:
    """List the concepts of a data source, or those that a checkpoint was trained on.

    Examples:
      hypersteer concepts
      hypersteer concepts axbench:concept10/2b/l20 --examples 2
      hypersteer concepts runs/demo

    To make a dataset from a list of concepts: hypersteer concepts build --help, or with the base
    LM as its own teacher: hypersteer concepts distil --help
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


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    if argv[:1] == ["build"]:
        concepts_build.main(argv[1:])
        return
    if argv[:1] == ["distil"]:
        concepts_distil.main(argv[1:])
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


def _of_checkpoint(folder: Path) -> tuple[list[dict[str, Any]], str]:
    """Concepts of a checkpoint, and what it is."""
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
    """Concepts of a data source that may be listed, and a summary of all there is."""
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
