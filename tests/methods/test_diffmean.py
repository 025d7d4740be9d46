"""DiffMean by hand, and on states in which the right direction was planted."""

import pytest
import torch
from torch.nn import functional as F

import tiny
from hypersteer.concepts import Concept
from hypersteer.errors import ConfigError, DataError
from hypersteer.learning.values import ConceptExamples
from hypersteer.methods.diffmean import DiffMean
from hypersteer.methods.random import unit_vectors
from methods.cases import concepts_of, example, hooked, states_alone


@pytest.mark.parametrize("limits", [{}, {"batch_tokens": 30, "cache_bytes": 0}])
def test_difference_of_means_over_all_tokens(lm, limits):
    site, concepts = tiny.site_of(lm), concepts_of(4, 2)
    learned = DiffMean(**limits).fit(lm, site, concepts)
    for number, entry in enumerate(concepts):
        means = [
            torch.cat([states_alone(lm, site, row) for row in rows]).mean(0)
            for rows in (entry.positives, entry.negatives)
        ]
        expected = F.normalize(means[0] - means[1], dim=0)
        torch.testing.assert_close(
            learned.tensors["directions"][number], expected, atol=1e-4, rtol=1e-3
        )
    assert learned.tensors["ids"].tolist() == [7, 10]


def planted(lm, markers, directions, size):
    """Adds each direction to all states at the site of the rows whose text holds its marker."""
    ids = []
    seeing = lm.embeddings.register_forward_pre_hook(lambda _m, args: ids.append(args[0]))

    def plant(hidden):
        for marker, direction in zip(markers, directions, strict=True):
            rows = (ids[-1] == marker).any(1)
            hidden = hidden + size * rows[:, None, None] * direction
        return hidden

    return seeing, plant


def test_planted_directions_are_recovered(lm):
    """Two concepts, shown by two marker tokens. All else being random words of one distribution,
    the means with and without a marker differ by its planted direction and by chance only."""
    site = tiny.site_of(lm)
    marks = ["!", "?"]
    markers = [lm.chat.text(mark)[0] for mark in marks]
    directions = unit_vectors([1, 2], tiny.WIDTH, seed=3)
    words = concepts_of(24, 24, negatives=0)
    pool = [example(p.prompt, p.response) for entry in concepts_of(24) for p in entry.positives]
    concepts = [
        ConceptExamples(
            Concept(id=number, text=mark),
            [example(p.prompt, p.response + mark, number) for p in entry.positives],
            pool,
        )
        for number, (mark, entry) in enumerate(zip(marks, words, strict=True))
    ]
    size = float(states_alone(lm, site, pool[0]).norm(dim=-1).mean())
    seeing, plant = planted(lm, markers, directions, size)
    try:
        with hooked(tiny.module_at(lm, site), plant):
            found = DiffMean().fit(lm, site, concepts).tensors["directions"]
    finally:
        seeing.remove()
    plain = DiffMean().fit(lm, site, concepts).tensors["directions"]
    random = unit_vectors([0, 1], tiny.WIDTH, seed=0)
    assert (F.cosine_similarity(found, directions) > 0.9).all()
    assert (F.cosine_similarity(plain, directions).abs() < 0.5).all()
    assert (F.cosine_similarity(random, directions).abs() < 0.5).all()


def test_what_cannot_be_learnt_is_told(tiny_llama):
    site, (first, second) = tiny.site_of(tiny_llama), concepts_of(2, 2)
    with pytest.raises(DataError, match=r"DiffMean.*concept 10.*no usable positive rows"):
        DiffMean().fit(tiny_llama, site, [first, second._replace(positives=[])])
    with pytest.raises(DataError, match=r"concept 7.*no usable negative rows"):
        DiffMean().fit(tiny_llama, site, [first._replace(negatives=[]), second])
    with pytest.raises(ConfigError, match="batch_tokens 0"):
        DiffMean(batch_tokens=0)
    with pytest.raises(ConfigError, match="cache_bytes -1"):
        DiffMean(cache_bytes=-1)
