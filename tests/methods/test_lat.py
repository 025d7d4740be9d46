"""LAT: random pairs, unit differences, and what depends on the seed."""

import numpy as np
import pytest
import torch

import tiny
from hypersteer.errors import ConfigError, DataError
from hypersteer.methods import lat
from hypersteer.methods.lat import Lat, differences
from methods.cases import concepts_of


@pytest.mark.parametrize(("count", "part"), [(10, 4096), (11, 2), (2, 1)])
def test_differences_are_of_disjoint_pairs_at_unit_length(count, part, monkeypatch):
    """States told apart by their only entry, so that each difference names its pair."""
    monkeypatch.setattr(lat, "PART", part)
    states = 5.0 * torch.eye(count)
    found = torch.cat(list(differences(states, np.random.default_rng(3))))
    assert found.shape == (count // 2, count)
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(count // 2))
    assert ((found > 0).sum(1) == 1).all()
    assert ((found < 0).sum(1) == 1).all()
    assert ((found != 0).sum(0) <= 1).all()  # no state in two pairs
    other = torch.cat(list(differences(states, np.random.default_rng(4))))
    assert count == 2 or not torch.equal(found, other)


def test_equal_states_have_no_difference():
    (found,) = differences(torch.ones(4, 3), np.random.default_rng(0))
    assert torch.equal(found, torch.zeros(2, 3))


def test_a_direction_depends_on_seed_and_concept_only(tiny_llama):
    site, concepts = tiny.site_of(tiny_llama), concepts_of(4, 3)
    together = Lat().fit(tiny_llama, site, concepts).tensors["directions"]
    alone = Lat().fit(tiny_llama, site, concepts[1:]).tensors["directions"]
    other = Lat(seed=1).fit(tiny_llama, site, concepts).tensors["directions"]
    torch.testing.assert_close(together[1:], alone)
    assert not torch.allclose(together, other, atol=1e-3)


def test_the_published_sign_makes_the_largest_entry_positive(tiny_llama):
    site, concepts = tiny.site_of(tiny_llama), concepts_of(4, 3)
    resolved = Lat().fit(tiny_llama, site, concepts).tensors["directions"]
    published = Lat(sign="published").fit(tiny_llama, site, concepts).tensors["directions"]
    assert (published.amax(1) >= -published.amin(1)).all()
    torch.testing.assert_close(published.abs(), resolved.abs())


def test_bad_settings_and_rows(tiny_llama):
    (entry,) = concepts_of(2)
    with pytest.raises(DataError, match=r"LAT cannot learn concept 7"):
        Lat().fit(tiny_llama, tiny.site_of(tiny_llama), [entry._replace(positives=[])])
    with pytest.raises(ConfigError, match="seed -1"):
        Lat(seed=-1)
