"""Folders: where files are kept that belong to no run, and how a checkpoint is told."""

import os
from pathlib import Path

from platformdirs import user_cache_path

from hypersteer.files import is_file, path_of

CACHE_VARIABLE = "HYPERSTEER_CACHE"


def cache_folder() -> Path:
    """Return the folder of converted models and data: the user's cache, or `HYPERSTEER_CACHE`.

    Raises:
        ConfigError: if that variable holds no path.
    """
    override = os.environ.get(CACHE_VARIABLE)
    return path_of(override, CACHE_VARIABLE) if override else user_cache_path("hypersteer")


def holds_checkpoint(folder: Path) -> bool:
    """Return whether a folder holds what a checkpoint is made of."""
    return is_file(folder / "config.json") and is_file(folder / "model.safetensors")
