"""The finished dataset: AxBench's parquet files, metadata, and where every row comes from."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from hypersteer.concepts import Concept
from hypersteer.data import schema
from hypersteer.errors import DataError, one_line
from hypersteer.files import read_json, to_json, write_text
from hypersteer.synthesis.folder import BuildFolder
from hypersteer.synthesis.pools import Split
from hypersteer.synthesis.prompts import TEMPLATE_VERSION
from hypersteer.synthesis.stages import ROW_STAGES

REPORT = "report.json"
"""What was kept and dropped, beside the data."""
ROTATE = 500
"""Concepts of one file, as in AxBench."""
NO_FEATURE = -1
"""Stands for the feature's number where a concept is no SAE feature."""
PROVENANCE = pa.schema(
    [
        ("split", pa.string()),
        ("row", pa.int64()),
        (schema.CONCEPT_ID, pa.int64()),
        (schema.CATEGORY, pa.string()),
        ("teacher", pa.string()),
        ("template_version", pa.int32()),
        ("seed", pa.int64()),
        ("sample", pa.int32()),
        ("instruction_source", pa.string()),
    ]
)


class Parts(Protocol):
    """Rows by stage and concept, as `BuildFolder` keeps them, and the folder that they go into."""

    @property
    def path(self) -> Path:
        """Return the folder."""

    def part(self, stage: str, name: object) -> Any:
        """Return what a stage has under a name, with its `rows`; None where it has nothing."""


class Authors(NamedTuple):
    """Who wrote the rows, for their provenance.

    Attributes:
        teacher: who wrote the rows of concepts.
        base_lm: who answered the shared negatives.
        seed: of the build.
        template_version: of the wording in which the teacher was asked; None if nobody was.
    """

    teacher: str
    base_lm: str
    seed: int
    template_version: int | None = TEMPLATE_VERSION


def write_dataset(
    folder: Parts,
    concepts: Sequence[Concept],
    authors: Authors,
    splits: Sequence[Split] = ("train", "test"),
) -> None:
    """Write the dataset from its parts.

    Above 500 concepts the files rotate. `provenance.parquet` has one row for each row of data, with
    its split and its position there, counted over all files of the split.

    Raises:
        DataError: if a split has no positive row, or the folder cannot be written.
    """
    try:
        _write_splits(folder, concepts, authors, splits)
        lines = (
            json.dumps(schema.to_metadata(concept), ensure_ascii=False) for concept in concepts
        )
        write_text(folder.path / schema.METADATA, "".join(f"{line}\n" for line in lines))
    except OSError as error:
        raise DataError(
            f"cannot write to '{folder.path}': {one_line(error)}; make room, then run it again"
        ) from error
    finally:
        for left in folder.path.glob("*.parquet.tmp"):
            left.unlink()


def write_report(folder: BuildFolder, report: dict[str, Any]) -> None:
    """Write the report beside the data.

    Raises:
        DataError: if it cannot be written.
    """
    path = folder.path / REPORT
    try:
        write_text(path, to_json(report, ensure_ascii=False, indent=2) + "\n")
    except OSError as error:
        raise DataError(f"cannot write '{path}': {one_line(error)}") from error


def read_report(folder: BuildFolder) -> dict[str, Any]:
    """Return the report that lies beside the data.

    Raises:
        DataError: if it cannot be read.
    """
    path = folder.path / REPORT
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read '{path}': {one_line(error)}") from error


def _write_splits(
    folder: Parts, concepts: Sequence[Concept], authors: Authors, splits: Sequence[Split]
) -> None:
    """Write all data files and their provenance, under temporary names until all are there."""
    finished: list[tuple[Path, Path]] = []
    provenance = folder.path / "provenance.parquet"
    with pq.ParquetWriter(_temporary(provenance), PROVENANCE) as sources:
        for split in splits:
            position = positives = 0
            for start in range(0, len(concepts), ROTATE):
                rows = list(_rows(folder, concepts[start : start + ROTATE], split, first=not start))
                number = f"_{start // ROTATE}" if start else ""
                path = folder.path / f"{schema.STEMS[split]}{number}.parquet"
                columns = [
                    {name: row[name] for name in schema.FILE_SCHEMAS[split].names} for row in rows
                ]
                table = pa.Table.from_pylist(columns, schema=schema.FILE_SCHEMAS[split])
                pq.write_table(table, _temporary(path))
                finished.append((_temporary(path), path))
                origins = [_origin(row, split, position + i, authors) for i, row in enumerate(rows)]
                sources.write_table(pa.Table.from_pylist(origins, schema=PROVENANCE))
                position += len(rows)
                positives += sum(row[schema.CATEGORY] == schema.POSITIVE for row in rows)
            if not positives:
                raise DataError(
                    f"no usable response came for the {split} split; {folder.path}/report.json "
                    "says why; take another teacher, or loosen the filters (filters, judged)"
                )
    for temporary, path in [*finished, (_temporary(provenance), provenance)]:
        temporary.replace(path)


def _rows(
    folder: Parts, concepts: Sequence[Concept], split: Split, *, first: bool
) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file; shared negatives come first, in the first training file."""
    if first and split == "train":
        for genre in schema.GENRES:
            for row in (folder.part("pool", genre) or {"rows": []})["rows"]:
                yield _row(row, schema.NEGATIVE, schema.NEGATIVE_POOL, "")
    for concept in concepts:
        for stage in ROW_STAGES:
            for row in (folder.part(stage, concept.id) or {"rows": []})["rows"]:
                if row["split"] == split:
                    yield _row(row, stage.removesuffix("s"), concept.id, concept.ref)


def _row(row: dict[str, Any], category: str, concept_id: int, ref: str) -> dict[str, Any]:
    """Return a row in AxBench's columns, with what its provenance needs."""
    number = ref.rstrip("/").rpartition("/")[2]
    return {
        schema.INPUT: row["instruction"],
        schema.OUTPUT: row["response"],
        schema.OUTPUT_CONCEPT: row["output_concept"],
        schema.CONCEPT_GENRE: row["genre"],
        schema.CATEGORY: category,
        schema.DATASET_CATEGORY: "instruction",
        schema.CONCEPT_ID: concept_id,
        schema.SAE_LINK: ref,
        schema.SAE_ID: int(number) if number.isascii() and number.isdecimal() else NO_FEATURE,
        schema.COMPLETE: row["complete"],
        "sample": row["sample"],
        "instruction_source": row["source"],
    }


def _origin(row: dict[str, Any], split: Split, position: int, authors: Authors) -> dict[str, Any]:
    """Return where a row comes from."""
    shared = row[schema.CONCEPT_ID] == schema.NEGATIVE_POOL
    return {
        "split": split,
        "row": position,
        schema.CONCEPT_ID: row[schema.CONCEPT_ID],
        schema.CATEGORY: row[schema.CATEGORY],
        "teacher": authors.base_lm if shared else authors.teacher,
        # No template asks for shared negatives: the base LM sees the bare instruction.
        "template_version": None if shared else authors.template_version,
        "seed": authors.seed,
        "sample": row["sample"],
        "instruction_source": row["instruction_source"],
    }


def _temporary(path: Path) -> Path:
    return path.with_suffix(f"{path.suffix}.tmp")
