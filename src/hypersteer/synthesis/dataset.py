"""The finished dataset: AxBench's parquet files, metadata, and where every row comes from."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from hypersteer.concepts import Concept
from hypersteer.data.sources import NEGATIVE_POOL
from hypersteer.errors import DataError, one_line
from hypersteer.files import to_json, write_text
from hypersteer.synthesis.folder import BuildFolder
from hypersteer.synthesis.pools import GENRES, Split
from hypersteer.synthesis.prompts import TEMPLATE_VERSION
from hypersteer.synthesis.stages import ROW_STAGES

ROTATE = 500
"""Concepts of one file, as in AxBench."""
STEMS: dict[Split, str] = {"train": "train_data", "test": "latent_eval_data"}
NO_FEATURE = -1
"""Stands for the feature's number where a concept is no SAE feature."""
TRAIN = pa.schema(
    [
        ("input", pa.string()),
        ("output", pa.string()),
        ("output_concept", pa.string()),
        ("concept_genre", pa.string()),
        ("category", pa.string()),
        ("dataset_category", pa.string()),
        ("concept_id", pa.int64()),
    ]
)
COMPLETE = pa.field("complete", pa.bool_())
"""Our own last column: whether a response is whole, so that its end may be taught."""
SCHEMAS: dict[Split, pa.Schema] = {
    "train": TRAIN.append(COMPLETE),
    "test": TRAIN.append(pa.field("sae_link", pa.string()))
    .append(pa.field("sae_id", pa.int64()))
    .append(COMPLETE),
}
PROVENANCE = pa.schema(
    [
        ("split", pa.string()),
        ("row", pa.int64()),
        ("concept_id", pa.int64()),
        ("category", pa.string()),
        ("teacher", pa.string()),
        ("template_version", pa.int32()),
        ("seed", pa.int64()),
        ("sample", pa.int32()),
        ("instruction_source", pa.string()),
    ]
)


class Authors(NamedTuple):
    """Who wrote the rows, for their provenance.

    Attributes:
        teacher: who wrote the rows of concepts.
        base_lm: who answered the shared negatives.
        seed: of the build.
    """

    teacher: str
    base_lm: str
    seed: int


def write_dataset(
    folder: BuildFolder,
    concepts: Sequence[Concept],
    authors: Authors,
    splits: Sequence[Split] = ("train", "test"),
) -> None:
    """Write the dataset from the parts in a folder.

    Above 500 concepts the files rotate. `provenance.parquet` has one row for each row of data, with
    its split and its position there, counted over all files of the split.

    Raises:
        DataError: if a split has no positive row, or the folder cannot be written.
    """
    try:
        _write_splits(folder, concepts, authors, splits)
        lines = (json.dumps(_metadata(concept), ensure_ascii=False) for concept in concepts)
        write_text(folder.path / "metadata.jsonl", "".join(f"{line}\n" for line in lines))
    except OSError as error:
        raise DataError(
            f"cannot write to '{folder.path}': {one_line(error)}; make room, then run it again"
        ) from error
    finally:
        for left in folder.path.glob("*.parquet.tmp"):
            left.unlink()


def write_report(folder: BuildFolder, report: dict[str, Any]) -> None:
    """Write `report.json` beside the data.

    Raises:
        DataError: if it cannot be written.
    """
    path = folder.path / "report.json"
    try:
        write_text(path, to_json(report, ensure_ascii=False, indent=2) + "\n")
    except OSError as error:
        raise DataError(f"cannot write '{path}': {one_line(error)}") from error


def _write_splits(
    folder: BuildFolder, concepts: Sequence[Concept], authors: Authors, splits: Sequence[Split]
) -> None:
    """All data files and their provenance, under temporary names until all are there."""
    finished: list[tuple[Path, Path]] = []
    provenance = folder.path / "provenance.parquet"
    with pq.ParquetWriter(_temporary(provenance), PROVENANCE) as sources:
        for split in splits:
            position = positives = 0
            for start in range(0, len(concepts), ROTATE):
                rows = list(_rows(folder, concepts[start : start + ROTATE], split, first=not start))
                number = f"_{start // ROTATE}" if start else ""
                path = folder.path / f"{STEMS[split]}{number}.parquet"
                columns = [{name: row[name] for name in SCHEMAS[split].names} for row in rows]
                table = pa.Table.from_pylist(columns, schema=SCHEMAS[split])
                pq.write_table(table, _temporary(path))
                finished.append((_temporary(path), path))
                origins = [_origin(row, split, position + i, authors) for i, row in enumerate(rows)]
                sources.write_table(pa.Table.from_pylist(origins, schema=PROVENANCE))
                position += len(rows)
                positives += sum(row["category"] == "positive" for row in rows)
            if not positives:
                raise DataError(
                    f"no usable response came for the {split} split; {folder.path}/report.json "
                    "says why; take another teacher, or loosen the filters"
                )
    for temporary, path in [*finished, (_temporary(provenance), provenance)]:
        temporary.replace(path)


def _rows(
    folder: BuildFolder, concepts: Sequence[Concept], split: Split, *, first: bool
) -> Iterator[dict[str, Any]]:
    """Rows of a file; the shared negatives come first, in the first file of the training split."""
    if first and split == "train":
        for genre in GENRES:
            for row in (folder.part("pool", genre) or {"rows": []})["rows"]:
                yield _row(row, "negative", NEGATIVE_POOL, "")
    for concept in concepts:
        for stage in ROW_STAGES:
            for row in (folder.part(stage, concept.id) or {"rows": []})["rows"]:
                if row["split"] == split:
                    yield _row(row, stage.removesuffix("s"), concept.id, concept.ref)


def _row(row: dict[str, Any], category: str, concept_id: int, ref: str) -> dict[str, Any]:
    """A row in AxBench's columns, with what its provenance needs."""
    number = ref.rstrip("/").rpartition("/")[2]
    return {
        "input": row["instruction"],
        "output": row["response"],
        "output_concept": row["output_concept"],
        "concept_genre": row["genre"],
        "category": category,
        "dataset_category": "instruction",
        "concept_id": concept_id,
        "sae_link": ref,
        "sae_id": int(number) if number.isascii() and number.isdecimal() else NO_FEATURE,
        "complete": row["complete"],
        "sample": row["sample"],
        "instruction_source": row["source"],
    }


def _origin(row: dict[str, Any], split: Split, position: int, authors: Authors) -> dict[str, Any]:
    """Where a row comes from."""
    shared = row["concept_id"] == NEGATIVE_POOL
    return {
        "split": split,
        "row": position,
        "concept_id": row["concept_id"],
        "category": row["category"],
        "teacher": authors.base_lm if shared else authors.teacher,
        # No template asks for shared negatives: the base LM sees the bare instruction.
        "template_version": None if shared else TEMPLATE_VERSION,
        "seed": authors.seed,
        "sample": row["sample"],
        "instruction_source": row["instruction_source"],
    }


def _metadata(concept: Concept) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "concept_id": concept.id,
        "concept": concept.text,
        "ref": concept.ref,
        "concept_genres_map": {concept.text: [concept.genre]},
    }
    return fields | ({"kind": concept.kind} if concept.kind else {})


def _temporary(path: Path) -> Path:
    return path.with_suffix(f"{path.suffix}.tmp")
