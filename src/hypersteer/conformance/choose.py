"""Find a back end by what a user calls it."""

import importlib
import importlib.util
import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from hypersteer.conformance.adapter import Adapter
from hypersteer.conformance.backends import Engine, Hooks, Server
from hypersteer.conformance.run import check_adapter
from hypersteer.errors import ConfigError, nearest, one_line
from hypersteer.lm.base import BaseLM

BACKENDS: dict[str, Callable[[BaseLM], Adapter]] = {"engine": Engine, "hooks": Hooks}


def find_backend(name: str) -> Callable[[BaseLM], Adapter]:
    """Return what makes the adapter of a back end, of the base LM that it steers.

    Args:
        name: `engine`, `hooks`, the address of a server, or an adapter of one's own as
            `file.py:Class` or `package.module:Class`.

    Raises:
        ConfigError: if there is no such back end; or when it is made, if it is no adapter.
    """
    if name.startswith(("http://", "https://")):
        return partial(Server, url=name)
    if name in BACKENDS:
        return BACKENDS[name]
    return partial(_made, name, _class_of(name))


def _made(name: str, found: Any, lm: BaseLM) -> Adapter:
    try:
        adapter = found(lm)
    except Exception as error:  # whatever code of a user's own raises
        told = f"{type(error).__name__}: {one_line(error)}"
        raise ConfigError(f"the adapter {name} cannot be made: {told}") from error
    check_adapter(adapter)
    return adapter


def _class_of(name: str) -> Any:
    module, colon, attribute = name.rpartition(":")
    if not colon or not module or not attribute:
        raise ConfigError(
            f"unknown back end '{name}'{nearest(name, BACKENDS)}; give engine, hooks, the address "
            "of a server, or an adapter as file.py:Class"
        )
    try:
        found = _from_file(Path(module)) if module.endswith(".py") else _imported(module)
    except Exception as error:  # whatever code of a user's own raises
        told = f"{type(error).__name__}: {one_line(error)}"
        raise ConfigError(f"the adapter {name} cannot be read: {told}") from error
    if not inspect.isclass(getattr(found, attribute, None)):
        raise ConfigError(f"{module} has no class '{attribute}'")
    return getattr(found, attribute)


def _imported(module: str) -> ModuleType:
    return importlib.import_module(module)


def _from_file(file: Path) -> ModuleType:
    if not file.is_file():
        raise FileNotFoundError(f"no file {file}")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
