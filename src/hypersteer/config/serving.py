"""Settings of a server. The string under each field is its help text."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_data_path

from hypersteer.config.reading import at_least, settle
from hypersteer.errors import ConfigError
from hypersteer.files import read_text

KEY_VARIABLE = "HYPERSTEER_API_KEY"
LARGEST_PORT = 65_535


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """What is served, to whom, and how much of it at once."""

    model: tuple[str, ...] = ("bundled",)
    """Checkpoints: folders, Hub ids or `bundled`, each as NAME=CHECKPOINT or alone, where its base
    LM's name is its name. Those of one base LM share it, and run in one batch."""
    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 lets other machines in, which wants an API key."""
    port: int = 8000
    """Port to listen at; 0 takes a free one."""
    api_key_file: str | None = None
    """File whose first line clients must send as a bearer token; or the variable HYPERSTEER_API_KEY
    holds it."""
    cors: tuple[str, ...] = ()
    """Origins of web pages elsewhere that may call this server, such as https://example.org."""
    edits: str | None = None
    """Folder of the stored edits; by default one among the user's data."""
    condition: tuple[str, ...] = ()
    """Conditions that rules may name: NAME=FILE."""
    rule: tuple[str, ...] = ()
    """Rules that requests may name: NAME=RULE, such as guard=if health then deflect."""
    steer: tuple[str, ...] = ()
    """Steering prompts that rules may name: NAME=TEXT."""
    max_rows: int = 32
    """Most answers that run at once; others wait."""
    max_queue: int = 64
    """Most requests that wait; further ones are answered 429."""
    max_seconds: float = 300.0
    """Longest time that a request may take, waiting included."""
    max_new_tokens: int = 2048
    """Most tokens that a request may ask for."""
    repetition_penalty: float = 1.15
    """Of requests that name none; 1 for none at all. OpenAI's clients cannot name one, and without
    it a small model's greedy text goes round in circles."""
    max_answers: int = 16
    """Most answers to one request: its prompts times `n`."""
    max_steering_chars: int = 2000
    """Longest steering prompt."""
    max_parts: int = 8
    """Most parts of what steers a request."""
    max_body_bytes: int = 1_000_000
    """Largest request; stored edits may have ten times as much."""
    aside_tokens: int = 192
    """A prefill of more tokens runs in a thread of its own while other answers go on."""
    drain_seconds: float = 30.0
    """How long answers that run may go on when the server is told to stop."""

    def __post_init__(self) -> None:
        settle(self)
        at_least(1, "", self, "max_rows", "max_new_tokens", "max_answers", "max_parts")
        at_least(1, "", self, "max_steering_chars", "max_body_bytes", "aside_tokens")
        at_least(0, "", self, "max_queue", "drain_seconds", "port")
        if self.port > LARGEST_PORT:
            raise ConfigError(f"port = {self.port} is no port; give one up to {LARGEST_PORT}")
        if not 0 < self.repetition_penalty < math.inf:
            raise ConfigError(
                f"repetition_penalty = {self.repetition_penalty:g} is no number above 0; give 1 "
                "for none"
            )
        if not self.max_seconds > 0:
            raise ConfigError(f"max_seconds = {self.max_seconds:g} is not above 0")
        if self.max_rows < self.max_answers:
            raise ConfigError(
                f"max_answers = {self.max_answers} is more than max_rows = {self.max_rows}: such a "
                "request could never run; raise max_rows"
            )
        if not self.model:
            raise ConfigError("nothing is served; name a checkpoint with --model")

    @property
    def edits_folder(self) -> Path:
        """The folder of the stored edits."""
        return Path(self.edits) if self.edits else user_data_path("hypersteer") / "edits"

    def api_key(self) -> str:
        """Return the key that clients must send; empty if there is none.

        Raises:
            ConfigError: if the file of the key cannot be read, or is empty.
        """
        if self.api_key_file is None:
            return os.environ.get(KEY_VARIABLE, "").strip()
        try:
            lines = read_text(Path(self.api_key_file)).splitlines()
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read the API key '{self.api_key_file}': {error}") from error
        if not lines or not lines[0].strip():
            raise ConfigError(f"the file of the API key '{self.api_key_file}' is empty")
        return lines[0].strip()
