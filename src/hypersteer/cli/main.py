"""Entry of the command line: pick the command, and turn what goes wrong into an exit code."""

import importlib
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from hypersteer.errors import ConfigError, SteeringError, TrainingError, nearest

COMMANDS = {
    "demo": "Train a small hypernetwork on the bundled data, and see it steer.",
    "train": "Train a hypernetwork, or go on with a run that was cut off.",
    "evaluate": "Compare methods: answers at every strength, judged, with one report.",
    "generate": "Answer prompts, steered by words.",
    "chat": "Talk to a steered model in the terminal.",
    "conditions": "Fit, test and show conditions, which decide when an edit acts.",
    "concepts": "List concepts of data or of a checkpoint; `concepts build` makes data.",
}
"""Every command with its one line of help; the command NAME lives in `hypersteer.cli.NAME`."""

BAD_INPUT, INTERRUPTED, BROKEN_PIPE = 2, 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: the arguments; by default those of the process.

    Returns:
        the exit code: 0, 2 for bad input, 130 if interrupted, 141 (from a table of rich's, 1) if
        nobody reads the output.
    """
    try:
        code = _run(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
    except SteeringError as error:
        _tell(error)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # What is left in the buffer has no reader either; let the flush at exit go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return BROKEN_PIPE
    return code


def _run(argv: list[str]) -> int:
    """The command named first, or what can be said without one."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return 0
    name, *rest = argv
    if name == "--version":
        print(f"hypersteer {version('hypersteer')}")
        return 0
    if name not in COMMANDS:
        if name.startswith("-"):
            raise ConfigError(f"unknown option '{name}'; a command comes first, then its options")
        raise ConfigError(f"unknown command '{name}'{nearest(name, COMMANDS)}")
    try:
        importlib.import_module(f"hypersteer.cli.{name}").main(rest)
    except SystemExit as ended:  # after --help, or rich's broken pipe
        return int(ended.code or 0)
    return 0


def _tell(error: SteeringError) -> None:
    """Print an error once, also where several processes ran into it."""
    process = os.environ.get("RANK", "0")
    if process == "0":
        print(f"error: {error}", file=sys.stderr)
    elif isinstance(error, TrainingError):
        # Bad input is the same in all processes; what stops a training may befall only one.
        print(f"error (process {process}): {error}", file=sys.stderr)


def _overview() -> str:
    """The text of `hypersteer --help`."""
    listed = "\n".join(f"  {name:<10} {text}" for name, text in COMMANDS.items())
    return f"""\
usage: hypersteer [-h] [--version] COMMAND ...

Steer a frozen language model with words: hypernetworks that turn a plain-language
prompt into an edit of hidden states.

commands:
{listed}

examples:
  hypersteer demo
  hypersteer generate runs/demo "Tell me about your day." --steer "talk like a pirate"
  hypersteer COMMAND --help"""
