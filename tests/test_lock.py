"""The locked versions are whole and fit what pyproject.toml asks for."""

import runpy
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

PINS = runpy.run_path(str(Path(__file__).parents[1] / "requirements" / "pins.py"))


@pytest.fixture(scope="module")
def locked():
    """Name to version, of both files; every line is one exact version from no place of its own."""
    found = {}
    for file in (PINS["LOCKED"], PINS["TORCH"]):
        first, *lines = file.read_text().splitlines()
        assert first.startswith("# Written by `make lock`")
        for line in lines:
            name, version = line.split("==")
            assert name == canonicalize_name(name)
            assert version[0].isdigit()
            assert not set(version) & set("+ @:/")
            assert name not in found
            found[name] = version
    return found


def test_every_requirement_is_locked_and_met(locked):
    for wanted in PINS["direct"]():
        assert wanted.specifier.contains(locked[canonicalize_name(wanted.name)]), wanted


def test_torch_is_apart_so_that_another_may_be_there():
    text = PINS["LOCKED"].read_text()
    assert "\ntorch==" not in text
    assert "\nnvidia" not in text
    assert "\ntorch==" in PINS["TORCH"].read_text()


def test_every_requirement_has_one_lower_bound(capsys):
    PINS["oldest"]()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(PINS["direct"]()) - 1
    assert all(line.count("==") == 1 for line in lines)
