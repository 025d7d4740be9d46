"""The published settings are the defaults, bad ones are told, and no rows are no surprise."""

import importlib

import pytest

import tiny
from hypersteer.errors import ConfigError, DataError
from hypersteer.methods.caa import Caa
from hypersteer.methods.diffmean import DiffMean
from hypersteer.methods.gradients import InputXGradient, IntegratedGradients
from hypersteer.methods.lat import Lat
from hypersteer.methods.mass_mean import MassMean
from hypersteer.methods.registry import METHODS
from methods.cases import concepts_of

# AxBench's settings for Gemma-2-2B; where it accumulates batches, the rows of a whole step.
PUBLISHED = {
    "reft-r1": {"batch_size": 6, "epochs": 3, "learning_rate": 0.01, "top_k": 8, "sparsity": 0.005},
    "ssv": {"batch_size": 6, "epochs": 3, "learning_rate": 0.01, "max_norm": 0.0, "start": 0.01},
    "loreft": {"rank": 4, "first": 5, "last": 5, "batch_size": 36, "epochs": 24, "max_norm": 1.0}
    | {"learning_rate": 9e-4},
    "lora": {"rank": 4, "alpha": 32, "dropout": 0.05, "batch_size": 36, "epochs": 24}
    | {"learning_rate": 9e-4, "max_norm": 0.0},
    "sft": {"batch_size": 72, "epochs": 8, "learning_rate": 4e-5, "max_norm": 1.0},
    "probe": {"batch_size": 12, "epochs": 24, "learning_rate": 0.005, "weight_decay": 0.001},
    "ixg": {"batch_size": 36, "epochs": 24, "learning_rate": 4e-4, "weight_decay": 2e-4},
    "ig": {"steps": 50, "dropout": 0.3},
    "bag-of-words": {"c": 100.0},
    "iti": {"share": 48 / 1024, "alpha": 15.0},
}


def kind_of(name):
    module, kind = METHODS[name].split(":")
    return getattr(importlib.import_module(module), kind)


@pytest.mark.parametrize("name", PUBLISHED)
def test_defaults_are_the_published_settings(name):
    method = kind_of(name)()
    assert {key: getattr(method, key) for key in PUBLISHED[name]} == PUBLISHED[name]


@pytest.mark.parametrize("name", [n for n in METHODS if n not in ("sae", "sae-a")])
def test_no_concepts_are_learnt_without_ado(tiny_llama, name):
    learned = kind_of(name)().fit(tiny_llama, tiny.site_of(tiny_llama), [])
    assert learned.cost.seconds >= 0


@pytest.mark.parametrize("method", [DiffMean(), MassMean(), Caa()], ids=lambda m: type(m).__name__)
def test_rows_that_nothing_tells_apart_are_refused(tiny_llama, method):
    (entry,) = concepts_of(3)
    same = entry._replace(negatives=entry.positives)
    with pytest.raises(DataError, match=r"nothing tells the rows of concept 7 .* apart"):
        method.fit(tiny_llama, tiny.site_of(tiny_llama), [same])


@pytest.mark.parametrize("kind", [Lat, InputXGradient, IntegratedGradients])
def test_limits_are_checked(kind):
    with pytest.raises(ConfigError, match="batch_tokens 0 is not above 0"):
        kind(batch_tokens=0)
