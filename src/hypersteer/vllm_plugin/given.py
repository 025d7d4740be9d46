"""Read our settings in vLLM's configuration."""

from collections.abc import Mapping

from hypersteer.config import from_dict
from hypersteer.config.vllm_plugin import PluginConfig

TABLE = "hypersteer"
"""The name of our settings among vLLM's `additional_config`."""


def settings_of(additional: object) -> PluginConfig:
    """Return our settings among vLLM's `additional_config`.

    Raises:
        ConfigError: for a setting that is unknown or out of range.
    """
    given = additional.get(TABLE, {}) if isinstance(additional, Mapping) else {}
    return from_dict(PluginConfig, given, f"--additional-config {TABLE}")
