"""Files that are written whole or not at all, and JSON that every reader takes."""

import json
import math
import uuid
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """A name to write to, which takes the place of `path` when the context ends well.

    Missing folders are made. A reader sees what was there before or the whole of what is new; after
    an error, what was there stays and nothing else is left.

    Raises:
        OSError: if it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        # Of two links to one file the system renames none, and leaves both.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all.

    Raises:
        OSError: if it cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def to_json(value: Any, *, indent: int | None = None, ensure_ascii: bool = True) -> str:
    """JSON text of a value; NaN and infinite numbers, which JSON has no words for, become null."""
    return json.dumps(finite(value), indent=indent, ensure_ascii=ensure_ascii, allow_nan=False)


def finite(value: Any) -> Any:
    """A value of JSON types with None for every number in it that is NaN or infinite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


def numbers(raw: Mapping[str, float | None]) -> dict[str, float]:
    """Named numbers as `to_json` wrote them: null is NaN again."""
    return {name: math.nan if value is None else value for name, value in raw.items()}
