"""`hypersteer analyze scaling` and `ablations`: planned, run, gone on with, and refused."""

import json

import pytest

from hypersteer.cli.main import main

SWEEP = """\
out = "{folder}/report"
runs = "{folder}/runs"
concepts = {concepts}
[[settings]]
name = "cross attention"
[[settings]]
name = "no context"
group = "variant"
change.hypernet.variant = "no-context"
[reft]
epochs = 1
[train]
validate_every = 1
[train.base_lm]
name = "{lm}"
[train.hypernet]
blocks = 1
[train.data]
held_out_concepts = [3, 4]
held_in_concepts = 2
held_in_prompts = 1
max_held_out_rows = 1
max_response_tokens = 16
[train.optim]
steps = 2
batch_size = 2
"""


@pytest.fixture
def file(tmp_path, tiny_lm):
    def make(concepts="[2, 3, 4]", text=SWEEP):
        path = tmp_path / "sweep.toml"
        path.write_text(text.format(folder=tmp_path, lm=tiny_lm, concepts=concepts))
        return path

    return make


def test_a_dry_run_only_tells_the_plan(run, file, tmp_path, monkeypatch):
    def load(*_given, **_named):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("hypersteer.sweeps.run.open_lm", load)
    path = file()
    before = {one.name for one in tmp_path.iterdir()}
    code, told, err = run("analyze", "scaling", path, "--dry-run")
    assert (code, err) == (0, "")
    lines = told.splitlines()
    assert len(lines) == 7
    assert "cross attention, 2 concepts, seed 42" in lines[0]
    assert "2 steps  to do, about" in lines[0]
    assert lines[-1].startswith("6 of 6 runs left, 0 answers to judge in all: about ")
    assert "a guess" in lines[-1]
    assert {one.name for one in tmp_path.iterdir()} == before


def test_scaling_is_run_and_next_time_only_drawn(run, file, tmp_path, monkeypatch):
    path = file()
    code, told, err = run("analyze", "scaling", path)
    assert code == 0, err
    assert "run 1 of 6: cross attention, 2 concepts, seed 42; about" in err
    assert f"report: {tmp_path}/report/report.html, beside " in told
    assert "Held-out loss per doubling of training concepts" in told
    assert "Cheaper per concept than ReFT-r1" in told
    points = json.loads((tmp_path / "report/cost.json").read_text())["points"]
    assert [one["concepts"] for one in points] == [2, 3, 4] * 2

    def train(*_given):
        raise AssertionError("trained again")

    monkeypatch.setattr("hypersteer.sweeps.run.train", train)
    code, told, err = run("analyze", "scaling", path, "--out", tmp_path / "other")
    assert code == 0, err
    assert "0 of 6 runs left" in told
    assert "as 6 finished runs took" in told
    assert "run 1 of 6" not in err
    one, two = (tmp_path / name / "scaling.json" for name in ("report", "other"))
    assert one.read_text() == two.read_text()


def test_ablations_are_one_table(run, file, tmp_path):
    code, told, err = run("analyze", "ablations", file("[]"))
    assert code == 0, err
    assert "Held-out loss against 'cross attention': " in told
    table = (tmp_path / "report/ablations.md").read_text()
    assert "| no context | variant | " in table
    assert (tmp_path / "report/report.html").is_file()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("blocks = 1", "block = 1"), "unknown key 'block'; did you mean 'blocks'?"),
        (("epochs = 1", "epoch = 1"), "reft: unknown key 'epoch'; did you mean 'epochs'?"),
        (('"no-context"', '"no-contex"'), "did you mean 'no-context'?"),
        (("concepts = {concepts}", "concepts = [2, 9999]"), "concepts holds 9999"),
        (('runs = "{folder}/runs"', 'runs = "/dev/null/x"'), "/dev/null"),
        (("held_in_concepts = 2", ""), "train.data.held_in_concepts is not set"),
    ],
)
def test_bad_sweeps_are_told_before_any_model_is_loaded(fails, file, monkeypatch, change, told):
    def load(*_given, **_named):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("hypersteer.sweeps.run.open_lm", load)
    assert change[0] in SWEEP
    assert told in fails("analyze", "scaling", file(text=SWEEP.replace(*change)))


def test_bad_arguments(fails, file, tmp_path):
    assert "cannot read the settings" in fails("analyze", "scaling", tmp_path / "none.toml")
    assert "did you mean '--dry-run'?" in fails("analyze", "ablations", file(), "--dry-rum")
    assert "concepts is empty" in fails("analyze", "scaling", file("[]"), "--dry-run")


@pytest.mark.parametrize("part", ["scaling", "ablations"])
def test_help_shows_an_example(part, capsys):
    assert main(["analyze", part, "--help"]) == 0
    assert f"hypersteer analyze {part} experiments/{part}_cpu.toml --dry-run" in (
        " ".join(capsys.readouterr().out.split())
    )
