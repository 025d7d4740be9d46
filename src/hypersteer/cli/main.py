"""Entry of the command line: pick the command, and turn what goes wrong into an exit code."""

import contextlib
import errno
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from typing import NoReturn

from hypersteer.errors import ConfigError, SteeringError, nearest, one_line
from hypersteer.launched import leave, processes, rank
from hypersteer.values import check_text

COMMANDS = {
    "demo": "Train a small hypernetwork on the bundled data, and see it steer.",
    "train": "Train a hypernetwork, or go on with a run that was cut off.",
    "evaluate": "Compare methods: answers at every strength, judged, with one report.",
    "analyze": "Look at a checkpoint's edits, or at what more concepts and other settings change.",
    "generate": "Answer prompts, steered by words.",
    "chat": "Talk to a steered model in the terminal.",
    "serve": "Serve checkpoints to OpenAI's clients, a steering prompt with every request.",
    "ui": "Open a page in the browser to steer in, with what steering does to each token.",
    "conditions": "Fit, test and show conditions, which decide when an edit acts.",
    "conform": "Test whether a steering back end keeps what per-request steering promises.",
    "concepts": "List concepts of data or a checkpoint; `concepts build` and `import` make data.",
    "models": "List base LMs, get them where no hub is, and remove them.",
}
"""Every command with its one line of help; the command NAME lives in `hypersteer.cli.NAME`."""

FAULT, BAD_INPUT, INTERRUPTED, BROKEN_PIPE = 1, 2, 130, 141
OUTPUT_FAILS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What writing to the standard output may end in; files have their own messages."""
TRACEBACK, TRACEBACK_VARIABLE = "--traceback", "HYPERSTEER_TRACEBACK"
"""An option of every command, and a variable: show where an error arose before its one line."""


def run() -> NoReturn:
    """Run the command that the process was started with, and end the process."""
    code = main()
    if processes() > 1:
        leave(code)
    sys.exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: the arguments; by default those of the process.

    Returns:
        the exit code: 0, 2 for bad input, 130 if interrupted, 141 (from a table of rich's, 1) if
        nobody reads the output, 1 for whatever else was raised.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    trace = TRACEBACK in words or bool(os.environ.get(TRACEBACK_VARIABLE))
    try:
        _spare_output()
        code = _run([word for word in words if word != TRACEBACK])
        print(end="", flush=True)
    except SteeringError as error:
        _tell(error, trace=trace)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return BROKEN_PIPE
    except OSError as error:
        if error.errno not in OUTPUT_FAILS or error.filename is not None:
            _tell_fault(error, trace=trace)
            return FAULT
        _drop_output()
        _tell(SteeringError(f"cannot write the output: {error.strerror}"), trace=trace)
        return BAD_INPUT
    except Exception as error:  # the last resort: known cases are told where they arise
        _tell_fault(error, trace=trace)
        return FAULT
    return code


def _run(argv: list[str]) -> int:
    """Run the command named first, or say what can be said without one."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return 0
    for number, word in enumerate(argv, start=1):
        check_text(word, f"argument {number},")
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


def _spare_output() -> None:
    """Print a `?` for characters that the terminal or a pipe does not have."""
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", "") == "strict":
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]


def _drop_output() -> None:
    """Let what is left in the buffer go nowhere, since the flush at exit would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _tell_fault(error: Exception, *, trace: bool) -> None:
    """Print what nobody foresaw, as one line."""
    if trace:
        traceback.print_exception(error)
    process = rank()
    who = f"error (process {process})" if process else "error"
    told = f"{type(error).__name__}: {one_line(error)}"
    with contextlib.suppress(OSError):
        print(f"{who}: {told}; {TRACEBACK} shows where it arose", file=sys.stderr)
    try:
        print(end="", flush=True)
    except OSError:
        _drop_output()


def _tell(error: SteeringError, *, trace: bool) -> None:
    """Print an error once, also where several processes ran into it."""
    if trace:
        traceback.print_exception(error)
    process = rank()
    if not process:
        print(f"error: {error}", file=sys.stderr)
    elif error.of_one_process:
        print(f"error (process {process}): {error}", file=sys.stderr)


def _overview() -> str:
    """Return the text of `hypersteer --help`."""
    listed = "\n".join(f"  {name:<10} {text}" for name, text in COMMANDS.items())
    return f"""\
usage: hypersteer [-h] [--version] COMMAND ...

Steer a frozen language model with words: hypernetworks that turn a plain-language
prompt into an edit of hidden states.

commands:
{listed}

examples:
  hypersteer demo
  hypersteer generate "Tell me about your day." --steer "talk like a pirate"
  hypersteer COMMAND --help

{TRACEBACK}, anywhere in a command, shows where an error arose."""
