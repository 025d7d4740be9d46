"""What steers a request, as it travels from vLLM's front end to its workers: one text.

It is the value of `KEY` among the request's `extra_args`. It holds all that an edit is made of, a
stored edit's own numbers too, so that no process looks up a name that may have changed meanwhile.
"""

import base64
import binascii
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from hypersteer.concepts import validate_steering_prompt
from hypersteer.edits.edit import Edit
from hypersteer.edits.edit_set import EditSet, load_edit
from hypersteer.edits.sites import Scope, check_scope, check_strength
from hypersteer.errors import SteeringError, shown
from hypersteer.lm.finite import check_range

KEY = "hypersteer"
"""The name of the text among `SamplingParams.extra_args`, or of `vllm_xargs` over HTTP."""
FILE = "edit.safetensors"
KEPT = 64
"""Stored edits that are kept, as texts and as what these say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Steered:
    """One part of what steers a request: a steering prompt or a stored edit, never both.

    Attributes:
        text: a steering prompt.
        scope: the tokens that its edit touches.
        edit: a stored edit's file, as base64.
        strength: multiplies the edit; never 0.
    """

    text: str | None = None
    scope: Scope = "all"
    edit: str | None = None
    strength: float = 1.0


def payload_of(params: Any) -> Any:
    """Return what steers a request, of its `SamplingParams`; None for an unsteered one."""
    return None if params is None else (params.extra_args or {}).get(KEY)


def encoded(parts: Sequence[Steered]) -> str:
    """Return the text of some parts; equal parts have equal texts."""
    told = [
        {"text": one.text, "scope": one.scope, "strength": one.strength}
        if one.text is not None
        else {"edit": one.edit, "strength": one.strength}
        for one in parts
    ]
    return json.dumps(told, sort_keys=True, ensure_ascii=True)


def decoded(text: object) -> list[Steered]:
    """Return the parts that a text was made of.

    Raises:
        SteeringError: if `encoded` did not make it.
    """
    try:
        told = json.loads(text)  # type: ignore[arg-type]
    except (TypeError, ValueError, RecursionError):
        told = None
    if not isinstance(told, list) or not all(isinstance(one, dict) for one in told):
        raise SteeringError(
            f"'{KEY}' = {shown(text)} is no steering of a request; it is set on the server, from "
            "the field 'steering'"
        )
    return [_part(one) for one in told]


def _part(told: Mapping[str, Any]) -> Steered:
    strength = check_strength(told.get("strength"))
    check_range([strength])
    if set(told) == {"text", "scope", "strength"}:
        text, scope = validate_steering_prompt(told["text"]), check_scope(told["scope"])
        return Steered(text=text, scope=named(scope), strength=strength)
    if set(told) == {"edit", "strength"} and isinstance(told["edit"], str):
        return Steered(edit=told["edit"], strength=strength)
    raise SteeringError(f"a part of '{KEY}' has {shown(sorted(told))}; see the field 'steering'")


def named(scope: Scope) -> Scope:
    """Return a scope that a worker can tell from positions alone.

    Raises:
        SteeringError: for a boolean mask.
    """
    if not isinstance(scope, str):
        raise SteeringError(
            f"a scope that is a mask of {len(scope)} tokens is not taken by the vLLM plug-in; give "
            "a named scope, such as 'all'"
        )
    return scope


@lru_cache(maxsize=KEPT)
def packed(edit: Edit | EditSet) -> str:
    """Return an edit's file as text, the same for equal edits; the last ones are kept."""
    with tempfile.TemporaryDirectory() as folder:
        content = edit.save(Path(folder) / FILE).read_bytes()
    return base64.b64encode(content).decode("ascii")


@lru_cache(maxsize=KEPT)
def unpacked(text: str) -> Edit | EditSet:
    """Return the edit of a file that `packed` took; the last ones are kept.

    Raises:
        SteeringError: if it is none.
    """
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise SteeringError("the edit is no base64 text") from error
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / FILE
        path.write_bytes(content)
        return load_edit(path)
