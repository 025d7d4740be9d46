"""Which rows are trained on, and which measure held-in and held-out steering."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hypersteer.concepts import rank_ids
from hypersteer.config import DataConfig
from hypersteer.data.sources import ConceptData
from hypersteer.errors import ConfigError

UNMARKED = 4
"""Concepts held out of data that mark none."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Split:
    """Global row numbers of positives; no row is in two of them.

    Attributes:
        train: Rows to train on.
        held_in: Rows of training concepts whose base prompts that concept is not trained on.
        held_out: Rows of concepts that are not trained on.
        train_concepts: Ids of the training concepts, ascending.
        held_out_concepts: Ids of the held-out concepts, ascending.
    """

    train: np.ndarray
    held_in: np.ndarray
    held_out: np.ndarray
    train_concepts: tuple[int, ...]
    held_out_concepts: tuple[int, ...]


def split_rows(
    data: ConceptData,
    *,
    held_out_concepts: int | Sequence[int] | Literal["marked"],
    held_in_prompts: int = 6,
    held_in_concepts: int | None = None,
    max_concepts: int | None,
    max_examples_per_concept: int | None,
    max_held_out_rows: int | None = None,
    seed: int,
) -> Split:
    """Split the positive rows by concept, and within a training concept by base prompt.

    A concept is its text, whatever ids it has in the data, so no text is both trained on and held
    out.

    All choices hash the seed with the concept's id, so what happens to one concept does not depend
    on which others there are, and larger limits give supersets. Held-out concepts are chosen before
    `max_concepts` applies, so runs on more or fewer concepts share them.

    A base prompt kept back from a training concept may still occur in training under another
    concept, or with a held-out one: AxBench draws the instructions of all concepts from one list.

    Args:
        data: Where the rows are.
        held_out_concepts: How many concepts to hold out, or exactly which ids, or `marked`: those
            that the data mark, and where they mark none, 4.
        held_in_prompts: Base prompts to keep back from each training concept.
        held_in_concepts: Keep them back from this many training concepts only, those that a split
            with so many at most has; None for all.
        max_concepts: Most training concepts; None for all.
        max_examples_per_concept: Most training rows of a concept; None for all.
        max_held_out_rows: Most rows of a held-out concept; None for all.
        seed: Another seed chooses others.

    Raises:
        ConfigError: A limit is out of range, an id is unknown, or nothing is left to train on.
    """
    limits = {
        "held_in_concepts": held_in_concepts,
        "max_concepts": max_concepts,
        "max_examples_per_concept": max_examples_per_concept,
        "max_held_out_rows": max_held_out_rows,
    }
    for name, limit in limits.items():
        if limit is not None and limit < 1:
            raise ConfigError(f"{name} is {limit}; expected 1 or more, or nothing for no limit")
    if held_in_prompts < 0:
        raise ConfigError(f"held_in_prompts is {held_in_prompts}; expected 0 or more")

    ranked = rank_ids([c.id for c in data.concepts if len(data.rows(c.id))], seed)
    held_out_ids = _held_out_ids(data, ranked, held_out_concepts)
    taken = set(held_out_ids)
    known = [id_ for id_ in ranked if id_ not in taken][:max_concepts]
    train_ids, validated = sorted(known), set(known[:held_in_concepts])
    parts = [
        _within_concept(
            data, id_, held_in_prompts if id_ in validated else 0, max_examples_per_concept, seed
        )
        for id_ in train_ids
    ]
    held_out = [_some(data.rows(id_), max_held_out_rows, seed, id_) for id_ in held_out_ids]
    return Split(
        train=_joined([train for train, _ in parts]),
        held_in=_joined([held_in for _, held_in in parts]),
        held_out=_joined(held_out),
        train_concepts=tuple(train_ids),
        held_out_concepts=tuple(held_out_ids),
    )


def split_as(data: ConceptData, config: DataConfig, seed: int) -> Split:
    """Split as a run's settings describe, in the same way for training and for evaluation.

    Raises:
        ConfigError: as `split_rows` does.
    """
    return split_rows(
        data,
        held_out_concepts=config.held_out_concepts,
        held_in_prompts=config.held_in_prompts,
        held_in_concepts=config.held_in_concepts,
        max_concepts=config.max_concepts,
        max_examples_per_concept=config.max_examples_per_concept,
        max_held_out_rows=config.max_held_out_rows,
        seed=seed,
    )


def _held_out_ids(
    data: ConceptData, ranked: list[int], wanted: int | Sequence[int] | Literal["marked"]
) -> list[int]:
    """Choose the ids to hold out, ascending; `ranked` have positive rows, in seeded order."""
    if wanted == "marked":
        wanted = [id_ for id_ in ranked if data.concept(id_).held_out] or UNMARKED
    if isinstance(wanted, (int, np.integer)):
        if not 0 <= wanted < len(ranked):
            raise ConfigError(
                f"cannot hold out {wanted} of the {len(ranked)} concepts of {data.name} that have "
                f"positive rows; hold out between 0 and {len(ranked) - 1}"
            )
        return sorted(ranked[:wanted])
    ids = sorted({data.known_as(int(id_)) for id_ in wanted})
    unknown = sorted(set(ids) - set(ranked))
    if unknown:
        raise ConfigError(
            f"cannot hold out concept {unknown[0]}: {data.name} has no positive rows of it; "
            f"its concepts have ids in {min(ranked)}..{max(ranked)}"
        )
    if len(ids) == len(ranked):
        raise ConfigError(
            f"all {len(ids)} concepts of {data.name} are held out; leave at least one to train on"
        )
    return ids


def _within_concept(
    data: ConceptData, concept_id: int, held_in_prompts: int, max_examples: int | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Split the rows of one concept; rows that share a base prompt stay together."""
    rows = data.rows(concept_id)
    held_in = np.zeros(len(rows), dtype=bool)
    if held_in_prompts:
        prompts = data.prompts(rows)
        distinct = list(dict.fromkeys(prompts))
        if held_in_prompts >= len(distinct):
            raise ConfigError(
                f"held_in_prompts is {held_in_prompts}, but concept {concept_id} of {data.name} "
                f"has only {len(distinct)} base prompts; keep back fewer, so that some are left"
            )
        order = _generator(seed, concept_id, "held-in").permutation(len(distinct))
        kept_back = {distinct[i] for i in order[:held_in_prompts]}
        held_in = np.array([prompt in kept_back for prompt in prompts])
    return _some(rows[~held_in], max_examples, seed, concept_id), rows[held_in]


def _some(rows: np.ndarray, limit: int | None, seed: int, concept_id: int) -> np.ndarray:
    """Return at most `limit` of a concept's rows, ascending; a smaller limit gives a subset."""
    if limit is None or limit >= len(rows):
        return rows
    order = _generator(seed, concept_id, "limit").permutation(len(rows))
    return np.sort(rows[order[:limit]])


def _generator(seed: int, concept_id: int, purpose: str) -> np.random.Generator:
    """Return a generator of random numbers that belong to one concept and one purpose."""
    digest = hashlib.sha256(f"{seed}:{concept_id}:{purpose}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16]))


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    """Return row numbers of several concepts, ascending."""
    return np.sort(np.concatenate(parts)) if parts else np.zeros(0, dtype=np.int64)
