"""`hypersteer conditions`: fit, test and show conditions, which decide when an edit acts."""

from collections.abc import Sequence

from hypersteer.cli import conditions_fit, conditions_show, conditions_test
from hypersteer.errors import ConfigError, nearest

PARTS = {
    "fit": ("Learn a condition from prompts in and off its topic.", conditions_fit.main),
    "test": ("Measure a condition on prompts of their own.", conditions_test.main),
    "show": ("Say what is in the file of a condition.", conditions_show.main),
}


def main(argv: Sequence[str]) -> None:
    """Run the part of the command that is named first."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return
    if argv[0] not in PARTS:
        raise ConfigError(f"unknown command 'conditions {argv[0]}'{nearest(argv[0], PARTS)}")
    PARTS[argv[0]][1](argv[1:])


def _overview() -> str:
    listed = "\n".join(f"  {name:<6} {text}" for name, (text, _) in PARTS.items())
    return f"""\
usage: hypersteer conditions [-h] {{fit,test,show}} ...

Conditions decide when an edit acts: directions that are only measured.

commands:
{listed}

Examples:
  hypersteer conditions fit health.jsonl --out health.safetensors
  hypersteer conditions fit --in legal.txt --off other.txt --out legal.safetensors
  hypersteer conditions test health.safetensors health.jsonl --split test
  hypersteer conditions show health.safetensors
  hypersteer conditions fit --help"""
