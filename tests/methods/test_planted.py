"""Methods that learn a direction from states find one that was planted."""

import pytest
import torch
from torch.nn import functional as F

import tiny
from hypersteer.methods.caa import Caa
from hypersteer.methods.lat import Lat
from hypersteer.methods.mass_mean import MassMean
from hypersteer.methods.pca import Pca
from hypersteer.stats import auroc
from methods.planted import planted_concepts, planting

METHODS = [Pca(), Lat(), MassMean(), Caa()]  # the probe's is in its own tests


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_planted_directions_are_recovered_and_detected(lm, method):
    site, world = tiny.site_of(lm), planted_concepts()
    first, second = world.concepts
    fresh = [[*entry.positives[16:], *entry.negatives[16:]] for entry in world.concepts]
    seen = [entry._replace(positives=entry.positives[:16], negatives=entry.negatives[:16])
            for entry in world.concepts]  # fmt: skip
    with planting(lm, site, world, times=3.0):
        learned = method.fit(lm, site, seen)
        areas = []
        for entry, texts in zip((first, second), fresh, strict=True):
            (scores,) = method.detect(lm, site, learned, [entry.concept], texts)
            areas.append(float(auroc(scores[:8], scores[8:])))
    found = learned.tensors["directions"]
    plain = method.fit(lm, site, seen).tensors["directions"]
    assert (F.cosine_similarity(found, world.directions) > 0.9).all()
    assert (F.cosine_similarity(plain, world.directions).abs() < 0.6).all()
    assert min(areas) > 0.9
    assert torch.isfinite(learned.tensors["activations"]).all()
