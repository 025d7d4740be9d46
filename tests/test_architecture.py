"""The rules that keep the package readable, as tests."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hypersteer

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "src").rglob("*.py"))


def run(*command):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_a_file_is_a_room_that_one_person_holds_in_the_head(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 300
    assert len(path.relative_to(ROOT / "src").parts) <= 3, "nothing deeper than package/module.py"
    assert "utils" not in path.stem


def test_the_readers_path_is_there_and_short():
    """What the README says of it: ten files, so many lines in all."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").split("## Reading the code")[1]
    path, _, _ = text.partition("[docs/")
    names = re.findall(r"`(\w+(?:/\w+)?)`", path)
    told = int(re.search(r"about ([\d,]+) lines", path)[1].replace(",", ""))
    lines = sum(
        len((ROOT / "src/hypersteer" / f"{name}.py").read_text().splitlines()) for name in names
    )
    assert len(names) == 10
    assert abs(lines - told) < 100


def test_imports_go_one_way():
    tool = Path(sys.executable).with_name("lint-imports")
    done = run(str(tool), "--no-cache")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "11 kept, 0 broken" in done.stdout


@pytest.mark.parametrize("module", ["hypersteer", "hypersteer.cli.main"])
def test_no_torch_is_loaded_before_it_is_wanted(module):
    heavy = (
        "torch",
        "transformers",
        "numpy",
        "pyarrow",
        "accelerate",
        "peft",
        "matplotlib",
        "sklearn",
    )
    code = f"import {module}, sys; print([name for name in {heavy} if name in sys.modules])"
    done = run(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_help_loads_no_torch():
    code = (
        "import sys\nfrom hypersteer.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as ended:\n    assert not ended.code\n"
        "assert 'torch' not in sys.modules"
    )
    done = run(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    assert "hypersteer" in done.stdout


def test_every_public_name_is_there():
    assert sorted(hypersteer.__all__) == sorted(hypersteer._HOMES)
    for name in hypersteer.__all__:
        assert getattr(hypersteer, name).__name__ == name
    with pytest.raises(AttributeError, match="nonsense"):
        _ = hypersteer.nonsense
    assert "load_lm" in dir(hypersteer)
