"""A scripted teacher behind a real server, a tiny base LM, and a cache folder for every test."""

import io

import pytest
import torch
from rich.console import Console

from endpoint.server import serving
from hypersteer.lm.load import load_lm
from synthesis.teachers import make_lm, teach, write_list

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("HYPERSTEER_CACHE", str(folder))
    for name in ("OPENAI_API_KEY", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def server():
    with serving() as chat:
        chat.script = teach
        yield chat


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return make_lm(tmp_path_factory.mktemp("lm") / "model")


@pytest.fixture(scope="session")
def lm(model):
    return load_lm(model, device="cpu")


@pytest.fixture
def listed(tmp_path):
    return str(write_list(tmp_path / "concepts.jsonl"))


@pytest.fixture
def silent():
    return Console(file=io.StringIO())
