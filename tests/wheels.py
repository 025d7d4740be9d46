"""A small package index: a folder of real wheels that pip finds, and a base LM that they hold."""

import hashlib
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from hypersteer.lm import catalogue
from hypersteer.lm.catalogue import KnownLM, Wheel

ALIAS = "split-lm"
TAG = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


class Index:
    """Wheels in a folder, which pip takes from there and from nowhere else.

    Each package writes a file when it is imported, and each depends on one that is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.imported = folder / "imported"

    def path(self, wheel: Wheel) -> Path:
        return self.folder / f"{wheel.name.replace('-', '_')}-{wheel.version}-py3-none-any.whl"

    def put(self, wheel: Wheel, content: bytes, member: str | None = None) -> Path:
        """Write a wheel with one member of data."""
        package, version = wheel.name.replace("-", "_"), wheel.version
        about = f"{package}-{version}.dist-info"
        meta = f"Metadata-Version: 2.1\nName: {wheel.name}\nVersion: {version}\n"
        code = f"open({str(self.imported)!r}, 'w').close()\nraise ImportError('imported')\n"
        with zipfile.ZipFile(self.path(wheel), "w", zipfile.ZIP_DEFLATED) as made:
            made.writestr(f"{package}/__init__.py", code)
            made.writestr(member or wheel.member, content)
            made.writestr(f"{package}/../../escaped", b"out")
            made.writestr(f"{about}/METADATA", f"{meta}Requires-Dist: no-such-package-anywhere\n")
            made.writestr(f"{about}/WHEEL", TAG)
            made.writestr(f"{about}/RECORD", "")
        return self.path(wheel)

    def model(
        self, parts: Sequence[bytes], *, alias: str = ALIAS, file: str = "split.gguf"
    ) -> KnownLM:
        """Put the parts of a file into wheels, and return the base LM whose file it is."""
        wheels = tuple(
            Wheel(
                f"{alias}-part{n}", "1.2", f"{alias.replace('-', '_')}_part{n}/data/{n}", len(part)
            )
            for n, part in enumerate(parts)
        )
        for wheel, part in zip(wheels, parts, strict=True):
            self.put(wheel, part)
        return KnownLM(
            alias=alias,
            hub=f"nobody/{alias}",
            parameters=1,
            licence="Apache-2.0",
            purpose="tests",
            file=file,
            sha256=hashlib.sha256(b"".join(parts)).hexdigest(),
            wheels=wheels,
        )


def settings(index: Index, cache: Path) -> dict[str, str]:
    """What pip and the package read from the environment."""
    return {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(index.folder),
        "PIP_CONFIG_FILE": os.devnull,
        "HYPERSTEER_CACHE": str(cache),
    }


@pytest.fixture
def index(tmp_path, monkeypatch):
    """An index for pip, a cache of its own, and no hub."""
    folder = tmp_path / "index"
    folder.mkdir()
    made = Index(folder)
    for name, value in settings(made, tmp_path / "cache").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return made


@pytest.fixture
def known(monkeypatch):
    """Gives base LMs short names, beside those that have one."""

    def call(*models):
        monkeypatch.setattr(catalogue, "MODELS", (*catalogue.MODELS, *models))

    return call


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but the locks, with what is in it."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }
