"""`hypersteer conditions fit | test | show`, and rules of `hypersteer generate`."""

import json

import pytest
import torch

import hypersteer as hs
from conditions.worlds import off_topic, on_topic
from hypersteer.cli.options import Sampling
from hypersteer.conditions.fit import measure_condition

SHORT = ["--max-new-tokens", "6"]
PENALTY = {"repetition_penalty": Sampling().repetition_penalty}
RULE = ["--rule", "if sea then x", "--rule", "if not sea then y"]


@pytest.fixture(scope="module")
def topic(tmp_path_factory):
    """A labelled file, and the condition that the library fits on its train split."""
    path = tmp_path_factory.mktemp("topic") / "sea.jsonl"
    rows = [(t, "in", "train") for t in on_topic(6)] + [(t, "out", "train") for t in off_topic(6)]
    rows += [(t, "in", "test") for t in on_topic(3, 5)] + [(off_topic(1, 6)[0], "out", "test")]
    rows.append(("Hi", "near", "test"))
    keys = ("prompt", "label", "split")
    path.write_text("".join(json.dumps(dict(zip(keys, r, strict=True))) + "\n" for r in rows))
    return path


@pytest.fixture(scope="module")
def lm(tiny_lm):
    return hs.load_lm(tiny_lm)


@pytest.fixture(scope="module")
def sea(topic, lm):
    condition = hs.fit_condition(lm, on_topic(6), off_topic(6), name="sea")
    return condition.save(topic.with_name("sea.safetensors"))


def test_fit_writes_what_the_library_fits(run, topic, tiny_lm, sea, tmp_path):
    out = tmp_path / "deep" / "sea.safetensors"
    argv = ["conditions", "fit", topic, "--split", "train", "--out", out, "--lm", tiny_lm]
    code, told, err = run(*argv)
    assert (code, err) == (0, "")
    assert out.read_bytes() == sea.read_bytes()
    assert told.startswith("sea: fires above")
    assert f"wrote {out}" in told


def test_fit_from_two_files_with_settings(run, tiny_lm, lm, tmp_path):
    for name, texts in (("in", on_topic(6)), ("off", off_topic(6))):
        (tmp_path / f"{name}.txt").write_text("\n".join(texts))
    argv = ["conditions", "fit", "--in", tmp_path / "in.txt", "--off", tmp_path / "off.txt"]
    argv += ["--out", tmp_path / "c.safetensors", "--lm", tiny_lm, "--name", "pirates"]
    argv += ["--method", "paired", "--scorer", "legacy", "--pooling", "all", "--layers", "1", "2"]
    assert run(*argv, "--max-layers", "2", "--false-positives", "0.1", "--folds", "3")[0] == 0
    config = hs.ConditionConfig(
        method="paired",
        scorer="legacy",
        pooling="all",
        layers=(1, 2),
        max_layers=2,
        false_positives=0.1,
        folds=3,
    )
    same = hs.fit_condition(lm, on_topic(6), off_topic(6), name="pirates", config=config)
    made = hs.load_condition(tmp_path / "c.safetensors")
    assert torch.equal(made.directions, same.directions)
    assert (made.name, made.threshold, made.layers) == ("pirates", same.threshold, same.layers)


def test_test_measures_on_a_split(run, topic, tiny_lm, lm, sea, json_lines):
    argv = ["conditions", "test", sea, topic, "--split", "test", "--lm", tiny_lm]
    *rows, last = json_lines(run(*argv, "--json")[1])
    found = measure_condition(lm, hs.load_condition(sea), on_topic(3, 5), off_topic(1, 6))
    assert last == {"figures": found.metrics}
    assert [row["prompt"] for row in rows] == [*on_topic(3, 5), *off_topic(1, 6)]
    assert [row["label"] for row in rows] == ["in"] * 3 + ["out"]
    assert [row["fired"] for row in rows] == [True] * 3 + [False]
    assert rows[0]["score"] == pytest.approx(found.positives[0], abs=1e-5)
    code, told, err = run(*argv)
    assert (code, err) == (0, "")
    assert told.startswith("F1 1.000, AUROC 1.000, precision 1.000, recall 1.000, false positives")
    assert told.endswith(" 0.000 (3 in, 1 off)\n")


def test_test_shows_what_is_wrong(run, tiny_lm, sea, tmp_path):
    (tmp_path / "in.txt").write_text("\n".join([*on_topic(2), *off_topic(1)]))
    (tmp_path / "off.txt").write_text("\n".join([*off_topic(2), on_topic(9)[-1]]))
    argv = ["conditions", "test", sea, "--in", tmp_path / "in.txt", "--off", tmp_path / "off.txt"]
    told = run(*argv, "--lm", tiny_lm)[1].splitlines()[1:]
    assert sorted(line.partition(", off by")[0] for line in told) == [
        "should fire",
        "should not fire",
    ]
    assert len(run(*argv, "--lm", tiny_lm, "--wrong", "1")[1].splitlines()) == 2


def test_show(run, sea):
    condition = hs.load_condition(sea)
    code, told, _ = run("conditions", "show", sea, "--layers")
    assert code == 0
    assert f"sea: fires above {condition.threshold:.4f} at layer {condition.layers[0]}" in told
    architecture, label = condition.base_lm.split("|")[1:3]
    assert f"base LM {architecture} ({label})\n" in told
    assert max(map(len, told.splitlines())) < 200
    assert [line for line in told.splitlines() if line.startswith("layer ")] == [
        f"layer {layer}: {share:.1%} of the variance"
        for layer, share in zip(condition.fitted, condition.explained, strict=True)
    ]


def test_rules_of_generate(run, checkpoint, sea, json_lines, tmp_path):
    steerer = hs.load(checkpoint)
    edit = steerer.edit("talk like a pirate", prompt="Hi.")
    path = (4 * edit).save(tmp_path / "x.safetensors")
    prompts = [*on_topic(1), *off_topic(1)]
    argv = ["generate", checkpoint, *prompts, *RULE, "--condition", f"sea={sea}", *SHORT]
    argv += ["--edit", f"x={path}", "--steer", "y=be gloomy", "--strength", "3"]
    rules = hs.rules(
        "if sea then x; if not sea then y",
        conditions={"sea": hs.load_condition(sea)},
        edits={"x": hs.load_edit(path), "y": "be gloomy"},
    )
    log = hs.Decisions()
    options = {"steer": rules, "strength": 3.0, "max_new_tokens": 6, **PENALTY}
    texts = steerer.generate(prompts, **options, decisions=log)
    found = json_lines(run(*argv, "--json")[1])
    assert [line["text"] for line in found] == texts
    assert [line["decisions"][0]["edits"] for line in found] == [["x"], ["y"]]
    assert found[0]["decisions"] == [check.as_dict() for check in log.rows[0]]
    assert found[0]["steer"] == "if sea then x; if not sea then y"
    code, told, err = run(*argv)
    assert code == 0
    assert texts[0].strip() in told
    score = log.rows[0][0].scores["sea"]
    assert err.splitlines()[0] == f"sea holds (score {score:.3f}): x"
    compared = json_lines(run(*argv, "--compare", "--json")[1])
    assert [line["text"] for line in compared] == texts
    assert [line["decisions"] for line in compared] == [line["decisions"] for line in found]
    assert run(*argv, "--compare")[2].splitlines()[0] == f"sea holds (score {score:.3f}): x"
    (check,) = json_lines(run(*argv, "--deciding", "--json")[1])[0]["decisions"]
    assert sum(share for _, share in check["tokens"]["sea"]) == pytest.approx(score, abs=1e-4)
    text, share = max(check["tokens"]["sea"], key=lambda one: abs(one[1]))
    line = run(*argv, "--deciding")[2].splitlines()[0]
    assert line.startswith(f"sea holds (score {score:.3f}): x; sea by {text!r} {share:+.3f}, ")


def test_rules_checked_at_every_token(run, checkpoint, lm, json_lines, tmp_path):
    config = hs.ConditionConfig(layers=(0,))
    low = hs.fit_condition(lm, on_topic(6), off_topic(6), config=config)
    path = low.save(tmp_path / "low.safetensors")
    argv = ["generate", checkpoint, on_topic(1)[0], "--rule", "if low then y", *SHORT]
    argv += ["--condition", f"low={path}", "--steer", "y=be gloomy"]
    (line,) = json_lines(run(*argv, "--check", "2", "--json")[1])
    assert [check["token"] for check in line["decisions"]] == [0, 2, 4]
    code, told, err = run(*argv, "--check", "token")
    assert (code, told) == (0, line["text"] + "\n")
    assert err.startswith("low ")
    assert "check 'often' is neither" in run(*argv, "--check", "often")[2]


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["conditions", "fitt"], "unknown command 'conditions fitt'; did you mean 'fit'?"),
        (["conditions", "fit", "x.jsonl"], "--out NAME.safetensors"),
        (["conditions", "fit", "--out", "x"], "or two files with --in and --off"),
        (["conditions", "fit", "--in", "x", "--out", "x"], "--in and --off"),
        (["conditions", "fit", "none.jsonl", "--out", "x"], "'none.jsonl'"),
        (["conditions", "fit", "--in", "a", "--off", "b", "--split", "c", "--out", "x"], "--split"),
        (["conditions", "fit", "x", "--out", "x", "--folds", "1"], "folds 1"),
        (["conditions", "test", "none.safetensors", "x"], "cannot read the prompts in 'x'"),
        (["conditions", "show", "none.safetensors"], "no condition at 'none.safetensors'"),
        (["conditions", "show", "a", "--layer"], "did you mean '--layers'?"),
        (["conditions", "fit", "x", "--out", "."], "--out . is no name for a file"),
        (["generate", "no/checkpoint", "Hi.", "--condition", "a=b"], "give a --rule"),
        (["generate", "no/checkpoint", "Hi.", "--check", "token"], "--check token is for rules"),
        (["generate", "no/checkpoint", "Hi.", "--deciding"], "--deciding is for rules"),
        (["generate", "no/checkpoint", "Hi.", "--rule", "if a x"], "column 6"),
        (["generate", "no/checkpoint", "Hi.", "--rule", "if a then x"], "unknown condition 'a'"),
        (
            ["generate", "no/checkpoint", "Hi.", *RULE, "--condition", "a"],
            "--condition 'a' is not NAME=FILE",
        ),
        (["generate", "no/checkpoint", "Hi.", *RULE, "--steer", "gloomy"], "is not NAME=TEXT"),
        (
            ["generate", "no/checkpoint", "Hi.", *RULE, "--steer", "a=b", "--steer", "a=c"],
            "'a' twice",
        ),
        (
            ["generate", "no/checkpoint", "Hi.", *RULE, "--edit", "a=b", "--steer", "a=c"],
            "by --steer",
        ),
    ],
)
def test_bad_input(fails, argv, told):
    assert told in fails(*argv)


def test_a_condition_of_another_model(fails, checkpoint, sea, tmp_path):
    from dataclasses import replace

    other = replace(hs.load_condition(sea), base_lm="other").save(tmp_path / "o.safetensors")
    argv = ["generate", checkpoint, "Hi.", "--rule", "if a then b", "--steer", "b=be gloomy"]
    assert "was fitted for the base LM other" in fails(*argv, "--condition", f"a={other}")


def test_help_shows_examples(run):
    for part in ("fit", "test", "show"):
        code, told, _ = run("conditions", part, "--help")
        assert code == 0
        assert f"hypersteer conditions {part} " in told
    assert run("conditions") == run("conditions", "--help")
