"""Files of a results folder: their names, and how they are read and written, or what is told."""

import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
from pyarrow import ArrowException

from hypersteer.errors import SteeringError, one_line
from hypersteer.evaluation.records import Row, from_table, to_table
from hypersteer.files import is_file, reason, replacing


def slug(name: str) -> str:
    """Return a file name for any name."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "unnamed"


def damaged(path: Path, what: object) -> SteeringError:
    """Return what is told of a file that does not hold what it should."""
    return SteeringError(f"'{path}' is damaged ({one_line(what)}); delete it")


def read_rows(path: Path, kind: type[Row]) -> list[Row] | None:
    """Return the rows of a parquet file, or None where it is not there.

    Raises:
        SteeringError: if it is damaged.
    """
    if not is_file(path):
        return None
    with reading(path):
        return from_table(pq.read_table(path), kind)


@contextmanager
def reading(path: Path) -> Generator[None]:
    """Turn what reading a parquet file raises into one line with the way out.

    Raises:
        SteeringError: if the file is damaged.
    """
    try:
        yield
    except (ArrowException, OSError, TypeError, ValueError, KeyError) as error:
        raise damaged(path, error) from error


@contextmanager
def writing(path: Path) -> Generator[None]:
    """Turn what the system raises into one line with the way out.

    Raises:
        SteeringError: if the file cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise SteeringError(
            f"cannot write '{path}': {reason(error)}; what is finished stays, so mend that and run "
            "the same command again"
        ) from error


def write_rows(path: Path, rows: Sequence[Row], kind: type[Row]) -> None:
    """Write rows as a parquet file, whole or not at all.

    Raises:
        SteeringError: if it cannot be written.
    """
    with writing(path), replacing(path) as temporary:
        pq.write_table(to_table(list(rows), kind), temporary)
