"""The folder of a build: every finished part is kept, whole or not at all, and never redone."""

import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from hypersteer.config import completed, differing, to_dict, without
from hypersteer.config.synthesis import DistillationConfig, SynthesisConfig
from hypersteer.endpoint.replies import Usage
from hypersteer.errors import ConfigError, DataError, one_line
from hypersteer.files import is_file, path_of, read_json, reason, to_json, write_text
from hypersteer.launched import shares
from hypersteer.locks import is_empty
from hypersteer.sharing import Share, digest

PARTS = "build"
"""Sub-folder with what is needed to resume; the dataset does not need it."""
CONTENT = "content"
"""Where the settings of a folder hold the hashes of what was read."""
FREE = {
    "": ("out", "concepts", "instructions", "batch_size", "share"),
    "base_lm": ("device",),
    "teacher": (
        "base_url",
        "threads",
        "api_key_env",
        "max_tokens",
        "token_limit",
        "timeout_s",
        "concurrency",
        "retries",
        "backoff_s",
        "input_price",
        "output_price",
        "batch_size",
    ),
    "judge": (
        "threads",
        "base_url",
        "api_key_env",
        "concurrency",
        "input_price",
        "output_price",
    ),
}
"""Settings, by table, that may change in a folder; of lists and pools the content counts."""


class BuildFolder:
    """Parts of a build on disk, one small file per stage and concept.

    Args:
        config: the settings.
        content: what the run reads, by name; a folder begun with other content is refused.

    Raises:
        ConfigError: if the folder holds another build, or other files.
    """

    def __init__(
        self, config: SynthesisConfig | DistillationConfig, content: Mapping[str, Any]
    ) -> None:
        self.path = path_of(config.out, "out")
        self._parts = self.path / PARTS
        self._run = uuid.uuid4().hex
        hashes = {name: _hash(value) for name, value in content.items()}
        self._described = to_dict(config) | {CONTENT: hashes}
        self._kind, self._wanted = type(config), config.share
        self._check()

    def share(self) -> Share:
        """Lock the folder, alone or together with others; to be released afterwards.

        Raises:
            ConfigError: if it is in use by a process that does not share this build.
            DataError: if it cannot be written.
        """
        work = digest(without(self._described, FREE)) if shares(self._wanted) else None
        try:
            return Share(self.path, work)
        except OSError as error:
            raise self._unwritable(error) from error

    def start(self) -> None:
        """Make the folder and keep the settings.

        Raises:
            DataError: if it cannot be written.
        """
        self._write("settings.json", self._described)

    def part(self, stage: str, name: object) -> Any:
        """Return what a stage has kept under a name, or None where it is not there yet."""
        path = self._parts / stage / f"{name}.json"
        try:
            return read_json(path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise DataError(f"'{path}' is damaged ({one_line(error)}); delete it") from error

    def keep(self, stage: str, name: object, content: Any) -> None:
        """Keep a part of a stage.

        Raises:
            DataError: if it cannot be written.
        """
        self._write(f"{stage}/{name}.json", content)

    def has(self, stage: str, name: object) -> bool:
        """Return whether a part is there."""
        return (self._parts / stage / f"{name}.json").is_file()

    def keep_usage(self, usage: Usage) -> None:
        """Keep what this run has asked so far."""
        if usage.calls or usage.cache_hits:
            self._write(f"usage/{self._run}.json", asdict(usage))

    def usage(self) -> Usage:
        """Return what all runs in this folder asked together."""
        files = sorted((self._parts / "usage").glob("*.json"))
        return sum((Usage(**self.part("usage", file.stem)) for file in files), Usage())

    def _write(self, name: str, content: Any) -> None:
        path = self._parts / name
        try:
            write_text(path, to_json(content, ensure_ascii=False, indent=1) + "\n")
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> DataError:
        return DataError(f"cannot write to '{self.path}': {reason(error)}; choose another out")

    def _check(self) -> None:
        kept_file = self._parts / "settings.json"
        # First, since another process may just be beginning.
        empty = not is_file(self.path) and is_empty(self.path)
        if not is_file(kept_file):
            if not empty:
                raise ConfigError(
                    f"'{self.path}' holds no build of concept data but other files; choose another "
                    "out"
                )
            return
        try:
            kept = read_json(kept_file)
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read '{kept_file}': {one_line(error)}") from error
        if not isinstance(kept, dict):
            raise ConfigError(
                f"'{kept_file}' holds no settings; delete its folder, or choose another out"
            )
        settings = {key: value for key, value in kept.items() if key != CONTENT}
        kept = completed(self._kind, settings) | {CONTENT: kept.get(CONTENT)}
        for key in differing(kept, self._described, FREE):
            name = key.removeprefix(f"{CONTENT}.")
            raise ConfigError(
                f"'{self.path}' holds a build with another {name}; choose another out, or delete "
                "that folder"
            )


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]
