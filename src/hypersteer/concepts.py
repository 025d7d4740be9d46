"""What to steer towards: the steering prompt as a value, read, held out and checked."""

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypersteer.errors import DataError, SteeringError, one_line
from hypersteer.files import read_lines
from hypersteer.values import check_text, json_of

LARGEST_ID = 2**32 - 1
"""Ids seed random choices, AxBench's own among them, and its generator takes no more."""
METADATA_KEYS = "concept_id (int, 0 or more), concept (text)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Concept:
    """A steering prompt with a number; the number is the key of its rows.

    Attributes:
        id: Number that the concept's rows carry; -1 is never a concept (the negative pool).
        text: The steering prompt.
        genre: Genre of the base prompts that go with it: `text`, `code` or `math` in AxBench.
        kind: Free word for what sort of steering it asks for (style, topic, ...); may be empty.
        ref: Where it comes from, such as a Neuronpedia address; may be empty.
        held_out: Whether the data mark it as one that is never trained on.
    """

    id: int
    text: str
    genre: str = "text"
    kind: str = ""
    ref: str = ""
    held_out: bool = False


def read_metadata(path: Path) -> list[Concept]:
    """Reads AxBench's `metadata.jsonl`, one concept per line, in the order of the file.

    Args:
        path: The file. Each line holds `concept_id` and `concept`, and may hold `ref`,
            `concept_genres_map` ({concept: [genre]}) and, our own, `kind` and `held_out`. Blank
            lines are skipped.

    Returns:
        The concepts, ids unique.

    Raises:
        DataError: The file is missing, not UTF-8 or empty, or a line is malformed or repeats an id.
    """
    try:
        lines = read_lines(path)
    except (OSError, ValueError) as error:
        raise DataError(
            f"cannot read {path}: {one_line(error)}; expected UTF-8 text, one JSON object per line"
        ) from error
    first_seen: dict[int, int] = {}
    concepts: list[Concept] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        concept = _concept_from_line(line, f"{path}, line {number}")
        if concept.id in first_seen:
            raise DataError(
                f"{path}, line {number}: concept_id {concept.id} was already given on line "
                f"{first_seen[concept.id]}; give each concept its own concept_id"
            )
        first_seen[concept.id] = number
        concepts.append(concept)
    if not concepts:
        raise DataError(f"{path} holds no concepts; expected one JSON object per line")
    return concepts


def text_key(text: str) -> str:
    """What two steering prompts share if they are the same to a reader: so they are one concept.

    White space around them does not count, nor how a letter with an accent is spelled in Unicode
    (NFC). Case and everything else does.
    """
    return unicodedata.normalize("NFC", text.strip())


def rank_ids(ids: Sequence[int], seed: int) -> list[int]:
    """Puts ids in a seeded order in which no id's place depends on which others are there."""
    return sorted(ids, key=lambda id_: (hashlib.sha256(f"{seed}:{id_}".encode()).digest(), id_))


def validate_steering_prompt(text: object) -> str:
    """Gives the steering prompt back unchanged, or says why it cannot steer.

    Raises:
        SteeringError: It is not a string, not valid Unicode, or empty or only white space.
    """
    if not isinstance(text, str):
        raise SteeringError(
            f"a steering prompt must be a string, got {type(text).__name__} {one_line(repr(text))}"
        )
    if not text.strip():
        raise SteeringError(
            f"the steering prompt {text!r} is empty; "
            "say what to steer towards, such as 'talk like a pirate'"
        )
    return check_text(text, "the steering prompt")


def _concept_from_line(line: str, where: str) -> Concept:
    """One concept from one line of metadata; `where` names file and line in messages."""
    try:
        entry = json_of(line)
    except ValueError as error:
        raise DataError(f"{where} is not JSON: {one_line(error)}") from error
    if not isinstance(entry, dict):
        raise DataError(f"{where} is not a JSON object; expected {METADATA_KEYS}")
    id_, text = entry.get("concept_id"), entry.get("concept")
    if not isinstance(id_, int) or isinstance(id_, bool) or not 0 <= id_ <= LARGEST_ID:
        raise DataError(f"{where}: concept_id is {id_!r}; expected {METADATA_KEYS}")
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{where}: concept is {text!r}; expected {METADATA_KEYS}")
    for key in ("kind", "ref"):
        if not isinstance(entry.get(key) or "", str):
            raise DataError(f"{where}: {key} is {entry[key]!r}; expected text")
    held_out = entry.get("held_out", False)
    if not isinstance(held_out, bool):
        raise DataError(f"{where}: held_out is {held_out!r}; expected true or false")
    return Concept(
        id=id_,
        text=text,
        genre=_genre(entry, text, where),
        kind=entry.get("kind") or "",
        ref=entry.get("ref") or "",
        held_out=held_out,
    )


def _genre(entry: dict[str, Any], text: str, where: str) -> str:
    """The genre that the line's map gives to its concept; `text` when there is no map."""
    genres_map = entry.get("concept_genres_map")
    if genres_map is None:
        return "text"
    genres = genres_map.get(text) if isinstance(genres_map, dict) else None
    if not isinstance(genres, list) or not genres or not isinstance(genres[0], str):
        raise DataError(
            f"{where}: concept_genres_map is {genres_map!r}; expected {{concept: [genre]}}"
        )
    return genres[0]
