"""Where files are kept that belong to no run."""

import os
from pathlib import Path

from platformdirs import user_cache_path

from hypersteer.files import path_of

CACHE_VARIABLE = "HYPERSTEER_CACHE"


def cache_folder() -> Path:
    """Where converted models and data are kept: the user's cache folder, or `HYPERSTEER_CACHE`.

    Raises:
        ConfigError: if that variable holds no path.
    """
    override = os.environ.get(CACHE_VARIABLE)
    return path_of(override, CACHE_VARIABLE) if override else user_cache_path("hypersteer")
