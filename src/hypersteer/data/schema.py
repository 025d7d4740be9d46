"""AxBench's format: columns, categories, file names and the keys of `metadata.jsonl`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow as pa

from hypersteer.concepts import LARGEST_ID, Concept
from hypersteer.errors import DataError, one_line
from hypersteer.files import read_lines
from hypersteer.values import json_of

Category = Literal["positive", "negative", "hard negative"]
CATEGORIES: tuple[str, ...] = get_args(Category)
POSITIVE, NEGATIVE, HARD_NEGATIVE = CATEGORIES
GENRES = ("text", "code", "math")
"""Genres of base prompts."""
NEGATIVE_POOL = -1
"""Concept id of the negatives that all concepts share."""
STEMS = {"train": "train_data", "test": "latent_eval_data"}
"""Names of data files, by split."""
METADATA = "metadata.jsonl"
METADATA_KEYS = "concept_id (int, 0 or more), concept (text)"

INPUT, OUTPUT, OUTPUT_CONCEPT = "input", "output", "output_concept"
CONCEPT_GENRE, CATEGORY, CONCEPT_ID = "concept_genre", "category", "concept_id"
DATASET_CATEGORY, SAE_LINK, SAE_ID = "dataset_category", "sae_link", "sae_id"
COMPLETE = "complete"
"""Our own column: whether a response is whole, so that its end may be taught."""
TEXT_COLUMNS = (INPUT, OUTPUT, OUTPUT_CONCEPT, CATEGORY, CONCEPT_GENRE)
REQUIRED = (*TEXT_COLUMNS, CONCEPT_ID)

_TRAIN = [
    (INPUT, pa.string()),
    (OUTPUT, pa.string()),
    (OUTPUT_CONCEPT, pa.string()),
    (CONCEPT_GENRE, pa.string()),
    (CATEGORY, pa.string()),
    (DATASET_CATEGORY, pa.string()),
    (CONCEPT_ID, pa.int64()),
]
_FEATURE = [(SAE_LINK, pa.string()), (SAE_ID, pa.int64())]
FILE_SCHEMAS: Mapping[str, pa.Schema] = {
    "train": pa.schema([*_TRAIN, (COMPLETE, pa.bool_())]),
    "test": pa.schema([*_TRAIN, *_FEATURE, (COMPLETE, pa.bool_())]),
}
"""Columns of the files that are written, by split."""


def read_metadata(path: Path) -> list[Concept]:
    """Read AxBench's `metadata.jsonl`, one concept per line, in the order of the file.

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


def derive_concepts(table: pa.Table, source: str) -> list[Concept]:
    """Return the concepts that positive rows spell out, for data that came without metadata.

    Raises:
        DataError: if a concept has no text, or two.
    """
    concepts: dict[int, Concept] = {}
    names = [CONCEPT_ID, OUTPUT_CONCEPT, CONCEPT_GENRE, CATEGORY]
    # Batch by batch, since grouping the whole table would bring its texts into memory.
    for batch in table.select(names).to_batches():
        distinct = pa.Table.from_batches([batch]).group_by(names, use_threads=False).aggregate([])
        for id_, text, genre, category in zip(*distinct.to_pydict().values(), strict=True):
            if category != POSITIVE or id_ == NEGATIVE_POOL:
                continue
            if not text.strip():
                raise DataError(
                    f"{source} calls concept {id_} {text!r}, which steers towards nothing; add a "
                    "metadata.jsonl that names it"
                )
            concept = concepts.setdefault(id_, Concept(id=id_, text=text, genre=genre))
            if concept.text != text:
                raise DataError(
                    f"{source} calls concept {id_} both {concept.text!r} and {text!r}; "
                    "add a metadata.jsonl that says which"
                )
    return [concepts[id_] for id_ in sorted(concepts)]


def to_metadata(concept: Concept) -> dict[str, Any]:
    """Return a concept as an object of `metadata.jsonl`."""
    fields: dict[str, Any] = {
        "concept_id": concept.id,
        "concept": concept.text,
        "ref": concept.ref,
        "concept_genres_map": {concept.text: [concept.genre]},
    }
    own = {"kind": concept.kind, "held_out": concept.held_out}
    return fields | {key: value for key, value in own.items() if value}


def _concept_from_line(line: str, where: str) -> Concept:
    """Return the concept of one line of metadata; `where` names file and line in messages."""
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
    """Return the genre that the line's map gives to its concept; `text` when there is no map."""
    genres_map = entry.get("concept_genres_map")
    if genres_map is None:
        return "text"
    genres = genres_map.get(text) if isinstance(genres_map, dict) else None
    if not isinstance(genres, list) or not genres or not isinstance(genres[0], str):
        raise DataError(
            f"{where}: concept_genres_map is {genres_map!r}; expected {{concept: [genre]}}"
        )
    return genres[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A base prompt and a response that shows, or does not show, a concept.

    Attributes:
        prompt: What the user asks the base LM, without a chat template.
        response: The wanted answer.
        concept_id: The concept's id, -1 for a row of the shared negative pool.
        category: One of `hypersteer.data.schema.CATEGORIES`; the row store admits no other.
        genre: Genre of the base prompt.
        complete: Whether the response is whole, so that the end of turn may be taught after it.
            AxBench cuts responses at 128 tokens, so its rows are not.
    """

    prompt: str
    response: str
    concept_id: int
    category: str
    genre: str
    complete: bool
