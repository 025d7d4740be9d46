"""Concept detection of the methods that can detect, on the data's own evaluation split.

Every detector scores every text, which is as many scores as texts times concepts. Only those that
metrics need are kept: of a concept's own texts, and of as many negatives of other concepts as are
drawn for it. So memory and files grow with the concepts, not with their square.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hypersteer.concepts import Concept
from hypersteer.config import EvaluateConfig
from hypersteer.data.schema import CATEGORIES, NEGATIVE, POSITIVE
from hypersteer.data.sources import ConceptData, load_concepts
from hypersteer.errors import DataError, SteeringError, one_line
from hypersteer.evaluation.answers import Prepared
from hypersteer.evaluation.detection_metrics import Detection, TextScores, detect, draw
from hypersteer.evaluation.protocol import Plan
from hypersteer.evaluation.records import Place
from hypersteer.evaluation.store import ResultsFolder
from hypersteer.methods.protocol import Detector

KINDS = CATEGORIES
OTHERS, POOL = "others", "pool"
"""What is kept of a concept beside the scores of `KINDS`: those drawn, and from how many."""

TOGETHER = 2048
"""Texts whose scores by all detectors are held at a time."""


class RowsToScore(NamedTuple):
    """Rows of the data whose scores by one concept's detector are wanted.

    Attributes:
        own: its texts, by kind.
        others: drawn negatives of other concepts.
        pool: how many of those there are.
    """

    own: dict[str, np.ndarray]
    others: np.ndarray
    pool: int

    @property
    def rows(self) -> np.ndarray:
        """All of them, one kind after the other."""
        return np.concatenate([*self.own.values(), self.others])

    def named(self, scores: np.ndarray) -> dict[str, Any]:
        """Return scores of `rows` as they are stored."""
        ends = np.cumsum([len(rows) for rows in self.own.values()])
        parts = np.split(scores, ends)
        kept = dict(zip((*self.own, OTHERS), (part.tolist() for part in parts), strict=True))
        return {**kept, POOL: self.pool}


def measure_detection(
    config: EvaluateConfig,
    folder: ResultsFolder,
    plan: Plan,
    prepared: Mapping[str, Prepared],
    done: Callable[[int], object],
) -> dict[Place, Detection]:
    """Measure every detector on the held-in concepts that have negatives.

    Args:
        config: the evaluation's settings.
        folder: keeps scores, so that they are not computed again.
        plan: the concepts.
        prepared: all methods, of which some detect.
        done: told after every method.

    Raises:
        DataError: if the data have no `test` split, or a score is not finite.
        SteeringError: if scores that were kept are damaged.
    """
    data = load_concepts(config.data.source, split="test")
    concepts = [c for c in plan.concepts("held_in") if len(data.rows(c.id, NEGATIVE))]
    wanted = wanted_rows(data, [c.id for c in concepts], config.seed)
    metrics: dict[Place, Detection] = {}
    for name, method in prepared.items():
        if isinstance(method.method, Detector) and concepts:
            scores = folder.metrics("detection", name)
            if not scores:
                known = [plan.data.concept(concept.id) for concept in concepts]
                scores = score_rows(method, data, known, wanted)
                folder.keep_metrics("detection", name, scores)
            where = folder.metrics_file("detection", name)
            metrics[name, "held_in"] = detect(read_scores(scores, wanted, where), seed=config.seed)
        done(1)
    return metrics


def wanted_rows(data: ConceptData, concepts: Sequence[int], seed: int) -> dict[int, RowsToScore]:
    """Return rows to score by the detector of each concept; the same for all methods.

    Args:
        data: with negatives of every concept.
        concepts: ids of concepts.
        seed: of the draws.
    """
    own = {id_: {kind: data.rows(id_, kind) for kind in KINDS} for id_ in concepts}
    negatives = [own[id_][NEGATIVE] for id_ in concepts]
    rows = np.concatenate([*negatives, np.zeros(0, dtype=np.int64)])
    owners = np.repeat(np.arange(len(concepts)), [len(some) for some in negatives])
    found: dict[int, RowsToScore] = {}
    for number, (id_, kinds) in enumerate(own.items()):
        pool = rows[owners != number]
        drawn = pool[draw(len(kinds[POSITIVE]), len(pool), seed=seed)] if len(pool) else pool
        found[id_] = RowsToScore(kinds, drawn, len(pool))
    return found


def score_rows(
    prepared: Prepared,
    data: ConceptData,
    concepts: Sequence[Concept],
    wanted: Mapping[int, RowsToScore],
) -> dict[str, dict[str, Any]]:
    """Score the wanted rows by every concept's detector; each text is read once.

    Raises:
        DataError: if a score is not finite.
    """
    assert isinstance(prepared.method, Detector)
    rows_of = [wanted[concept.id].rows for concept in concepts]
    sizes = [len(rows) for rows in rows_of]
    flat, of = np.concatenate(rows_of), np.repeat(np.arange(len(concepts)), sizes)
    rows, places = np.unique(flat, return_inverse=True)
    found = np.zeros(len(flat))
    for start in range(0, len(rows), TOGETHER):
        part = rows[start : start + TOGETHER]
        scores = prepared.method.detect(
            prepared.lm, prepared.site, prepared.learned, concepts, data.examples(part)
        ).numpy()
        inside = np.flatnonzero((places >= start) & (places < start + len(part)))
        found[inside] = scores[of[inside], places[inside] - start]
    if not np.isfinite(found).all():
        number = int(of[~np.isfinite(found)][0])
        raise DataError(
            f"a score of '{prepared.name}' for concept {concepts[number].id} "
            f"('{concepts[number].text}') is not finite; what it learnt, or the base LM, is broken"
        )
    parts = np.split(found, np.cumsum(sizes)[:-1])
    return {
        str(concept.id): wanted[concept.id].named(part)
        for concept, part in zip(concepts, parts, strict=True)
    }


def read_scores(
    scores: Mapping[str, Any], wanted: Mapping[int, RowsToScore], where: Path
) -> Iterator[TextScores]:
    """Yield stored scores, concept by concept.

    Folders of earlier versions hold the score of every row, by its number.

    Args:
        scores: what `score_rows` gave, or an earlier version.
        wanted: the rows they are of.
        where: the file, for messages.

    Raises:
        SteeringError: if they are damaged.
    """
    for id_, rows in wanted.items():
        try:
            kept = scores[str(id_)]
            if POOL not in kept:
                all_scores = np.array([kept[str(row)] for row in rows.rows], dtype=float)
                kept = rows.named(all_scores)
            parts = [np.asarray(kept[kind], dtype=float) for kind in (*KINDS, OTHERS)]
            lengths = [len(rows.own[kind]) for kind in KINDS] + [len(rows.others)]
            if [part.shape for part in parts] != [(length,) for length in lengths]:
                raise ValueError(f"concept {id_} has other numbers of scores than texts")
        except (KeyError, TypeError, ValueError) as error:
            raise SteeringError(f"'{where}' is damaged ({one_line(error)}); delete it") from error
        positives, negatives, hard, others = (part.tolist() for part in parts)
        yield TextScores(
            concept_id=id_,
            positives=positives,
            negatives=negatives,
            hard_negatives=hard,
            others=others,
            pool=rows.pool,
        )
