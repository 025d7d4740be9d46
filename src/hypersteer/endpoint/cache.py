"""Replies kept on disk: one SQLite file that threads and processes share.

Every reply is committed as it comes, so a killed run loses none that was paid for.
"""

import hashlib
import json
import sqlite3
import time
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from hypersteer.endpoint.replies import Messages, Reply
from hypersteer.endpoint.settings import EndpointConfig
from hypersteer.errors import EndpointError, one_line

FILE = "replies-1.sqlite3"
"""The name carries the version of the format."""
LOCK_S = 30.0
"""How long to wait for another process that is writing, in seconds."""


def cache_key(config: EndpointConfig, messages: Messages, sample: int) -> str:
    """Hash what a reply depends on; not the server's address, which may change."""
    parts = {
        "model": config.model,
        "messages": [dict(message) for message in messages],
        "temperature": None if config.temperature is None else float(config.temperature),
        "max_tokens": config.max_tokens,
        "seed": config.seed,
        "sample": sample,
    }
    if config.top_logprobs:
        parts["top_logprobs"] = config.top_logprobs
    if config.own_seeds:
        parts["own_seeds"] = True
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class ReplyCache:
    """Replies by key, in one SQLite file; made by `open_cache`, used in the thread that made it."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection

    def get(self, key: str) -> Reply | None:
        """Return the reply kept under a key.

        Raises:
            EndpointError: if the file is damaged or cannot be read.
        """
        query = "SELECT text, input_tokens, output_tokens, likely FROM replies WHERE key = ?"
        with _told(self._path):
            row = self._connection.execute(query, (key,)).fetchone()
        if row is None:
            return None
        text, prompt_tokens, completion_tokens, likely = row
        return Reply(text, prompt_tokens, completion_tokens, json.loads(likely))

    def put(self, key: str, reply: Reply) -> None:
        """Keep a reply; it is safe when this returns.

        Raises:
            EndpointError: if the file is damaged or cannot be written.
        """
        row = (key, *reply[:3], json.dumps(dict(reply.likely)))
        with _told(self._path):
            self._connection.execute("INSERT OR REPLACE INTO replies VALUES (?, ?, ?, ?, ?)", row)


@contextmanager
def open_cache(folder: Path) -> Generator[ReplyCache]:
    """Open the cache in a folder; make it where there is none.

    Raises:
        EndpointError: if the file is damaged, or cannot be made or opened.
    """
    path = folder / FILE
    with _told(path):
        folder.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=LOCK_S, isolation_level=None)
    with closing(connection):
        with _told(path):
            _prepare(connection)
        yield ReplyCache(path, connection)


def _prepare(connection: sqlite3.Connection) -> None:
    """Make the write-ahead log and the table; several processes may do so at once."""
    deadline = time.monotonic() + LOCK_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError as error:
            # SQLite does not wait for its lock when it changes the journal mode.
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, text TEXT NOT NULL, "
        "input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL, "
        "likely TEXT NOT NULL DEFAULT '{}') WITHOUT ROWID"
    )
    columns = [row[1] for row in connection.execute("PRAGMA table_info(replies)")]
    if "likely" not in columns:  # written before replies had probabilities
        with suppress(sqlite3.OperationalError):  # another process has just added it
            connection.execute("ALTER TABLE replies ADD COLUMN likely TEXT NOT NULL DEFAULT '{}'")


@contextmanager
def _told(path: Path) -> Generator[None]:
    """Turn what SQLite and the file system raise into one line with the way out."""
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        raise EndpointError(
            f"cannot use the reply cache '{path}' ({one_line(error)}): make room or free it, or "
            "set HYPERSTEER_CACHE to another folder"
        ) from error
    except sqlite3.Error as error:
        raise EndpointError(
            f"the reply cache '{path}' is damaged ({one_line(error)}): delete it, and its replies "
            "are asked for again"
        ) from error
