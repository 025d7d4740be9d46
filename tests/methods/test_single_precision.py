"""Methods learn, steer and detect where the states' device has no float64."""

import pytest
import torch

import tiny
from hypersteer.learning.corpus import States
from hypersteer.learning.values import Asked
from hypersteer.methods import iti
from hypersteer.methods.caa import Caa, summary
from hypersteer.methods.diffmean import DiffMean
from hypersteer.methods.iti import Iti
from hypersteer.methods.lat import Lat
from hypersteer.methods.mass_mean import MassMean
from hypersteer.methods.pca import Pca
from hypersteer.methods.probe import LinearProbe
from hypersteer.methods.random import Random
from hypersteer.methods.reft_r1 import ReftR1
from methods.cases import concepts_of
from single_precision import Single, single

METHODS = [DiffMean(), Pca(), Lat(), MassMean(), Caa(), LinearProbe(), Random(), ReftR1(epochs=1)]


def test_the_stand_in_refuses_what_the_device_does():
    states, double = single(torch.ones(2, 3)), torch.ones(3, dtype=torch.float64)
    assert isinstance(states @ torch.ones(3, 1), Single)
    assert states.cpu().double().dtype == torch.float64
    for refused in (torch.Tensor.double, lambda x: x.to(torch.float64), lambda x: x + double):
        with pytest.raises(RuntimeError, match="no float64"):
            refused(states)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_methods_learn_and_detect(tiny_llama, monkeypatch, method):
    lm, site, concepts = tiny_llama, tiny.site_of(tiny_llama), concepts_of(4, 4)
    wanted = method.fit(lm, site, concepts)
    read, seen = States.read, []

    def there(self, numbers):
        seen.append(1)
        return single(read(self, numbers))

    monkeypatch.setattr(States, "read", there)
    learned = method.fit(lm, site, concepts)
    assert seen
    for name, tensor in wanted.tensors.items():
        assert type(learned.tensors[name]) is torch.Tensor
        torch.testing.assert_close(learned.tensors[name], tensor)
    asked = [entry.concept for entry in concepts]
    scores = method.detect(lm, site, learned, asked, concepts[0].positives)
    assert bool(torch.isfinite(scores).all())
    method.steer(lm, site, learned, [Asked(asked[0], "Hi")])


def test_attention_heads_are_learnt(tiny_llama, monkeypatch):
    wanted = Iti().fit(tiny_llama, tiny.site_of(tiny_llama), concepts_of(6))
    monkeypatch.setattr(iti, "summary", lambda states, *rest: summary(single(states), *rest))
    learned = Iti().fit(tiny_llama, tiny.site_of(tiny_llama), concepts_of(6))
    assert torch.equal(learned.tensors["shifts"], wanted.tensors["shifts"])
