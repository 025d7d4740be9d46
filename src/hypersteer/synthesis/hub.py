"""The instruction pools that AxBench draws from, fetched from the Hugging Face Hub."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
from pyarrow import ArrowException

from hypersteer.errors import DataError, one_line
from hypersteer.files import each_line
from hypersteer.values import json_of

WAY_OUT = (
    "check the network, or use --instructions bundled with lower counts (such as "
    "--counts.train-positives 24 --counts.test-positives 12 --counts.pool-negatives 24)"
)
ENDS = " .'\""
"""Stripped from both ends of an instruction, as AxBench does it."""


class _Source(NamedTuple):
    """A data set on the Hub: which files, which rows, and which column."""

    genre: str
    repo: str
    files: str
    column: str
    wanted: Callable[[dict[str, Any]], bool]


def _open_question(row: dict[str, Any]) -> bool:
    return row["category"] == "open_qa" and not (row["context"] or "").strip()


def _no_input(row: dict[str, Any]) -> bool:
    return not (row["input"] or "").strip()


SOURCES = (
    _Source("text", "databricks/databricks-dolly-15k", "*.jsonl", "instruction", _open_question),
    _Source("math", "openai/gsm8k", "main/train-*.parquet", "question", lambda _: True),
    _Source(
        "code",
        "iamtarun/python_code_instructions_18k_alpaca",
        "data/train-*.parquet",
        "instruction",
        _no_input,
    ),
)


def hub_instructions() -> list[tuple[str, str, str]]:
    """The instructions of Dolly (open questions without context), GSM8K and a Python set.

    Returns:
        (text, genre, name of the data set), in the order of the data sets.

    Raises:
        DataError: a data set cannot be downloaded, or looks otherwise than expected.
    """
    found = []
    for source in SOURCES:
        folder = _download(source)
        try:
            rows = [row for file in sorted(folder.glob(source.files)) for row in _rows(file)]
            texts = [row[source.column].strip(ENDS) for row in rows if source.wanted(row)]
        except (OSError, ValueError, KeyError, AttributeError, ArrowException) as error:
            raise DataError(
                f"the data set {source.repo} is not as expected ({one_line(repr(error))}); use "
                "--instructions bundled, or a file of your own"
            ) from error
        if not texts:
            raise DataError(f"the data set {source.repo} holds no {source.files}; {WAY_OUT}")
        found += [(text, source.genre, source.repo) for text in texts]
    return found


def _download(source: _Source) -> Path:
    # Slow to import, and only this function needs it.
    import huggingface_hub

    try:
        folder = huggingface_hub.snapshot_download(
            source.repo, repo_type="dataset", allow_patterns=[source.files]
        )
    # The Hub's client raises its own, its HTTP library's and the system's errors alike.
    except Exception as error:
        raise DataError(
            f"cannot download the instructions {source.repo} from the Hugging Face Hub: "
            f"{one_line(error, 160)}; {WAY_OUT}"
        ) from error
    return Path(folder)


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSON-lines or parquet file."""
    if file.suffix == ".parquet":
        yield from pq.read_table(file).to_pylist()
        return
    yield from (json_of(line) for line in each_line(file) if line.strip())
