"""Which scores are kept for detection, and that the figures are those of all scores."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hypersteer.concepts import Concept
from hypersteer.errors import DataError, SteeringError
from hypersteer.evaluation import detection as detecting
from hypersteer.evaluation.detection import KINDS, read_scores, score_rows, wanted_rows
from hypersteer.evaluation.detection_metrics import TextScores, detect

SEED = 5
WHERE = Path("out/detection/fake.json")


class Rows:
    """Concept data: 2 positives, 3 negatives and 1 hard negative of each concept, in turns."""

    def __init__(self, concepts):
        self.concepts = [Concept(id=7 + n, text=f"concept {n}") for n in range(concepts)]
        self.ids = [concept.id for concept in self.concepts]

    def rows(self, id_, kind):
        first, count = {"positive": (0, 2), "negative": (2, 3), "hard negative": (5, 1)}[kind]
        start = 6 * (id_ - 7) + first
        return np.arange(start, start + count)

    def examples(self, rows):
        return list(rows)


class Fake:
    """Scores that tell every pair of concept and row apart; texts are their row numbers."""

    def __init__(self):
        self.sizes = []

    def detect(self, lm, site, learned, concepts, texts):
        self.sizes.append(len(texts))
        ids = np.array([concept.id for concept in concepts])
        return torch.from_numpy(np.sin(1.7 * ids[:, None] + 0.3 * np.outer(ids, texts)))


def prepared_of(method):
    return SimpleNamespace(name="fake", method=method, lm=None, site=None, learned=None)


def kept_of(data, method=None):
    wanted = wanted_rows(data, data.ids, SEED)
    return wanted, score_rows(prepared_of(method or Fake()), data, data.concepts, wanted)


def all_scores(data):
    """As earlier versions kept them: every row by every concept."""
    rows = range(6 * len(data.ids))
    table = Fake().detect(None, None, None, data.concepts, rows).tolist()
    return {
        str(c.id): {str(row): score for row, score in zip(rows, own, strict=True)}
        for c, own in zip(data.concepts, table, strict=True)
    }


def from_all(data):
    """Texts with all negatives of all other concepts, in the order of the concepts."""
    scores = all_scores(data)
    for id_ in data.ids:
        own = {kind: [scores[str(id_)][str(r)] for r in data.rows(id_, kind)] for kind in KINDS}
        others = [
            scores[str(id_)][str(row)]
            for other in data.ids
            if other != id_
            for row in data.rows(other, "negative")
        ]
        yield TextScores(
            concept_id=id_,
            positives=own["positive"],
            negatives=own["negative"],
            hard_negatives=own["hard negative"],
            others=others,
        )


@pytest.mark.parametrize("concepts", [1, 5, 100])
def test_figures_are_those_of_all_scores(concepts, monkeypatch):
    """With few other concepts, negatives are drawn again and again; with 100, once each."""
    monkeypatch.setattr(detecting, "TOGETHER", 50)
    data = Rows(concepts)
    wanted, kept = kept_of(data)
    kept = json.loads(json.dumps(kept))
    figures = detect(read_scores(kept, wanted, WHERE), seed=SEED)
    expected = detect(from_all(data), seed=SEED)
    assert str(figures) == str(expected)  # intervals of one concept are NaN
    assert (figures.imbalanced_f1 is None) == (concepts == 1)
    assert figures.repeated == (concepts == 5)
    earlier = detect(read_scores(all_scores(data), wanted, WHERE), seed=SEED)
    assert str(earlier) == str(expected)


def test_what_is_kept_grows_with_the_concepts_not_with_their_square(monkeypatch):
    monkeypatch.setattr(detecting, "TOGETHER", 64)
    sizes = {}
    for concepts in (100, 400):
        method = Fake()
        _, kept = kept_of(Rows(concepts), method)
        sizes[concepts] = len(json.dumps(kept))
        assert max(method.sizes) <= 64
        assert sum(method.sizes) <= 6 * concepts  # each text is read once
    assert sizes[400] < 4.2 * sizes[100]


def test_a_score_that_is_no_number_is_told():
    class Broken(Fake):
        def detect(self, *given):
            scores = super().detect(*given)
            scores[1] = torch.nan
            return scores

    with pytest.raises(DataError, match=r"score of 'fake' for concept 8 \('concept 1'\)"):
        kept_of(Rows(3), Broken())


@pytest.mark.parametrize(
    "damage",
    [
        lambda kept: kept.pop("8"),
        lambda kept: kept.update({"8": []}),
        lambda kept: kept.update({"8": None}),
        lambda kept: kept["8"].pop("others"),
        lambda kept: kept["8"]["positive"].pop(),
        lambda kept: kept["8"].update(negative=["x", "y", "z"]),
        lambda kept: kept["8"].update(negative=3.0),
        lambda kept: kept.update({"8": {"0": 1.0}}),
    ],
)
def test_damaged_scores_are_told_in_one_line(damage):
    wanted, kept = kept_of(Rows(3))
    damage(kept)
    with pytest.raises(SteeringError, match=r"fake.json' is damaged \(.*\); delete it") as told:
        detect(read_scores(kept, wanted, WHERE), seed=SEED)
    assert "\n" not in str(told.value)
