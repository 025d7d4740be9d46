"""Named edits in a folder: the only files that a server writes, by names that it checks."""

import re
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypersteer.edits.edit import Edit
from hypersteer.edits.edit_set import EditSet, load_edit, parts_of
from hypersteer.errors import CheckpointError, SteeringError, nearest
from hypersteer.files import replacing
from hypersteer.serving.errors import Refused

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
SUFFIX = ".safetensors"
MOST = 10_000
"""Edits that a folder may hold; clients cannot fill a disk one file at a time."""


class StoredEdits:
    """The edits of a folder, by name.

    Args:
        folder: where they lie; it is made with the first.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._held: dict[str, tuple[tuple[int, int], Edit | EditSet]] = {}

    def names(self) -> list[str]:
        """Return the names of all edits, sorted."""
        if not self._folder.is_dir():
            return []
        found = (p.name.removesuffix(SUFFIX) for p in self._folder.glob(f"*{SUFFIX}"))
        return sorted(name for name in found if NAME.fullmatch(name))

    def read(self, name: str) -> Edit | EditSet:
        """Return an edit; it stays in memory until its file changes.

        Raises:
            Refused: if there is none of the name.
            CheckpointError: if its file is damaged.
        """
        path = self._path(name)
        try:
            stat = path.stat()
        except OSError:
            raise self._unknown(name) from None
        stamp = (stat.st_mtime_ns, stat.st_size)
        with self._lock:
            held = self._held.get(name)
        if held is not None and held[0] == stamp:
            return held[1]
        edit = load_edit(path)
        with self._lock:
            self._held[name] = stamp, edit
        return edit

    def content(self, name: str) -> bytes:
        """Return the file of an edit.

        Raises:
            Refused: if there is none of the name.
        """
        try:
            return self._path(name).read_bytes()
        except OSError:
            raise self._unknown(name) from None

    def write(self, name: str, edit: Edit | EditSet) -> None:
        """Keep an edit under a name; one that was there goes."""
        with self._place(name) as temporary:
            edit.save(temporary)

    def take(
        self, name: str, content: bytes, check: Callable[[Edit | EditSet], None]
    ) -> Edit | EditSet:
        """Keep what a client sent as the file of an edit, if it is one; return it.

        What is refused leaves an edit of the name as it was.

        Args:
            name: of the edit.
            content: the file.
            check: refuses an edit that is not to be kept.

        Raises:
            Refused: if it is no edit.
        """
        with self._place(name) as temporary:
            temporary.write_bytes(content)
            try:
                edit = load_edit(temporary)
            except CheckpointError as error:
                told = str(error).replace(f"'{temporary}'", f"'{name}'")
                raise Refused(told, param="file") from error
            check(edit)
            return edit

    def delete(self, name: str) -> None:
        """Remove an edit.

        Raises:
            Refused: if there is none of the name.
        """
        try:
            self._path(name).unlink()
        except OSError:
            raise self._unknown(name) from None
        with self._lock:
            self._held.pop(name, None)

    @contextmanager
    def _place(self, name: str) -> Generator[Path]:
        path = self._path(name)
        names = self.names()
        if name not in names and len(names) >= MOST:
            raise Refused(f"{MOST:,} edits are stored; delete one first", 409)
        try:
            with replacing(path) as temporary:
                yield temporary
        except OSError as error:
            raise SteeringError(f"cannot store the edit '{name}': {error.strerror}") from error

    def _path(self, name: str) -> Path:
        if not NAME.fullmatch(name):
            raise Refused(
                f"'{name[:80]}' cannot name an edit; take up to 64 of a-z, 0-9, '-' and '_', the "
                "first a letter or a digit",
                param="name",
            )
        return self._folder / f"{name}{SUFFIX}"

    def _unknown(self, name: str) -> Refused:
        return Refused(
            f"no edit is stored as '{name}'{nearest(name, self.names()[:100])}", 404, param="edit"
        )


def about(name: str, edit: Edit | EditSet) -> dict[str, Any]:
    """Return what is told of a stored edit."""
    parts = parts_of(edit)
    return {
        "object": "edit",
        "name": name,
        "steering_prompt": edit.steering_prompt,
        "base_lm": parts[0].base_lm,
        "generator": parts[0].generator,
        "parts": [
            {
                "kind": part.kind.name,
                "layer": part.site.layer,
                "site": part.site.kind,
                "scope": part.scope if isinstance(part.scope, str) else list(part.scope),
            }
            for part in parts
        ],
    }
