"""Settings from TOML and dictionaries, every key and type checked, and back to plain JSON types."""

import dataclasses
import json
import os
import tomllib
import types
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from hypersteer.errors import ConfigError, SteeringError, nearest, one_line, short, shown
from hypersteer.files import path_of, read_text, reason
from hypersteer.values import as_real, as_whole, check_text

T = TypeVar("T")
LARGEST_SEED = 2**63 - 1
"""What torch takes, with room for the numbers of rows and concepts that are added to a seed."""


def load_toml(path: str | Path, into: type[T]) -> T:
    """Read a run's settings from a TOML file; what it does not say keeps its default.

    Raises:
        ConfigError: if the file is missing or malformed, or a key is unknown or of a wrong type.
    """
    path = path_of(path, "the settings file")
    try:
        raw = tomllib.loads(read_text(path))
    except OSError as error:
        raise ConfigError(f"cannot read the settings '{path}': {reason(error)}") from error
    # Not UTF-8, not TOML, a number of too many digits, or tables within tables without end.
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"'{path}' is not valid TOML: {one_line(error)}") from error
    return from_dict(into, raw, where=str(path))


def from_dict(into: type[T], raw: dict[str, Any], where: str = "settings") -> T:
    """Build a configuration dataclass from nested dictionaries.

    Raises:
        ConfigError: naming the place, the key, and the nearest known one.
    """
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where} is a table of settings, not {short(raw)}")
    hints = get_type_hints(into)
    known = {f.name: f for f in dataclasses.fields(into)}  # type: ignore[arg-type]
    values = {}
    for key, value in raw.items():
        if key not in known:
            raise ConfigError(f"{where}: unknown key '{key}'{nearest(str(key), known)}")
        values[key] = _checked(hints[key], value, f"{where}: {key}")
    return into(**values)


def settle(config: Any, table: str = "") -> None:
    """Check the type of every field of a frozen dataclass, in its `__post_init__`, and bring it in.

    What was read from a file has been checked before; this is for what code gives. Numbers of
    numpy and torch become Python's, lists become tuples, paths become texts.

    Args:
        config: the dataclass; fields that are dataclasses have settled themselves.
        table: where it stands among the settings, such as `optim.`.

    Raises:
        ConfigError: naming the field, its value, and what is expected.
    """
    hints = get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        found = _checked(hints[field.name], value, f"{table}{field.name}")
        if found is not value:
            object.__setattr__(config, field.name, found)


def named_values(given: Collection[str], option: str, what: str, why: str = "") -> dict[str, str]:
    """Return the values of `NAME=VALUE` settings by their names.

    Args:
        given: the settings.
        option: what they were given as, such as `--condition`.
        what: what a value is, such as `FILE`.
        why: what a message ends with.

    Raises:
        ConfigError: for one that has not this form, or a name that is given twice.
    """
    found: dict[str, str] = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise ConfigError(f"{option} '{one}' is not NAME={what}{why}")
        if name.strip() in found:
            raise ConfigError(f"{option} names '{name.strip()}' twice")
        found[name.strip()] = value.strip()
    return found


def check_choices(config: Any) -> None:
    """Refuse a value that is none of those that a field of a dataclass may have.

    What was read from a file has been checked before; this is for what code gives.

    Raises:
        ConfigError: naming the field and the nearest choice.
    """
    hints = get_type_hints(type(config))
    for field in dataclasses.fields(config):
        hint = hints[field.name]
        options = (hint, *get_args(hint)) if get_origin(hint) is tuple else (hint,)
        if any(get_origin(option) is Literal for option in options):
            check_choice(field.name, getattr(config, field.name), hint)


def check_choice(name: str, value: Any, hint: Any) -> None:
    """Refuse a value that is none of a `Literal`'s.

    Raises:
        ConfigError: naming it and the nearest choice.
    """
    _checked(hint, value, name)


def _checked(hint: Any, value: Any, where: str) -> Any:
    """Return `value` as the type `hint` wants it."""
    if hint is Any:
        return value
    origin = get_origin(hint)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, hint):  # type: ignore[arg-type]
            return value
        return from_dict(hint, value, where)  # type: ignore[arg-type]
    if origin is Literal:
        if not isinstance(value, str) or value not in get_args(hint):
            told = nearest(str(value), get_args(hint))
            raise ConfigError(f"{where} = {shown(value)} is unknown{told}")
        return value
    if origin in (Union, types.UnionType):
        return _one_of(hint, value, where)
    if origin in (tuple, dict):
        return _several(hint, value, where)
    if hint is type(None) and value is None:
        return None
    found = _plain(hint, value, where)
    if found is None:
        raise ConfigError(f"{where} = {shown(value)} is not {_name(hint)}")
    return found


def _several(hint: Any, value: Any, where: str) -> Any:
    """Return a list, for which one text will do, or a table with free keys."""
    if get_origin(hint) is dict and isinstance(value, dict):
        inner = get_args(hint)[1]
        return {
            _checked(str, key, where): _checked(inner, item, f"{where}.{key}")
            for key, item in value.items()
        }
    items = [value] if isinstance(value, (str, os.PathLike)) else value
    if get_origin(hint) is tuple and isinstance(items, (list, tuple)):
        inner = get_args(hint)
        if inner[-1] is ... or len(items) == len(inner):
            return tuple(_checked(inner[0], item, where) for item in items)
    raise ConfigError(f"{where} = {shown(value)} is not {_name(hint)}")


def _one_of(hint: Any, value: Any, where: str) -> Any:
    for option in get_args(hint):
        try:
            return _checked(option, value, where)
        except ConfigError:
            continue
    raise ConfigError(f"{where} = {shown(value)} is not {_name(hint)}")


def _plain(hint: Any, value: Any, where: str) -> Any:
    """Return a value of a plain type, or None if it has another; an int does for a float.

    Raises:
        ConfigError: for a text that is not valid Unicode.
    """
    if hint is int:
        return as_whole(value)
    if hint is float:
        return as_real(value)
    if hint is str and isinstance(value, (str, os.PathLike)):
        try:
            text = os.fspath(value)
            return check_text(text, where) if isinstance(text, str) else None
        except SteeringError as error:
            raise ConfigError(str(error)) from error
    return value if isinstance(value, hint) else None


def _name(hint: Any) -> str:
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_name(option) for option in get_args(hint))
    if get_origin(hint) is Literal:
        return " or ".join(repr(option) for option in get_args(hint))
    if get_origin(hint) is tuple:
        inner = get_args(hint)
        count = "" if inner[-1] is ... else f", {len(inner)} of them"
        return f"list of {_name(inner[0])}{count}"
    if get_origin(hint) is dict:
        return "a table"
    return "none" if hint is type(None) else getattr(hint, "__name__", str(hint))


def to_dict(config: Any) -> dict[str, Any]:
    """Return the settings as nested dictionaries of JSON types; `from_dict` reads them back.

    Raises:
        ConfigError: for a free setting that JSON has no form for.
    """
    return json.loads(json.dumps(dataclasses.asdict(config), default=_number))


def _number(value: Any) -> int | float:
    """Return a number of numpy or torch as Python's."""
    found = as_real(value) if as_whole(value) is None else as_whole(value)
    if found is None:
        raise ConfigError(f"the setting {shown(value)} is neither a text, a number nor a list")
    return found


def completed(cls: type, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Fill stored settings with the defaults of those that earlier versions lacked."""
    try:
        return to_dict(from_dict(cls, dict(stored), "stored settings"))
    except SteeringError:  # a later version's, or damaged: what differs is told as it stands
        return dict(stored)


def differing(
    kept: Mapping[str, Any],
    wanted: Mapping[str, Any],
    free: Mapping[str, Collection[str]],
    table: str = "",
) -> list[str]:
    """Return the settings, by dotted name, in which two configurations differ and may not.

    Args:
        kept: what a folder was begun with, from `to_dict`.
        wanted: what is wanted of it now.
        free: settings that may differ, by the table they are in; `""` is the top.
        table: the table that is compared.
    """
    found = []
    for key, value in wanted.items():
        if key in free.get(table, ()):
            continue
        if isinstance(value, dict) and isinstance(kept.get(key), dict):
            found += [f"{key}.{inner}" for inner in differing(kept[key], value, free, key)]
        elif kept.get(key) != value:
            found.append(key)
    return found


def without(
    config: Mapping[str, Any], free: Mapping[str, Collection[str]], table: str = ""
) -> dict[str, Any]:
    """Return settings, from `to_dict`, without those that are free; see `differing`."""
    return {
        key: without(value, free, key) if isinstance(value, dict) else value
        for key, value in config.items()
        if key not in free.get(table, ())
    }


def at_least(least: int, table: str, config: Any, *names: str) -> None:
    """Refuse settings below `least`; None, where a setting may be None, is no limit."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not value >= least:  # NaN is at least nothing
            raise ConfigError(f"{table}{name} {value} is below {least}")


def check_seed(config: Any, table: str = "") -> None:
    """Refuse a seed that the generators of random numbers do not take.

    Raises:
        ConfigError: unless `seed` is within 0 and 2**63 - 1.
    """
    at_least(0, table, config, "seed")
    if config.seed > LARGEST_SEED:
        raise ConfigError(f"{table}seed {config.seed} is above {LARGEST_SEED} (2**63 - 1)")
