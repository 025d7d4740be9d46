"""`hypersteer conditions teach | write`, and `conditions test` with words."""

import json

import pytest
import torch

import hypersteer as hs
from conditions.worlds import off_topic, on_topic
from hypersteer.conditions.described import read_described
from hypersteer.conditions.head_measures import measure_head
from hypersteer.conditions.lessons import read_lessons
from hypersteer.conditions.teach import teach_head
from hypersteer.config.conditions import HeadConfig
from hypersteer.files import CONDITION_HEAD

SETTINGS = ["--words-layers", "1", "--layers", "0", "2", "--hidden", "16", "--steps", "30"]
CONFIG = HeadConfig(words_layers=(1,), layers=(0, 2), hidden=16, steps=30)


@pytest.fixture(scope="module")
def lm(tiny_lm):
    return hs.load_lm(tiny_lm)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three conditions, one of them held out."""
    path = tmp_path_factory.mktemp("words") / "mine.jsonl"
    sea, sums = on_topic(8), off_topic(8)
    rows = [
        {"condition": "is about the sea", "kind": "topic", "in": sea[:4], "off": sums[:4]},
        {"condition": "wants a sum", "kind": "intent", "in": sums[4:], "off": sea[4:]},
        {"condition": "speaks of ships", "kind": "topic", "held_out": True, "in": on_topic(4, 9),
         "near": ["Hi"], "off": off_topic(3, 9)},
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def head(data, lm):
    made = teach_head(
        read_lessons(lm, read_described(data), CONFIG), CONFIG, base_lm=str(lm.identity)
    )
    return made.save(data.with_name("head.safetensors"))


def test_teach_writes_what_the_library_teaches(run, data, head, tiny_lm, lm, tmp_path):
    out = tmp_path / "head.safetensors"
    code, told, err = run("conditions", "teach", data, "--out", out, "--lm", tiny_lm, *SETTINGS)
    assert code == 0
    assert err.splitlines()[-1] == "training: 100 %"
    assert out.read_bytes() == head.read_bytes()
    assert f"wrote {out}, taught by 2 conditions" in told
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).touch()
    code, told, _ = run("conditions", "teach", data, "--out", folder, "--lm", tiny_lm, *SETTINGS)
    assert f"wrote {folder / CONDITION_HEAD}, taught by 2 conditions" in told
    assert (folder / CONDITION_HEAD).read_bytes() == head.read_bytes()
    lessons = read_lessons(lm, read_described(data), CONFIG)
    from hypersteer.conditions.head import load_head

    (measured,) = measure_head(load_head(head), lessons[2:])
    line = next(line for line in told.splitlines() if line.startswith("all"))
    figures = (measured.auroc, measured.f1, measured.near, measured.off)
    assert line.split() == ["all", "1", *(f"{figure:.3f}" for figure in figures)]


def test_write_and_test_with_words(run, head, tiny_lm, lm, tmp_path):
    out = tmp_path / "sea.safetensors"
    words = "is about the sea"
    code, told, err = run(
        "conditions", "write", words, "--head", head, "--out", out, "--lm", tiny_lm
    )
    assert (code, err) == (0, "")
    made, same = hs.load_condition(out), hs.condition(words, lm=lm, head=head)
    assert torch.equal(made.directions, same.directions)
    assert told.startswith(f"{words}: fires above")
    assert "at the mean of layers 0, 2" in told


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["teach"], "say where to write the head: --out NAME.safetensors"),
        (["teach", "none.jsonl", "--out", "x"], "cannot read the conditions in 'none.jsonl'"),
        (["write", "asks for tea"], "say where to write the condition: --out NAME.safetensors"),
        (["write", " ", "--out", "x.safetensors"], "the condition ' ' is empty"),
        (["teach", "--out", "x", "--dropout", "1"], "dropout 1.0 is not a share"),
    ],
)
def test_bad_input_is_told_before_a_model_is_loaded(run, monkeypatch, tmp_path, argv, told):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hypersteer.lm.load.load_lm", None)
    code, _, err = run("conditions", *argv)
    assert code == 2
    assert told in err
    assert err.count("\n") == 1
