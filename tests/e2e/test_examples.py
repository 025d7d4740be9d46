"""The scripts in examples/ run, at a reduced size; what they show is what they say."""

import importlib.util
from pathlib import Path

import pytest

from e2e.real import REAL

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
pytestmark = REAL


@pytest.fixture
def script(request, tmp_path, monkeypatch):
    """The script that a test is named after, with a working folder of its own."""
    monkeypatch.chdir(tmp_path)
    name = request.node.name.removeprefix("test_")
    path = ROOT / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_steer_in_five_lines(script, capsys):
    answers = script.main(max_new_tokens=8)
    assert len(set(answers)) == 3
    printed = capsys.readouterr().out
    assert all(answer in printed for answer in answers)


@pytest.mark.exhaustive
def test_train_on_ten_concepts(script, capsys):
    steerer = script.main(tried=1, steps=1, max_new_tokens=4)
    assert len(steerer.card.held_out) == 2
    assert set(script.CONCEPTS) <= {*steerer.card.concepts, *steerer.card.held_out}
    assert "answers kept of" in capsys.readouterr().out


def test_deflect_one_topic(script):
    log = script.main(prompts=16, max_new_tokens=4)
    assert len(log.rows) == len(script.PROMPTS)
    assert [bool(checks[0].edits) for checks in log.rows][2:] == [False, False]
    assert any(checks[0].edits for checks in log.rows[:2])


@pytest.mark.exhaustive
def test_compare_three_methods(script):
    report = script.main(concepts=1, max_new_tokens=6)
    text = report.read_text(encoding="utf-8")
    for method in ("unsteered", "prompting", "diffmean", "bundled"):
        assert method in text
    assert (report.parent / "report.html").is_file()


def test_serve_and_steer(script):
    pirate, space, plain = script.main(max_tokens=8)
    assert len({pirate, space, plain}) == 3


def test_every_script_has_a_test():
    assert {path.stem for path in SCRIPTS} == {
        name.removeprefix("test_") for name in globals() if name.startswith("test_")
    } - {"every_script_has_a_test"}
