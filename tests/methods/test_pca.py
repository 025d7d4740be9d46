"""PCA against a singular value decomposition of all states, and its sign."""

import numpy as np
import pytest
import torch

import tiny
from hypersteer.errors import ConfigError, DataError
from hypersteer.methods.pca import Pca
from methods.cases import concepts_of, states_alone


def all_states(lm, site, rows):
    return torch.cat([states_alone(lm, site, row) for row in rows]).double()


@pytest.mark.parametrize("limits", [{}, {"batch_tokens": 30, "cache_bytes": 0}])
def test_first_component_of_the_positives_towards_them(lm, limits):
    site, concepts = tiny.site_of(lm), concepts_of(5, 3)
    found = Pca(**limits).fit(lm, site, concepts).tensors["directions"]
    published = Pca(sign="published", **limits).fit(lm, site, concepts).tensors["directions"]
    for number, entry in enumerate(concepts):
        states = all_states(lm, site, entry.positives)
        expected = np.linalg.svd((states - states.mean(0)).numpy())[2][0]
        difference = states.mean(0) - all_states(lm, site, entry.negatives).mean(0)
        sign = np.sign(expected @ difference.numpy())
        np.testing.assert_allclose(found[number], sign * expected, atol=1e-3)
        sign = np.sign(expected[np.abs(expected).argmax()])
        np.testing.assert_allclose(published[number], sign * expected, atol=1e-3)


def test_without_negatives_it_points_away_from_0(tiny_llama):
    site, (entry,) = tiny.site_of(tiny_llama), concepts_of(4, negatives=0)
    (found,) = Pca().fit(tiny_llama, site, [entry]).tensors["directions"]
    assert all_states(tiny_llama, site, entry.positives).mean(0) @ found.double() > 0


def test_each_concept_is_learnt_by_itself(tiny_llama):
    site, concepts = tiny.site_of(tiny_llama), concepts_of(4, 3)
    steps = []
    together = Pca().fit(tiny_llama, site, concepts, done=steps.append)
    alone = Pca().fit(tiny_llama, site, concepts[1:])
    for name in ("directions", "activations"):
        torch.testing.assert_close(together.tensors[name][1:], alone.tensors[name])
    assert sum(steps) == pytest.approx(1)
    assert together.cost.parameters == tiny.WIDTH + 1
    empty = Pca().fit(tiny_llama, site, [])
    assert empty.tensors["directions"].shape == (0, tiny.WIDTH)


def test_what_cannot_be_learnt_is_told(tiny_llama):
    site, (entry,) = tiny.site_of(tiny_llama), concepts_of(2)
    with pytest.raises(DataError, match=r"PCA cannot learn concept 7.*positive rows"):
        Pca().fit(tiny_llama, site, [entry._replace(positives=[])])
    with pytest.raises(ConfigError, match="batch_tokens 0"):
        Pca(batch_tokens=0)
