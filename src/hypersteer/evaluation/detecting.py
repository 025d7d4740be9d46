"""Concept detection of the methods that can detect, on the data's own evaluation split."""

from collections.abc import Callable, Mapping

from hypersteer.baselines.method import Detector
from hypersteer.config import EvaluateConfig
from hypersteer.data.sources import ConceptData, load_concepts
from hypersteer.evaluation.answers import Prepared
from hypersteer.evaluation.detection import Detection, TextScores, detect
from hypersteer.evaluation.folder import ResultsFolder
from hypersteer.evaluation.plan import Plan
from hypersteer.evaluation.summary import Place

KINDS = ("positive", "negative", "hard negative")


def detection_figures(
    config: EvaluateConfig,
    folder: ResultsFolder,
    plan: Plan,
    prepared: Mapping[str, Prepared],
    done: Callable[[int], object],
) -> dict[Place, Detection]:
    """Figures of every detector on the held-in concepts that have negatives.

    Args:
        config: the evaluation's settings.
        folder: keeps scores, so that they are not computed again.
        plan: the concepts.
        prepared: all methods, of which some detect.
        done: told after every method.

    Raises:
        DataError: if the data have no `test` split.
    """
    data = load_concepts(config.data.source, split="test")
    concepts = [c for c in plan.concepts("held_in") if len(data.rows(c.id, "negative"))]
    texts = {c.id: {kind: data.rows(c.id, kind).tolist() for kind in KINDS} for c in concepts}
    figures: dict[Place, Detection] = {}
    for name, method in prepared.items():
        if isinstance(method.method, Detector) and concepts:
            scores = folder.figures("detection", name) or _scores(method, data, plan, texts)
            folder.keep_figures("detection", name, scores)
            figures[name, "held_in"] = detect(
                [_of_concept(scores, texts, c.id) for c in concepts], seed=config.seed
            )
        done(1)
    return figures


def _scores(
    prepared: Prepared, data: ConceptData, plan: Plan, texts: Mapping[int, Mapping[str, list[int]]]
) -> dict[str, dict[str, float]]:
    """Score of every row by every concept's detector: concept id -> row -> score."""
    assert isinstance(prepared.method, Detector)
    rows = sorted({row for kinds in texts.values() for found in kinds.values() for row in found})
    concepts = [plan.data.concept(id_) for id_ in texts]
    scores = prepared.method.detect(
        prepared.lm, prepared.site, prepared.learned, concepts, data.examples(rows)
    )
    return {
        str(concept.id): {str(row): float(s) for row, s in zip(rows, of_concept, strict=True)}
        for concept, of_concept in zip(concepts, scores, strict=True)
    }


def _of_concept(
    scores: Mapping[str, Mapping[str, float]],
    texts: Mapping[int, Mapping[str, list[int]]],
    concept_id: int,
) -> TextScores:
    own = scores[str(concept_id)]
    positives, negatives, hard = ([own[str(row)] for row in texts[concept_id][k]] for k in KINDS)
    others = [
        own[str(row)]
        for other, kinds in texts.items()
        if other != concept_id
        for row in kinds["negative"]
    ]
    return TextScores(
        concept_id=concept_id,
        positives=positives,
        negatives=negatives,
        hard_negatives=hard,
        others=others,
    )
