"""`hypersteer conditions build`: conditions in words get texts to learn from."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from hypersteer.cli.options import Flag, OptionalText, parse
from hypersteer.config.conditions import ConditionTextsConfig
from hypersteer.errors import ConfigError
from hypersteer.files import output_file

if TYPE_CHECKING:
    from hypersteer.synthesis.condition_texts import Texts, Wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionsBuild:
    r"""Have texts written for conditions in words, and judged: what 'conditions teach' learns from.

    A teacher writes texts of which a condition is true, near misses, and others; a judge is asked
    about each. Replies are kept on disk, so the same command goes on where it was cut off.

    Examples:
      hypersteer conditions build conditions.txt --out mine.jsonl --dry-run
      hypersteer conditions build conditions.txt --out mine.jsonl \
        --teacher.model qwen2.5-coder-1.5b-instruct
      hypersteer conditions teach bundled mine.jsonl --out head.safetensors
    """

    conditions: Annotated[str, Positional, arg(metavar="CONDITIONS")]
    """Conditions in words, one a line; those about the answer begin with "the answer". Or a .jsonl
    file of lines {"condition": TEXT, "also": [...], "kind": "topic", "about": "prompt"}."""
    out: OptionalText = None
    """File to write, such as mine.jsonl."""
    dry_run: Flag = False
    """Say what would be asked, and ask nothing."""
    config: Annotated[ConditionTextsConfig, arg(name="")] = field(
        default_factory=ConditionTextsConfig
    )


def build(argv: Sequence[str]) -> None:
    """Run `conditions build`."""
    args = parse(ConditionsBuild, argv, "conditions build")
    if args.out is None:
        raise ConfigError("say where to write the texts: --out NAME.jsonl")
    out = output_file(args.out, "--out")

    from rich.console import Console

    from hypersteer.judges.choose import open_asker
    from hypersteer.synthesis.condition_texts import (
        check_writing,
        keep_condition_texts,
        open_writer,
        read_wanted,
        write_condition_texts,
    )
    from hypersteer.synthesis.teacher import Bars

    wanted = read_wanted(args.conditions)
    check_writing(args.config)
    texts = args.config.inside + args.config.outside
    print(
        f"{len(wanted):,} conditions with {texts} texts each: {3 * len(wanted):,} requests to the "
        f"teacher and about {texts * len(wanted):,} questions to the judge, and up to "
        f"{args.config.attempts} times as many where texts are dropped"
    )
    if args.dry_run:
        return
    teacher, judge = open_writer(args.config), open_asker(args.config.judge)
    bars = Bars(Console(stderr=True), teacher)
    found = write_condition_texts(wanted, args.config, teacher, judge, bars)
    kept = keep_condition_texts(found, out)
    _print_counts(found)
    print(f"wrote {out}: {len(kept):,} of {len(wanted):,} conditions; read some before you use it")


def _print_counts(found: "dict[Wanted, Texts]") -> None:
    """Print how many texts of each condition passed, and which conditions have too few."""
    passed = sum(texts.passed for texts in found.values())
    written = sum(texts.written for texts in found.values())
    print(f"{passed:,} texts kept of {written:,} written")
    for one, texts in found.items():
        if not texts.enough:
            print(
                f"left out: '{one.condition}' has {len(texts.inside)} texts inside, "
                f"{len(texts.near)} near and {len(texts.off)} others, of {texts.written} written"
            )
