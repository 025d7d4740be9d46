"""Rules on the command line: `--rule`, `--condition NAME=FILE`, and named edits."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated

from tyro.conf import UseAppendAction, arg

from hypersteer.cli.options import Flag
from hypersteer.config.reading import named_values
from hypersteer.errors import ConfigError

if TYPE_CHECKING:
    from hypersteer.conditions.rules import Check, Rules
    from hypersteer.edits.edit import Edit
    from hypersteer.edits.edit_set import EditSet

NEEDED = ", which --rule needs"
MOST_TOKENS = 5
"""Of those that decided, as many are shown in a line."""


@dataclass(frozen=True, slots=True)
class Gating:
    """When to steer."""

    rule: Annotated[
        UseAppendAction[tuple[str, ...]], arg(metavar="RULE", help_behavior_hint="")
    ] = ()
    """Steer only when a condition fires, as in "if a and not b then x"; may be repeated. Edits are
    then named: --edit NAME=FILE, or --steer NAME=TEXT."""
    condition: Annotated[
        UseAppendAction[tuple[str, ...]], arg(metavar="NAME=FILE", help_behavior_hint="")
    ] = ()
    """A condition for the rules: a file that 'hypersteer conditions fit' wrote."""
    check: str = "prompt"
    """When the rules decide: once on the prompt, at every token, or after every so many (8)."""
    deciding: Flag = False
    """Also tell which tokens of the prompt decided the rules."""

    def check_unused(self) -> None:
        """Refuse options that only rules have a use for.

        Raises:
            ConfigError: naming the option.
        """
        if self.condition:
            raise ConfigError(
                "--condition is for rules; give a --rule that says what it switches on"
            )
        if self.check != "prompt":
            raise ConfigError(f"--check {self.check} is for rules; give a --rule")
        if self.deciding:
            raise ConfigError("--deciding is for rules; give a --rule")


def read_rules(gating: Gating, edits: Sequence[str], steer: Sequence[str]) -> "Rules":
    """Read rules and all that they name.

    Args:
        gating: the rules, their conditions, and when to check them.
        edits: `NAME=FILE`.
        steer: `NAME=TEXT`, steering prompts.

    Raises:
        SteeringError: for a rule that cannot be read, a name that is missing or given twice, or a
            file that cannot be loaded.
    """
    from hypersteer.conditions import rules as gates_rules
    from hypersteer.conditions.condition import load_condition
    from hypersteer.edits.edit_set import load_edit

    check = gating.check
    files = named_values(gating.condition, "--condition", "FILE", NEEDED)
    edit_files = named_values(edits, "--edit", "FILE", NEEDED)
    words = named_values(steer, "--steer", "TEXT", NEEDED)
    for name in edit_files.keys() & words.keys():
        raise ConfigError(f"'{name}' is named by --edit and by --steer; give one of them")
    known: dict[str, str | Edit | EditSet] = {
        name: load_edit(path) for name, path in edit_files.items()
    }
    return gates_rules.rules(
        list(gating.rule),
        conditions={name: load_condition(path) for name, path in files.items()},
        edits=known | words,
        # Of so many digits int() makes no number, and no rule waits for so many tokens.
        check=int(check) if check.isdecimal() and len(check) < 10 else check,  # type: ignore[arg-type]
        tokens=gating.deciding,
    )


def describe(checks: "Sequence[Check]") -> str:
    """Return what was decided on a row, as a line."""
    first, last = checks[0], checks[-1]
    found = ", ".join(_found(first, name) for name in first.scores)
    line = f"{found}: {', '.join(first.edits) or 'unsteered'}"
    changes = sum(a.edits != b.edits for a, b in pairwise(checks))
    if changes:
        line += f"; {changes} changes in the answer, at last {', '.join(last.edits) or 'unsteered'}"
    for name, shares in (first.tokens or {}).items():
        most = sorted(shares, key=lambda one: -abs(one[1]))[:MOST_TOKENS]
        line += f"; {name} by " + ", ".join(f"{text!r} {share:+.3f}" for text, share in most)
    return line


def _found(check: "Check", name: str) -> str:
    """Return whether a condition holds, and its probability or, where it has none, its score."""
    holds = "holds" if name in check.conditions else "does not hold"
    probability = (check.probabilities or {}).get(name)
    value = f"score {check.scores[name]:.3f}" if probability is None else f"{probability:.0%}"
    return f"{name} {holds} ({value})"
