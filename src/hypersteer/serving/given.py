"""Parts of the field `steering` as they come from elsewhere than our own server's requests."""

from collections.abc import Mapping
from typing import Any

from hypersteer.concepts import validate_steering_prompt
from hypersteer.errors import nearest, one_line, shown
from hypersteer.serving.errors import Refused
from hypersteer.serving.schema import Part


def part_of(given: Any) -> Part:
    """Return a part of the field `steering`.

    Raises:
        Refused: naming its first fault.
    """
    if isinstance(given, str):
        return Part(text=validate_steering_prompt(given))
    if not isinstance(given, Mapping):
        raise Refused(f"steering = {shown(given)} is no text and no part", param="steering")
    unknown = set(given) - set(Part.model_fields)
    if unknown:
        name = sorted(map(str, unknown))[0]
        raise Refused(
            f"'steering.{name}' is not supported{nearest(name, Part.model_fields)}",
            param=f"steering.{name}",
            code="unsupported_parameter",
        )
    try:
        return Part.model_validate(dict(given))
    except ValueError as error:
        raise Refused(f"steering: {_fault(error)}", param="steering") from error


def _fault(error: ValueError) -> str:
    """Return the first fault that pydantic found, in one line."""
    faults = getattr(error, "errors", None)
    if faults is None:
        return one_line(error)
    first = faults()[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {one_line(first['msg'])}" if place else one_line(first["msg"])
