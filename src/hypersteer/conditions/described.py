"""Conditions in words, with texts of which they are true and texts of which they are false.

A head that writes conditions from words learns from these and is tested on them; see the README in
`data/conditions` for what the bundled ones are.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hypersteer.conditions.score import check_words
from hypersteer.config import from_dict
from hypersteer.errors import DataError, SteeringError, one_line
from hypersteer.files import package_data, path_of, read_lines
from hypersteer.values import json_of

About = Literal["prompt", "answer"]
BUNDLED = "bundled"
CONCEPT = "concept"
"""The kind of conditions that concepts are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """A condition in words, and texts on both sides of it.

    Attributes:
        condition: when it holds, as a user would say it.
        also: other wordings of it.
        kind: what sort of condition it is, such as `topic` or `tone`.
        about: whether the texts are prompts, or answers that may be cut off.
        held_out: whether it is never trained on.
        inside: texts of which it is true.
        near: texts of which it is false though they look like it; may be empty.
        off: texts of which it is false.
    """

    condition: str
    also: tuple[str, ...] = ()
    kind: str = ""
    about: About = "prompt"
    held_out: bool = False
    inside: tuple[str, ...]
    near: tuple[str, ...] = ()
    off: tuple[str, ...]

    def __post_init__(self) -> None:
        for wording in self.wordings:
            check_words(wording)
        if not self.inside or not self.off:
            raise DataError(f"the condition '{self.condition}' needs texts in `in` and in `off`")
        for text in self.texts:
            if not text.strip():
                raise DataError(f"a text of the condition '{self.condition}' is empty")

    @property
    def wordings(self) -> tuple[str, ...]:
        """All ways in which it is said, the first one first."""
        return (self.condition, *self.also)

    @property
    def texts(self) -> tuple[str, ...]:
        """All texts: those inside, then the near ones, then the others."""
        return (*self.inside, *self.near, *self.off)


def read_described(path: str | Path = BUNDLED) -> list[Described]:
    """Read conditions in words from a file of JSON lines; by default the bundled ones.

    Args:
        path: a file whose lines have `condition`, `in`, `off`, and whatever else `Described` has.

    Raises:
        DataError: if it cannot be read, naming the line, or says the same condition twice.
    """
    file = (
        package_data("data", "conditions", "conditions.jsonl")
        if path == BUNDLED
        else path_of(path, "the file of conditions", DataError)
    )
    try:
        lines = read_lines(file)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the conditions in '{path}': {one_line(error)}") from error
    found: dict[str, Described] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            entry = json_of(line)
            raw = {"inside" if key == "in" else key: value for key, value in entry.items()}
            one = from_dict(Described, raw, where)
        except (SteeringError, ValueError, TypeError, AttributeError) as error:
            raise DataError(f"{where}: {one_line(error)}") from error
        if one.condition in found:
            raise DataError(f"{where}: the condition '{one.condition}' is there twice")
        found[one.condition] = one
    return list(found.values())
