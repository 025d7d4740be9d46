"""The world that hostile input is thrown at, made once; no network, one process."""

import dataclasses

import pytest

from endpoint.server import said, serving
from fuzz import world as worlds
from hypersteer.judges.llm import MARKER


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz") / "world"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYPERSTEER_CACHE", str(folder.parent / "cache"))
        return worlds.build(folder)


@pytest.fixture(scope="session")
def server():
    with serving() as chat:
        chat.script = lambda asked: said(f"It is so.\n{MARKER} 1")
        yield chat.url


@pytest.fixture
def world(built, server, monkeypatch):
    monkeypatch.setenv("HYPERSTEER_CACHE", str(built.folder.parent / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    for command in ("generate", "chat"):  # the one that ships takes half a minute to convert
        monkeypatch.setattr(f"hypersteer.cli.{command}.BUNDLED", str(built.checkpoint))
    monkeypatch.delenv("RANK", raising=False)
    return dataclasses.replace(built, server=server)
