"""What commands read from files and from the standard input, as lines of text. Loads no torch."""

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from hypersteer.errors import SteeringError, one_line
from hypersteer.files import path_of, read_lines
from hypersteer.values import check_text, lines_of

if TYPE_CHECKING:
    from hypersteer.edits.edit import Edit
    from hypersteer.edits.edit_set import EditSet

STDIN = "-"
STRAY = "surrogateescape"
"""Keeps bytes that are not UTF-8, so that `check_text` can name them and a chat can continue."""


def read_prompts(name: str) -> list[str]:
    """Return the lines of a file that hold text.

    Args:
        name: the file; `-` is the standard input.

    Raises:
        SteeringError: if it cannot be read, or is not UTF-8.
    """
    try:
        lines = list(_piped()) if name == STDIN else read_lines(path_of(name, "--prompts-file"))
    except (OSError, ValueError) as error:
        raise SteeringError(f"cannot read the prompts in '{name}': {one_line(error)}") from error
    return [check_text(line.strip(), "the prompt") for line in lines if line.strip()]


def typed_or_piped(prompt: str) -> Iterator[str]:
    """Yield what a user types, line by line, or pipes in; without empty lines.

    Args:
        prompt: shown before a line is typed.
    """
    for line in _typed(prompt) if sys.stdin and sys.stdin.isatty() else _piped():
        if line.strip():
            yield line.strip()


def _piped() -> Iterator[str]:
    """Yield the lines of the standard input, as they come: UTF-8, ended by line feeds only.

    Python's own reading follows the locale, keeps a byte-order mark, and ends lines elsewhere too.
    """
    if sys.stdin is None:  # the process was started with it closed
        return
    binary = getattr(sys.stdin, "buffer", None)
    if binary is None:  # a text that stands in for it
        yield from lines_of(sys.stdin.read())
        return
    for number, line in enumerate(binary):
        yield from lines_of(line.decode("utf-8" if number else "utf-8-sig", STRAY))


def _typed(prompt: str) -> Iterator[str]:
    """Yield what is typed at a terminal."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (gives `input` line editing and history)
    with contextlib.suppress(AttributeError):
        sys.stdin.reconfigure(errors=STRAY)  # type: ignore[union-attr]
    while True:
        try:
            yield input(prompt)
        except EOFError:
            return


def read_beside(given: str) -> tuple["Edit | EditSet", float]:
    """Read the file of an edit, and the strength behind the last `=` if there is one."""
    from hypersteer.edits.edit_set import load_edit

    name, mark, last = given.rpartition("=")
    try:
        strength = float(last) if mark else 1.0
    except ValueError:
        name, strength = given, 1.0
    return load_edit(name if mark and name else given), strength
