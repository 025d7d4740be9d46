"""Concept data as files: AxBench's exact parquet schemas, filled by hand."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

TRAIN_SCHEMA = pa.schema(
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
EVAL_SCHEMA = TRAIN_SCHEMA.append(pa.field("sae_link", pa.string())).append(
    pa.field("sae_id", pa.int64())
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("HYPERSTEER_CACHE", str(folder))
    monkeypatch.delenv("HYPERSTEER_AXBENCH", raising=False)
    return folder


@pytest.fixture
def row():
    """Builds one row of AxBench data; every column may be overridden."""

    def build(prompt="Who?", response="Arr!", concept_id=0, category="positive", **columns):
        text = "EEEEE" if concept_id == -1 else f"concept {concept_id}"
        return {
            "input": prompt,
            "output": response,
            "output_concept": text,
            "concept_genre": "text",
            "category": category,
            "dataset_category": "instruction",
            "concept_id": concept_id,
            **columns,
        }

    return build


@pytest.fixture
def write_parquet():
    def write(path: Path, rows, schema=TRAIN_SCHEMA):
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
        return path

    return write


@pytest.fixture
def eval_schema():
    return EVAL_SCHEMA


@pytest.fixture
def axbench_shared():
    """The real Concept10 folders, outside the repository."""
    shared = os.environ.get("HYPERSTEER_SHARED_DATA")
    if not shared:
        pytest.skip("HYPERSTEER_SHARED_DATA does not name the folder that holds axbench/")
    folder = Path(shared) / "axbench"
    if not (folder / "concept10").is_dir():
        pytest.skip(f"no axbench/concept10 in HYPERSTEER_SHARED_DATA={shared}")
    return folder
