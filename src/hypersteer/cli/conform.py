"""`hypersteer conform`: hold a steering back end to its word."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from rich.console import Console
from rich.table import Table
from tyro.conf import Positional, arg

from hypersteer.cli.options import Flag, OptionalText, parse
from hypersteer.errors import ConfigError
from hypersteer.files import output_file, write_text
from hypersteer.progress import ProgressBar

if TYPE_CHECKING:
    from hypersteer.conformance.run import Conformance

LEAST = 2
SIGNS = {"holds": "holds", "broken": "BROKEN", "failed": "FAILED", "not offered": "-"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Conform:
    """Test whether a back end steers every request as it should, and no other one.

    What has to come out is computed apart: the base LM's own forward under one hook, without any
    cache or batch. Each answer of the back end is compared with that, word for word. Exit code 1
    if something that the back end offers is broken.

    Examples:
      hypersteer conform engine
      hypersteer conform http://127.0.0.1:8000
      hypersteer conform my_backend.py:MyBackend --report conformance.json
    """

    backend: Annotated[str, Positional, arg(metavar="BACKEND")] = "engine"
    """engine, hooks (plain Hugging Face hooks), the address of a hypersteer server, or an adapter
    of your own: file.py:Class, or package.module:Class (docs/conformance.md)."""
    lm: str = "smollm2-135m-instruct"
    """The base LM that the back end steers; loaded in float32, to compute what has to come out."""
    tokens: int = 12
    """Length of the answers."""
    report: OptionalText = None
    """File for the findings, as JSON, with the calls that show each failure."""
    quiet: Flag = False
    """Print the table only, without what came instead."""


def main(argv: Sequence[str]) -> None:
    """Run the command; end with 1 if something is broken."""
    args = parse(Conform, argv, "conform")
    from hypersteer.conformance.checks import INVARIANTS
    from hypersteer.conformance.choose import find_backend
    from hypersteer.conformance.run import conform
    from hypersteer.lm.load import load_lm

    if args.tokens < LEAST:
        raise ConfigError(f"--tokens {args.tokens} cannot tell answers apart; try 12")
    report = None if args.report is None else output_file(args.report, "--report")
    make = find_backend(args.backend)
    lm = load_lm(args.lm, dtype="float32")
    adapter = make(lm)
    try:
        with ProgressBar("checks", len(INVARIANTS), transient=True) as bar:
            found = conform(adapter, lm, tokens=args.tokens, done=lambda _: bar.advance(1))
    finally:
        getattr(adapter, "close", lambda: None)()
    _show(found, details=not args.quiet)
    if report is not None:
        findings = [one._asdict() for one in found.findings]
        told = {"name": found.name, "base_lm": found.base_lm, "findings": findings}
        write_text(report, json.dumps(told, indent=1, ensure_ascii=False) + "\n")
    if not found.holds:
        raise SystemExit(1)


def _show(found: "Conformance", *, details: bool) -> None:
    """Print a table of all checks, and below it what shows each failure."""
    table = Table("", "what has to hold", found.name, box=None, pad_edge=False)
    for one in found.findings:
        table.add_row(str(one.number), one.title, SIGNS[one.outcome])
    console = Console()
    console.print(table)
    for one in found.findings if details else ():
        if one.outcome in ("broken", "failed"):
            console.print(
                f"\n{one.number}. {one.title}: {SIGNS[one.outcome]}", markup=False, soft_wrap=True
            )
            console.print(one.detail, markup=False, highlight=False, soft_wrap=True)
