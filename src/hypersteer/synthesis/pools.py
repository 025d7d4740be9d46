"""Base prompts by genre, with disjoint halves for training and test."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from hypersteer.config.synthesis import CountsConfig
from hypersteer.errors import ConfigError, DataError, nearest, one_line
from hypersteer.files import package_data, path_of, read_text
from hypersteer.synthesis.hub import hub_instructions
from hypersteer.values import json_of, lines_of

GENRES = ("text", "code", "math")
"""AxBench's."""
MAX_CHARS = 500
"""Longer instructions are left out, as AxBench does it."""
PER_GENRE = 2000
"""Instructions of a genre that are used at most, half of them for each split."""
OFF_GENRE = 0.15
"""Share of the test negatives that is code, and that is math."""
Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")


class Instruction(NamedTuple):
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
    halves: Mapping[tuple[Split, str], Sequence[Instruction]]

    def texts(self) -> list[list[object]]:
        """What is in it, by split and genre, as plain JSON types."""
        return [[*key, [one.text for one in half]] for key, half in self.halves.items()]

    def draw(self, split: Split, genre: str, count: int, *seeds: int) -> list[Instruction]:
        """Distinct instructions in an order that the seeds fix; a larger count draws a superset."""
        half = self.halves[split, genre]
        order = np.random.default_rng([*seeds, GENRES.index(genre)]).permutation(len(half))
        return [half[i] for i in order[:count]]


def load_pool(name: str, seed: int) -> Pool:
    """Reads a pool of instructions and cuts each genre in half at random, where it is not marked.

    Args:
        name: `bundled`; `hub` for the data sets that AxBench draws from; or a `.json` (list) or
            `.jsonl` file of texts or of objects with `instruction` and maybe `genre` and `split`.
        seed: of the shuffle before the cut.

    Raises:
        ConfigError: the name is none of these.
        DataError: the pool cannot be had, or is malformed or empty.
    """
    if name == "hub":
        found = [Instruction(*one) for one in hub_instructions()]
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
    distinct: dict[str, Instruction] = {}
    for one in found:
        distinct.setdefault(" ".join(one.text.casefold().split()), one)
    kept = [one for one in distinct.values() if 0 < len(one.text) < MAX_CHARS]
    if not kept:
        raise DataError(f"the instructions '{name}' are empty; give at least some")
    halves: dict[tuple[Split, str], list[Instruction]] = {}
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
    """How many test negatives have each genre: 26, 5 and 5 of 36."""
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


def _from_file(path: Path, source: str) -> list[Instruction]:
    """The instructions of a file."""
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


def _instruction(entry: Any, where: str, source: str) -> Instruction:
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
    return Instruction(text.strip(), genre, source, split)
