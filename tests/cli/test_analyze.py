"""`hypersteer analyze`: the whole command on a tiny checkpoint, and what it refuses."""

import json
import sys

import pytest

from hypersteer.config.analysis import PARTS

SMALL = ("--concepts", "3", "--prompts", "3", "--answers", "3", "--max-new-tokens", "5")
SMALL += ("--strengths", "1", "3", "--steer", "talk like a pirate", "sing $5 <b>of</b> bees")


@pytest.fixture(scope="module")
def analysed(tmp_path_factory, checkpoint):
    """The folder and the output of all parts."""
    from hypersteer.cli.main import main

    out = tmp_path_factory.mktemp("analysis") / "made"
    assert main(["analyze", "all", checkpoint, *SMALL, "--out", str(out)]) == 0
    return out


def test_all_parts_are_written(analysed):
    names = {path.name for path in analysed.iterdir()}
    figures = ["geometry_maps", "geometry_cosines", "geometry_controls", "attention_shares"]
    figures += ["attention_cross", "attention_self", "perplexity_sources", "lens_words"]
    figures += ["effect_strengths", "effect_tokens"]
    assert {f"{name}.{form}" for name in figures for form in ("svg", "png")} <= names
    assert {f"{part}.json" for part in PARTS} <= names
    tables = ("geometry_edits", "attention_maps", "perplexity_answers", "effect_tokens")
    assert {f"{table}.parquet" for table in tables} <= names
    assert not any(name.endswith(".tmp") for name in names)
    page = (analysed / "report.html").read_text()
    for part in PARTS:
        for finding in json.loads((analysed / f"{part}.json").read_text())["findings"]:
            assert f"<code>{finding}.svg</code>" in page
    assert "<b>of" not in page
    sources = json.loads((analysed / "perplexity.json").read_text())["sources"]
    assert {"bundled", "bundled:wide", "bundled:more", "bundled:plain"} <= set(sources)


def test_one_part_is_written_alone_and_told(run, checkpoint, tmp_path):
    out = tmp_path / "one"
    code, told, err = run("analyze", "lens", checkpoint, *SMALL, "--out", out)
    assert (code, err) == (0, "")
    assert told.startswith("lens: What sets the edit of 'talk like a pirate' apart raises ")
    assert f"report: {out}/report.html, beside 3 files" in told
    assert {path.name for path in out.iterdir()} == {
        "lens.json", "lens_words.svg", "lens_words.png", "report.html",
    }  # fmt: skip


def test_two_checkpoints_stand_side_by_side(run, checkpoint, tmp_path):
    args = ("--against", checkpoint, *SMALL, "--out", tmp_path / "two")
    code, _, err = run("analyze", "geometry", checkpoint, *args)
    assert (code, err) == (0, "")
    first, second = json.loads((tmp_path / "two/geometry.json").read_text())["checkpoints"]
    assert first["within"] == second["within"]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("geometri", "bundled"), "unknown part 'geometri'; did you mean 'geometry'?"),
        (("lens", "bundled", "x"), "unexpected argument 'x'"),
        (("lens", "no/such/folder/at/all"), "no/such/folder/at/all"),
        (("lens", "bundled", "--steer", " "), "is empty"),
        (("lens", "bundled", "--against", "bundled"), "is for geometry"),
        (("--concepts", "1"), "concepts 1 is below 2"),
        (("--prompts", "0"), "prompts 0 is below 1"),
        (("--prompts", "100000"), "base prompts, and 100000 are wanted"),
        (("--strengths", "0"), "strengths holds 0"),
        (("--strengths", "1", "1"), "twice"),
        (("--strengths", "nan"), "strengths holds nan"),
        (("--seed", "-1"), "seed -1"),
        (("--data", "nowhere"), "nowhere"),
        (("--concept", "3"), "did you mean '--concepts'?"),
        (("--out", "/dev/null/x"), "/dev/null"),
    ],
)
def test_bad_input_is_told_before_any_model_is_loaded(fails, monkeypatch, args, told):
    def load(*_given, **_named):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("hypersteer.analysis.run.load", load)
    monkeypatch.setattr("hypersteer.analysis.run.load_lm", load)
    assert told in fails("analyze", *args)


def test_too_many_edits_are_refused(fails, checkpoint):
    line = fails("analyze", "geometry", checkpoint, "--concepts", "200", "--prompts", "100")
    assert "20,000 edits, more than the 4,000" in line


def test_a_missing_extra_is_told_with_how_to_install_it(fails, monkeypatch):
    # Only what imports matplotlib is imported anew: `analysis` itself goes on to hold its modules.
    for name in [one for one in sys.modules if one.startswith("hypersteer.analysis.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    line = fails("analyze")
    assert "the analysis needs matplotlib" in line
    assert "pip install 'hypersteer[analysis]'" in line


def test_composition_is_written_and_told(run, checkpoint, tmp_path):
    args = ("--concepts", "2", "--max-new-tokens", "4", "--out", tmp_path / "both")
    code, told, err = run("analyze", "composition", checkpoint, *args)
    assert (code, err) == (0, "")
    assert told.splitlines()[-1].startswith(f"report: {tmp_path}/both/report.html, beside ")
    assert (tmp_path / "both/composition_strengths.svg").is_file()


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("no/such/folder/at/all",), "no/such/folder/at/all"),
        (("bundled", "bundled"), "named twice"),
        (("--concepts", "1"), "concepts 1 is below 2"),
        (("--concepts", "9999"), "9999 are wanted"),
        (("--data", "nowhere"), "nowhere"),
    ],
)
def test_bad_composition_is_told_before_any_model_is_loaded(fails, monkeypatch, args, told):
    def load(*_given, **_named):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("hypersteer.analysis.run.load", load)
    assert told in fails("analyze", "composition", *args)
