"""`hypersteer train`: settings from file and options, results, resuming, bad settings."""

import json
from pathlib import Path

import pytest

from hypersteer.hypernet.card import read_card


def test_says_where_the_checkpoint_is_and_what_is_next(run, tmp_path, tiny_lm, settings):
    out = tmp_path / "my run"
    argv = ["train", settings, "--out", out, "--base-lm.name", tiny_lm, "--optim.steps", "2"]
    code, text, err = run(*argv)
    assert code == 0
    assert f"checkpoint: {out} (the best, step 2 of 2)" in text
    assert f"hypersteer generate '{out}'" in text
    assert "training on" in err
    card = read_card(out)
    assert card.training["optim"]["steps"] == 2
    assert card.hypernet.blocks == 1
    weights = (out / "model.safetensors").read_bytes()

    assert run(*argv)[0] == 0  # finished: nothing is left to do
    assert (out / "model.safetensors").read_bytes() == weights
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 2]


def test_a_finished_run_goes_on_with_extend(run, fails, tmp_path, tiny_lm, settings):
    out = tmp_path / "run"
    argv = ["train", settings, "--out", out, "--base-lm.name", tiny_lm, "--optim.steps"]
    assert run(*argv, "2")[0] == 0
    told = fails(*argv, "4")
    assert "(optim.steps 2, now 4); add --extend" in told
    code, text, err = run(*argv, "4", "--extend")
    assert code == 0
    assert "step 4 of 4" in text or "step 2 of 4" in text
    assert "resuming from step 2" in err
    assert "give an optim.steps above that, not 3" in fails(*argv, "3", "--extend")


def test_all_but_the_first_process_keep_quiet(run, tmp_path, tiny_lm, settings, monkeypatch):
    import hypersteer.training.loop

    result = hypersteer.training.loop.TrainResult(tmp_path, 1, 1, {})
    monkeypatch.setattr(hypersteer.training.loop, "train", lambda config, *, extend: result)
    monkeypatch.setenv("RANK", "1")
    assert run("train", settings) == (0, "", "")


def test_help_shows_the_settings_of_the_file(run, settings):
    assert "(default: 3)" in run("train", settings, "--help")[1]


def test_settings_file_is_checked(fails, tmp_path, settings):
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("[optim]\nstpes = 3\n")
    assert "unknown key 'stpes'; did you mean 'steps'?" in fails("train", wrong)
    wrong.write_text("[optim\n")
    assert "not valid TOML" in fails("train", wrong)
    assert "cannot read the settings" in fails("train", tmp_path / "none.toml")
    assert "right after 'train'" in fails("train", "--out", tmp_path, settings)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--hypernet.blocks", "0"], "hypernet.blocks 0 is below 1"),
        (["--optim.learning-rate", "nan"], "learning_rate nan"),
        (["--base-lm.name", "smollm2-135m-instrct"], "did you mean 'smollm2-135m-instruct'?"),
        (["--base-lm.name", "LM", "--data.source", "bundeld"], "'bundeld'"),
        (["--base-lm.name", "LM", "--site.layer", "9"], "layers 0..4"),
        (["--base-lm.name", "LM", "--data.held-out-concepts", "3", "999"], "concept 999"),
    ],
)
def test_bad_settings(fails, tmp_path, tiny_lm, settings, options, told):
    options = [tiny_lm if option == "LM" else option for option in options]
    assert told in fails("train", settings, "--out", tmp_path / "run", *options)
    assert not list(Path(tmp_path).rglob("*.safetensors"))


def test_folder_of_another_run(fails, settings, checkpoint):
    told = fails("train", settings, "--out", checkpoint, "--optim.steps", "7")
    assert "holds a run with other settings" in told


def test_a_dry_run_prints_a_table_and_writes_nothing(run, tmp_path, tiny_lm, settings):
    out = tmp_path / "planned"
    argv = ["train", settings, "--out", out, "--base-lm.name", tiny_lm, "--dry-run"]
    code, text, err = run(*argv, "--plan.processes", "2")
    assert (code, err) == (0, "")
    for told in ("base LM", "hypernetwork", "FLOPs of a step", "A100", "DDP", "FSDP2", "disk"):
        assert told in text
    assert not out.exists()
