"""Rules on the command line: `--rule`, `--condition NAME=FILE`, and named edits."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from hypersteer.config.reading import named_values
from hypersteer.errors import ConfigError

if TYPE_CHECKING:
    from hypersteer.conditions.rules import Check, Rules
    from hypersteer.edits.edit import Edit
    from hypersteer.edits.edit_set import EditSet

NEEDED = ", which --rule needs"


def read_rules(
    rules: Sequence[str],
    conditions: Sequence[str],
    edits: Sequence[str],
    steer: Sequence[str],
    check: str,
) -> "Rules":
    """Read rules and all that they name.

    Args:
        rules: the rules, in order.
        conditions: `NAME=FILE`.
        edits: likewise.
        steer: `NAME=TEXT`, steering prompts.
        check: `prompt`, `token`, or a number of tokens.

    Raises:
        SteeringError: for a rule that cannot be read, a name that is missing or given twice, or a
            file that cannot be loaded.
    """
    from hypersteer.conditions import rules as gates_rules
    from hypersteer.conditions.condition import load_condition
    from hypersteer.edits.edit_set import load_edit

    files = named_values(conditions, "--condition", "FILE", NEEDED)
    edit_files = named_values(edits, "--edit", "FILE", NEEDED)
    words = named_values(steer, "--steer", "TEXT", NEEDED)
    for name in edit_files.keys() & words.keys():
        raise ConfigError(f"'{name}' is named by --edit and by --steer; give one of them")
    known: dict[str, str | Edit | EditSet] = {
        name: load_edit(path) for name, path in edit_files.items()
    }
    return gates_rules.rules(
        list(rules),
        conditions={name: load_condition(path) for name, path in files.items()},
        edits=known | words,
        # Of so many digits int() makes no number, and no rule waits for so many tokens.
        check=int(check) if check.isdecimal() and len(check) < 10 else check,  # type: ignore[arg-type]
    )


def describe(checks: "Sequence[Check]") -> str:
    """Return what was decided on a row, as a line."""
    first, last = checks[0], checks[-1]
    scores = ", ".join(f"{name} {score:.3f}" for name, score in first.scores.items())
    line = f"{scores}: {', '.join(first.edits) or 'unsteered'}"
    changes = sum(a.edits != b.edits for a, b in pairwise(checks))
    if changes:
        line += f"; {changes} changes in the answer, at last {', '.join(last.edits) or 'unsteered'}"
    return line
