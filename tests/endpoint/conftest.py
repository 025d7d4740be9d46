"""A server, an endpoint that asks it, and a cache folder of its own for every test."""

import pytest

from endpoint.server import serving
from hypersteer.endpoint.endpoint import Endpoint
from hypersteer.endpoint.settings import EndpointConfig


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
        yield chat


@pytest.fixture
def endpoint(server):
    """Builds an endpoint for the server, with pauses too short to notice."""

    def build(**settings):
        settings = {"base_url": server.url, "model": "tiny", "backoff_s": 0.001, **settings}
        return Endpoint(EndpointConfig(**settings))

    return build
