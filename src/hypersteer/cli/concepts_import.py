"""`hypersteer concepts import`: answers that show concepts become data to train on."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from hypersteer.cli.options import OptionalText, parse
from hypersteer.errors import ConfigError

if TYPE_CHECKING:
    from hypersteer.synthesis.imported import Imported


@dataclass(frozen=True, slots=True, kw_only=True)
class ConceptsImport:
    """Make a dataset in AxBench's format of answers that you have already.

    Every line of the file is an answer that shows its concept:
    {"concept": "talk like a pirate", "prompt": "How are you?", "answer": "Arr, shipshape!"}.
    With "held_out": true the concept is kept out of training. "genre" of a prompt is text, code
    or math; by default text. The folder is a data source for train, evaluate and concepts.

    Examples:
      hypersteer concepts import answers.jsonl --out data/mine
      hypersteer train --start bundled --loss.prompted --data.source data/mine --out runs/mine
    """

    answers: Annotated[str, Positional, arg(metavar="ANSWERS.jsonl")]
    """JSON lines with concept, prompt and answer, and maybe held_out and genre."""
    out: OptionalText = None
    """Folder to write, such as data/mine."""


def import_(argv: Sequence[str]) -> None:
    """Run `concepts import`: from answers in a file to a dataset."""
    args = parse(ConceptsImport, argv, "concepts import")
    if args.out is None:
        raise ConfigError("say where to write the data: --out FOLDER")

    from hypersteer.synthesis.imported import import_answers

    made = import_answers(args.answers, args.out)
    held_out = sum(concept.held_out for concept in made.concepts)
    print(f"{made.rows:,} rows of {len(made.concepts):,} concepts, {held_out:,} of them held out")
    print(f"dataset: {made.folder}; train on it with: {_training(made)}")


def _training(made: "Imported") -> str:
    """Return a command that trains on the data, with the settings without which it would refuse."""
    from hypersteer.data.splits import UNMARKED

    trained = [n for n, one in zip(made.prompts, made.concepts, strict=True) if not one.held_out]
    # Held-out concepts alone teach nothing; beside others they measure.
    sources = [str(made.folder)] if trained else ["bundled", str(made.folder)]
    words = ["hypersteer", "train", "--start", "bundled", "--loss.prompted"]
    words += ["--data.source", *sources]
    if len(trained) == len(made.concepts) <= UNMARKED:
        words += ["--data.held-out-concepts", str(min(1, len(trained) - 1))]
    if trained and min(trained) < 2:
        words += ["--data.held-in-prompts", "0"]
    return shlex.join([*words, "--out", "runs/mine"])
