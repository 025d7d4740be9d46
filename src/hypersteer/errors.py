"""The errors that a user can act on.

Every message is one line that names the offending value, what was expected, and the way out.
The command line prints it without a traceback and exits with code 2.
"""

import reprlib
from collections.abc import Iterable
from difflib import get_close_matches


class SteeringError(Exception):
    """Base of every error raised for bad input; catch this one.

    Args:
        message: one line; what does not print, such as a line feed in a file's name, is escaped.

    Attributes:
        of_one_process: whether it may befall one of several processes that were launched together,
            unlike bad input, which is the same in all.
    """

    of_one_process = False

    def __init__(self, message: object = "") -> None:
        super().__init__("".join(map(_printable, str(message))))


class ConfigError(SteeringError):
    """A setting is unknown, of the wrong type, or out of range."""


class ModelError(SteeringError):
    """A base LM cannot be found, loaded, or steered at the wanted site."""


class DataError(SteeringError):
    """Concept data are missing, malformed, or empty."""


class CheckpointError(SteeringError):
    """A checkpoint or an edit is corrupt, foreign, or belongs to another base LM."""


class TrainingError(SteeringError):
    """Training had to stop (NaN loss, out of memory, full disk); the last checkpoint is intact."""

    of_one_process = True


class EndpointError(SteeringError):
    """An endpoint answers nothing at all: no server, no access, no such model, a damaged cache."""


def _printable(character: str) -> str:
    """Return a character as it is, or its escape if a terminal would not show it."""
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def one_line(error: object, limit: int = 300) -> str:
    """First line of an error's text, for use inside our own one-line messages."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0] if len(lines[0]) <= limit else f"{lines[0][:limit]}..."


def short(value: object) -> str:
    """Return a value as a message names it: texts and numbers cut, others by their type."""
    if isinstance(value, (str, int, float, type(None))):
        return reprlib.repr(value)
    return f"a {type(value).__name__}"


def shown(value: object) -> str:
    """Return a value as Python writes it, on one line and cut, for messages."""
    return one_line(repr(value), 100)


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a `; did you mean 'x'?` tail for an unknown word, or the list of what is known."""
    options = sorted(known)
    close = get_close_matches(word, options, n=1)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(options)}" if options else ""
