"""A tiny base LM and tiny data, made once; every test has a cache folder of its own kind."""

import pytest
import torch

from training.worlds import make_world

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def lm(world):
    return world.lm


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_cache(cache, monkeypatch):
    monkeypatch.setenv("HYPERSTEER_CACHE", str(cache))
