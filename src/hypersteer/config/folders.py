"""Where files are kept that belong to no run."""

import os
from pathlib import Path

from platformdirs import user_cache_path


def cache_folder() -> Path:
    """Where converted models and data are kept: the user's cache folder, or `HYPERSTEER_CACHE`."""
    override = os.environ.get("HYPERSTEER_CACHE")
    return Path(override).expanduser() if override else user_cache_path("hypersteer")
