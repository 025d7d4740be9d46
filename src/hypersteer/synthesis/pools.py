"""Base prompts by genre, with disjoint halves for training and test."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from pyarrow import ArrowException

from hypersteer.config.synthesis import CountsConfig
from hypersteer.data.schema import GENRES
from hypersteer.errors import ConfigError, DataError, nearest, one_line
from hypersteer.files import each_line, package_data, path_of, read_text
from hypersteer.values import json_of, lines_of

MAX_CHARS = 500
"""Longer instructions are left out, as AxBench does it."""
PER_GENRE = 2000
"""Instructions of a genre that are used at most, half of them for each split."""
OFF_GENRE = 0.15
"""Share of the test negatives that is code, and that is math."""
Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")


class PooledInstruction(NamedTuple):
    """A base prompt, the pool that it comes from, and the split where the pool fixes it."""

    text: str
    genre: str
    source: str
    split: Split | None = None


@dataclass(frozen=True, slots=True)
class Pool:
    """Instructions by split and genre; none is in both splits.

    Attributes:
        name: what the pool was asked for as.
        halves: the instructions, by (split, genre).
    """

    name: str
    halves: Mapping[tuple[Split, str], Sequence[PooledInstruction]]

    def texts(self) -> list[list[object]]:
        """Return what is in it, by split and genre, as plain JSON types."""
        return [[*key, [one.text for one in half]] for key, half in self.halves.items()]

    def instructions(self) -> list[str]:
        """Return the texts of all instructions."""
        return [one.text for half in self.halves.values() for one in half]

    def draw(self, split: Split, genre: str, count: int, *seeds: int) -> list[PooledInstruction]:
        """Draw distinct instructions in a seeded order; more are a superset of fewer."""
        half = self.halves[split, genre]
        order = np.random.default_rng([*seeds, GENRES.index(genre)]).permutation(len(half))
        return [half[i] for i in order[:count]]


def load_pool(name: str, seed: int) -> Pool:
    """Read a pool of instructions and cuts each genre in half at random, where it is not marked.

    Args:
        name: `bundled`; `hub` for the data sets that AxBench draws from; or a `.json` (list) or
            `.jsonl` file of texts or of objects with `instruction` and maybe `genre` and `split`.
        seed: of the shuffle before the cut.

    Raises:
        ConfigError: the name is none of these.
        DataError: the pool cannot be had, or is malformed or empty.
    """
    if name == "hub":
        found = [PooledInstruction(*one) for one in hub_instructions()]
    elif name == "bundled":
        found = _from_file(package_data("data", "bundled", "instructions.jsonl"), "bundled")
    elif name.endswith((".json", ".jsonl")):
        path = path_of(name, "instructions")
        found = _from_file(path, path.name)
    else:
        raise ConfigError(
            f"instructions '{name}' is unknown{nearest(name, ('bundled', 'hub'))}; or give a .json "
            "or .jsonl file"
        )
    distinct: dict[str, PooledInstruction] = {}
    for one in found:
        distinct.setdefault(" ".join(one.text.casefold().split()), one)
    kept = [one for one in distinct.values() if 0 < len(one.text) < MAX_CHARS]
    if not kept:
        raise DataError(f"the instructions '{name}' are empty; give at least some")
    halves: dict[tuple[Split, str], list[PooledInstruction]] = {}
    for number, genre in enumerate(GENRES):
        mine = [one for one in kept if one.genre == genre]
        order = np.random.default_rng([seed, 11, number]).permutation(len(mine))[:PER_GENRE]
        free = [mine[i] for i in order if mine[i].split is None]
        middle = (len(free) + 1) // 2
        for split, part in zip(SPLITS, (free[:middle], free[middle:]), strict=True):
            marked = [mine[i] for i in order if mine[i].split == split]
            halves[split, genre] = [*marked, *part]
    return Pool(name, halves)


def negative_shares(count: int) -> dict[str, int]:
    """Return how many test negatives have each genre: 26, 5 and 5 of 36."""
    part = int(count * OFF_GENRE)
    return {"text": count - 2 * part, "code": part, "math": part}


def check_pool(pool: Pool, counts: CountsConfig, genres: Collection[str]) -> None:
    """Refuse a pool that is too small, before anything is asked.

    Args:
        pool: the instructions.
        counts: rows wanted.
        genres: the genres that concepts have or may turn out to have.

    Raises:
        DataError: naming the genre, what there is, and what to change.
    """
    shares = negative_shares(counts.test_negatives)
    for genre in GENRES:
        asked = genre in genres
        needs: list[tuple[Split, str, int]] = [
            ("train", "counts.pool_negatives", counts.pool_negatives),
            ("train", "counts.train_positives", asked * counts.train_positives),
            (
                "test",
                "counts.test_positives and counts.hard_negatives (together)",
                asked * (counts.test_positives + counts.hard_negatives),
            ),
            ("test", "counts.test_negatives", shares[genre]),
        ]
        for split, setting, wanted in needs:
            there = len(pool.halves[split, genre])
            if wanted > there:
                raise DataError(
                    f"the instructions '{pool.name}' have {there} of genre {genre} for the {split} "
                    f"split, but {wanted} are wanted: lower {setting}, or give a larger pool"
                )


def _from_file(path: Path, source: str) -> list[PooledInstruction]:
    """Read the instructions of a file."""
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the instructions '{path}': {one_line(error)}") from error
    try:
        if path.suffix == ".json":
            entries = json_of(text)
        else:
            entries = [json_of(line) for line in lines_of(text) if line.strip()]
    except ValueError as error:
        raise DataError(f"'{path}' is not JSON: {one_line(error)}") from error
    if not isinstance(entries, list):
        raise DataError(f"'{path}' is not a list of instructions")
    return [_instruction(entry, f"'{path}', entry {n}", source) for n, entry in enumerate(entries)]


def _instruction(entry: Any, where: str, source: str) -> PooledInstruction:
    fields = {"instruction": entry} if isinstance(entry, str) else entry
    text = fields.get("instruction") if isinstance(fields, dict) else None
    if not isinstance(text, str):
        raise DataError(f"{where} has no text 'instruction'")
    genre = fields.get("genre", "text")
    if genre not in GENRES:
        raise DataError(f"{where}: unknown genre {genre!r}{nearest(str(genre), GENRES)}")
    marked = fields.get("split")
    split = next((one for one in SPLITS if one == marked), None)
    if marked is not None and split is None:
        raise DataError(f"{where}: unknown split {marked!r}{nearest(str(marked), SPLITS)}")
    return PooledInstruction(text.strip(), genre, source, split)


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
    """Fetch the instructions of Dolly (open questions without context), GSM8K and a Python set.

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
    """Yield the rows of a JSON-lines or parquet file."""
    if file.suffix == ".parquet":
        yield from pq.read_table(file).to_pylist()
        return
    yield from (json_of(line) for line in each_line(file) if line.strip())
