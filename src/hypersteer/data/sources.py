"""Where concept data come from, and one view of them all."""

import os
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa

from hypersteer.concepts import Concept, text_key
from hypersteer.data import schema
from hypersteer.data.locate import FORMS, locate
from hypersteer.data.schema import Example
from hypersteer.data.table import LENGTH, open_table
from hypersteer.errors import DataError, nearest, short


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """One source: its columns, and which rows count, all but a second negative pool.

    Columns are kept by name, since a table makes a column anew for every look-up.
    """

    name: str
    columns: dict[str, pa.ChunkedArray]
    concepts: list[Concept]
    kept: np.ndarray

    def ids(self) -> np.ndarray:
        """Return the kept rows' concept ids, as the source numbers them."""
        return self.columns[schema.CONCEPT_ID].to_numpy()[self.kept]


@dataclass(frozen=True, eq=False, kw_only=True)
class ConceptData:
    """Rows of one or more sources under one numbering; made by `load_concepts`.

    Rows stay on disk. In memory there are a few integers per row, sorted so that the rows of a
    concept are found without a scan.

    Attributes:
        name: The sources' names, joined by `+`.
        concepts: The concepts, each text once. With one source their ids are the source's own; with
            several they are renumbered 0..N-1 in order, since each source counts from 0. Where a
            text occurs again under another id, its rows belong to the first, and the other id is
            another name of that.
    """

    name: str
    concepts: list[Concept] = field(repr=False)
    _parts: tuple[_Part, ...] = field(repr=False)
    _offsets: list[int] = field(repr=False)
    _ids: np.ndarray = field(repr=False)
    _n_chars: np.ndarray = field(repr=False)
    _order: np.ndarray = field(repr=False)
    _sorted_keys: np.ndarray = field(repr=False)
    _by_id: dict[int, Concept] = field(repr=False)
    _joined: dict[int, int] = field(repr=False)

    def __len__(self) -> int:
        return len(self._ids)

    def example(self, row: int | np.integer) -> Example:
        """Return the example at a row."""
        part, local = self._locate(row)
        return Example(
            prompt=part.columns[schema.INPUT][local].as_py(),
            response=part.columns[schema.OUTPUT][local].as_py(),
            concept_id=int(self._ids[row]),
            category=part.columns[schema.CATEGORY][local].as_py(),
            genre=part.columns[schema.CONCEPT_GENRE][local].as_py(),
            complete=part.columns[schema.COMPLETE][local].as_py(),
        )

    def examples(self, rows: Iterable[int | np.integer]) -> list[Example]:
        """Return the examples at rows, in their order."""
        return [self.example(row) for row in rows]

    def prompts(self, rows: Iterable[int | np.integer]) -> list[str]:
        """Return only the base prompts at rows, for work that goes over all of them."""
        located = (self._locate(row) for row in rows)
        return [part.columns[schema.INPUT][local].as_py() for part, local in located]

    def rows(self, concept_id: int, category: str = schema.POSITIVE) -> np.ndarray:
        """Return row numbers of a concept, ascending; id -1 stands for the shared negative pool."""
        if category not in schema.CATEGORIES:
            raise DataError(f"unknown category {category!r}{nearest(category, schema.CATEGORIES)}")
        if concept_id != schema.NEGATIVE_POOL:
            concept_id = self.concept(concept_id).id
        key = int(_key(np.array([concept_id]), schema.CATEGORIES.index(category))[0])
        first, last = np.searchsorted(self._sorted_keys, [key, key + 1])
        return self._order[first:last].copy()

    def concept(self, id: int) -> Concept:
        """Return the concept with an id, or with one that was joined with it."""
        id = self.known_as(id)
        if id not in self._by_id:
            ids = sorted(self._by_id)
            raise DataError(
                f"{self.name} has no concept {id}; its {len(ids)} ids lie in {ids[0]}..{ids[-1]}"
            )
        return self._by_id[id]

    def known_as(self, id: int) -> int:
        """Return the id itself, or that of the concept that it was joined with."""
        return self._joined.get(id, id)

    def concept_id(self, row: int | np.integer) -> int:
        """Return the concept of a row, -1 for the negative pool, without reading its texts."""
        return int(self._ids[row])

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """Count the characters of prompt and response together, to batch rows of like length."""
        return self._n_chars[rows]

    def summary(self) -> str:
        """Say in one line what there is of each category, and how many concepts were joined."""
        codes = self._sorted_keys % len(schema.CATEGORIES)
        counts = np.bincount(codes, minlength=len(schema.CATEGORIES))
        shares = ", ".join(
            f"{n:,} {word}" for n, word in zip(counts, schema.CATEGORIES, strict=True)
        )
        concepts = f"{len(self.concepts):,} concepts"
        if self._joined:
            concepts += f" ({len(self._joined):,} more had a text that was there, and were joined)"
        return f"{self.name}: {concepts}, {len(self):,} rows ({shares})"

    def where(self, row: int | np.integer) -> str:
        """Return how a message names a row: its source, and its number there."""
        part, local = self._locate(row)
        return f"{part.name}, row {local}"

    def _locate(self, row: int | np.integer) -> tuple[_Part, int]:
        """Return the source that a row comes from, and its row number there."""
        if not 0 <= row < len(self):
            raise DataError(f"{self.name} has no row {row}; rows are 0..{len(self) - 1}")
        index = bisect_right(self._offsets, row) - 1
        part = self._parts[index]
        return part, int(part.kept[row - self._offsets[index]])


def load_concepts(source: str | Sequence[str], *, split: str = "train") -> ConceptData:
    """Open concept data, in memory that hardly grows with the number of rows.

    Several sources are joined in order: their concepts are renumbered 0..N-1, and of the shared
    negative pools only the first is kept.

    A concept is its text: concepts of one text (see `text_key`) are one, with the rows of all, and
    the id and the genre of the first; it is held out if the data mark one of them.

    Args:
        source: `bundled`; a folder in one of AxBench's layouts; `axbench:concept10/2b/l20`, which
            is the folder that HYPERSTEER_AXBENCH points to, or else the Hub's
            `pyvene/axbench-concept10`; `hub:owner/name[/sub/folder]`; or a sequence of these.
        split: `train`, or `test` for AxBench's `latent_eval_data`.

    Raises:
        DataError: A source is unknown, cannot be had, is malformed, or has no positive rows.
    """
    single = isinstance(source, (str, os.PathLike))
    several = isinstance(source, Sequence) and not single
    sources: list[Any] = list(source) if several else [source]
    for one in sources:
        if not isinstance(one, (str, os.PathLike)):
            raise DataError(f"a source of concept data is a text, not {short(source)}; {FORMS}")
    if not sources:
        raise DataError(f"no source of concept data was given; {FORMS}")
    parts: list[_Part] = []
    for one in sources:
        has_pool = any(schema.NEGATIVE_POOL in part.ids() for part in parts)
        parts.append(_load_part(str(one), split, drop_pool=has_pool))
    return _join(parts)


def _join(parts: list[_Part]) -> ConceptData:
    """Renumber the concepts of several sources and indexes all rows."""
    concepts, ids = list(parts[0].concepts), [parts[0].ids()]
    if len(parts) > 1:
        concepts, ids = _renumbered(parts)
    concepts, joined = _join_texts(concepts)
    all_ids = _replaced(np.concatenate(ids), joined)
    codes = np.concatenate(
        [_category_codes(part.columns[schema.CATEGORY])[part.kept] for part in parts]
    )
    keys = _key(all_ids, codes)
    order = np.argsort(keys, kind="stable")
    n_chars = [part.columns[LENGTH].to_numpy()[part.kept] for part in parts]
    return ConceptData(
        name="+".join(part.name for part in parts),
        concepts=concepts,
        _parts=tuple(parts),
        _offsets=[0, *accumulate(len(part.kept) for part in parts)][:-1],
        _ids=all_ids,
        _n_chars=np.concatenate(n_chars),
        _order=order,
        _sorted_keys=keys[order],
        _by_id={concept.id: concept for concept in concepts},
        _joined=joined,
    )


def _join_texts(concepts: list[Concept]) -> tuple[list[Concept], dict[int, int]]:
    """Return the concepts, each text once, and for every joined id the one that it is now."""
    firsts: dict[str, Concept] = {}
    joined: dict[int, int] = {}
    for concept in concepts:
        key = text_key(concept.text)
        first = firsts.setdefault(key, concept)
        if first is not concept:
            joined[concept.id] = first.id
            firsts[key] = replace(first, held_out=first.held_out or concept.held_out)
    return list(firsts.values()), joined


def _replaced(ids: np.ndarray, joined: dict[int, int]) -> np.ndarray:
    """Return row ids with those of joined concepts replaced."""
    if not joined:
        return ids
    old = np.array(sorted(joined))
    new = np.array([joined[id_] for id_ in sorted(joined)])
    place = np.searchsorted(old, ids).clip(max=len(old) - 1)
    return np.where(old[place] == ids, new[place], ids)


def _renumbered(parts: list[_Part]) -> tuple[list[Concept], list[np.ndarray]]:
    """Return all concepts with ids 0..N-1, and every part's row ids under them."""
    concepts: list[Concept] = []
    ids: list[np.ndarray] = []
    for part in parts:
        old = np.array([concept.id for concept in part.concepts])
        rank = np.argsort(old)
        local_ids = part.ids()
        found = rank[np.searchsorted(old, local_ids, sorter=rank).clip(max=len(old) - 1)]
        new_ids = found + len(concepts)
        ids.append(np.where(local_ids == schema.NEGATIVE_POOL, schema.NEGATIVE_POOL, new_ids))
        concepts += [replace(c, id=len(concepts) + i) for i, c in enumerate(part.concepts)]
    return concepts, ids


def _load_part(source: str, split: str, *, drop_pool: bool) -> _Part:
    """Open one source and checks that its rows and its concepts agree."""
    location = locate(source, split)
    table = open_table(location.files)
    ids = table[schema.CONCEPT_ID].to_numpy()
    positive_ids = np.unique(
        ids[_category_codes(table[schema.CATEGORY]) == schema.CATEGORIES.index(schema.POSITIVE)]
    )
    if not len(positive_ids):
        raise DataError(f"{source} ({split}) has no positive rows, so no concept to learn from")
    if location.metadata is not None:
        concepts = schema.read_metadata(location.metadata)
    else:
        concepts = schema.derive_concepts(table, source)
    known = [concept.id for concept in concepts]
    unknown = np.concatenate(
        [np.setdiff1d(ids, [*known, schema.NEGATIVE_POOL]), np.setdiff1d(positive_ids, known)]
    )
    if len(unknown):
        raise DataError(
            f"{source} ({split}) has rows with concept_id {unknown[0]}, which is not in "
            f"{location.metadata or 'its positive rows'}; add the concept or drop the rows"
        )
    kept = np.flatnonzero(ids != schema.NEGATIVE_POOL) if drop_pool else np.arange(len(ids))
    columns = dict(zip(table.column_names, table.columns, strict=True))
    return _Part(name=source, columns=columns, concepts=concepts, kept=kept)


def _category_codes(categories: pa.ChunkedArray) -> np.ndarray:
    """Return every row's category as an index into `schema.CATEGORIES`."""
    return np.concatenate([chunk.indices.to_numpy() for chunk in categories.chunks])


def _key(ids: np.ndarray, codes: np.ndarray | int) -> np.ndarray:
    """Return one number per (concept, category), so that one sort finds the rows of each."""
    return (ids + 1) * len(schema.CATEGORIES) + codes
