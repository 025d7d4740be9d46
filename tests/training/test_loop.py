"""Whole runs on the tiny base LM: what they learn, write, keep, and refuse."""

import json
import math
import re
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
from hypersteer import steering
from hypersteer.concepts import text_key
from hypersteer.config import OptimConfig, TrainConfig
from hypersteer.data.sources import load_concepts
from hypersteer.data.splits import split_as
from hypersteer.errors import ConfigError, DataError, SteeringError
from hypersteer.hypernet.card import read_card
from hypersteer.hypernet.heads import FIRST_STRENGTH
from hypersteer.lm.chat import collate
from hypersteer.lm.hooks import at_sites
from hypersteer.lm.likelihood import response_losses
from hypersteer.lm.scopes import scope_mask
from hypersteer.methods.hypernetwork import Hypersteer
from hypersteer.methods.registry import check_split
from hypersteer.training import validate
from hypersteer.training.devices import new_accelerator
from hypersteer.training.forward import plain_losses
from hypersteer.training.loop import _Run, train
from hypersteer.training.state import RunFolder
from hypersteer.training.step import learning_rate, peak_rate
from training.worlds import (
    CONCEPTS,
    OPTIONS,
    metrics,
    option,
    settings,
    step_lines,
    validation_lines,
)

FIGURES = {f"held_{where}_{what}" for where in ("in", "out") for what in ("loss", "gap")}
BASELINES = {
    *(f"prompted_{name}" for name in FIGURES),
    "unsteered_held_in_loss",
    "unsteered_held_out_loss",
}


def rate_at(config, step):
    return learning_rate(config.optim, config.hypernet.blocks, step)


def checkpoints(out):
    return sorted(int(folder.name.removeprefix("step-")) for folder in out.glob("checkpoints/*"))


def weights(folder):
    return load_file(folder / "model.safetensors")


# --- what a run leaves -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory, cache):
    """One plain run that several tests look at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYPERSTEER_CACHE", str(cache))
        out = tmp_path_factory.mktemp("run") / "run"
        config = settings(world, out, optim={"steps": 40}, validate_every=10, checkpoint_every=15)
        return out, config, train(config)


def test_the_loss_falls(finished):
    out, _, result = finished
    losses = [line["loss"] for line in step_lines(out)]
    assert sum(losses[-5:]) / 5 < sum(losses[:5]) / 5 - 0.3
    assert result.metrics["held_in_loss"] < result.metrics["unsteered_held_in_loss"] - 0.3


def test_metrics_file_has_one_line_a_step_and_a_validation(finished):
    out, config, _ = finished
    lines = metrics(out)
    assert [line["step"] for line in step_lines(out)] == list(range(1, 41))
    assert [line["step"] for line in validation_lines(out)] == [10, 20, 30, 40]
    assert [line["step"] for line in lines] == sorted(line["step"] for line in lines)
    for line in step_lines(out):
        assert set(line) == {"step", "loss", "gradient_norm", "learning_rate", "tokens_per_s"}
        assert all(math.isfinite(value) for value in line.values())
        assert line["gradient_norm"] > 0
        assert line["learning_rate"] == learning_rate(
            config.optim, config.hypernet.blocks, line["step"] - 1
        )
    for line in validation_lines(out):
        assert set(line) == {"step", *FIGURES}


def test_result_holds_the_figures_of_all_three(finished):
    out, _, result = finished
    assert (result.folder, result.step) == (out, 40)
    assert set(result.metrics) == FIGURES | BASELINES
    newest = {k: v for k, v in validation_lines(out)[-1].items() if k != "step"}
    assert {name: result.metrics[name] for name in newest} == newest


def test_unsteered_figure_against_plain_losses(finished, lm, world):
    """The figure is the mean over the split's rows, not over batches."""
    *_, result = finished
    lines = (world.data / "train_data.jsonl").read_text().splitlines()
    data = [json.loads(line) for line in lines]
    held_out = read_card(result.folder).held_out
    rows = [row for row in data if row["output_concept"] in held_out]
    assert len(held_out) == 2
    assert len(rows) == 16
    losses = [
        plain_losses(lm, [lm.chat.prompt(r["input"])], [lm.chat.response(r["output"], ends=True)])
        for r in rows
    ]
    mean = torch.cat(losses).double().mean().item()
    assert result.metrics["unsteered_held_out_loss"] == pytest.approx(mean, abs=1e-5)
    prompted = [
        plain_losses(
            lm,
            [lm.chat.prompt(_prompted(r["output_concept"], r["input"]))],
            [lm.chat.response(r["output"], ends=True)],
        )
        for r in rows
    ]
    mean = torch.cat(prompted).double().mean().item()
    assert result.metrics["prompted_held_out_loss"] == pytest.approx(mean, abs=1e-5)


def _prompted(concept, prompt):
    return f"Follow this steering prompt in your answer: {concept}\n\n{prompt}"


def test_the_best_checkpoint_is_promoted(finished):
    out, _, result = finished
    gaps = {line["step"]: line["held_out_gap"] for line in validation_lines(out)}
    assert result.best_step == max(gaps, key=gaps.get)
    card = read_card(out)
    assert card.step == result.best_step
    assert card.metrics["held_out_gap"] == gaps[result.best_step]
    best = weights(out / f"checkpoints/step-{result.best_step:07d}")
    for name, value in weights(out).items():
        assert torch.equal(value, best[name])


def test_the_newest_checkpoints_and_the_best_are_kept(finished):
    out, config, result = finished
    assert config.keep == 2
    # Due at 15, 30 and 40; written at improved validations as well.
    assert set(checkpoints(out)) >= {30, 40, result.best_step}
    assert len(checkpoints(out)) <= 3


def test_a_run_folder_loads_and_steers(finished, lm):
    out, config, _ = finished
    steerer = steering.load(out, lm=lm)
    assert steerer.card.training["seed"] == config.seed
    assert {*steerer.card.concepts, *steerer.card.held_out} == set(CONCEPTS)
    texts = steerer.generate(
        ["Tell 1?", "Tell 1?"], steer=["speak of owls", None], max_new_tokens=8
    )
    assert texts[1] == lm.generate("Tell 1?", max_new_tokens=8)
    assert texts[0] != texts[1]
    reloaded = steering.load(out, device="cpu")  # by the base LM's name in the card
    assert reloaded.lm.fingerprint == lm.fingerprint


def test_rerun_of_a_finished_run_does_nothing(finished, monkeypatch):
    out, config, first = finished

    def contents():
        files = [path for path in out.rglob("*") if path.is_file()]
        return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}

    before = contents()
    monkeypatch.setattr("hypersteer.training.loop._Run.step", None)  # any step would fail
    again = train(config)
    after = contents()
    assert again == first
    assert {path: body for path, (body, _) in after.items()} == {
        path: body for path, (body, _) in before.items()
    }


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 4}, "(seed 3, now 4)"),
        ({"optim": {"steps": 41}}, "(optim.steps 40, now 41); add --extend"),
        (
            {"hypernet": {"variant": "no-context"}},
            '(hypernet.variant "cross-attention", now "no-context")',
        ),
        ({"data": {"held_in_prompts": 3}}, "(data.held_in_prompts 2, now 3)"),
        ({"site": {"layer": 2}}, "(site.layer 1, now 2)"),
        (
            {"site": {"layer": 2}, "seed": 5, "optim": {"steps": 41, "clip": 2.0}},
            "(seed 3, now 5, site.layer 1, now 2, optim.steps 40, now 41, optim.clip 1.0, now 2.0)",
        ),
    ],
    ids=str,
)
def test_other_settings_in_the_same_folder_are_refused(finished, world, changes, named):
    out, *_ = finished
    plain = {"optim": {"steps": 40}, "validate_every": 10, "checkpoint_every": 15}
    other = settings(world, out, **{**plain, **changes})
    with pytest.raises(ConfigError, match="other settings") as caught:
        train(other)
    assert str(out) in str(caught.value)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    assert checkpoints(out)


def test_another_device_may_go_on_with_a_run(finished, world):
    out, *_ = finished
    plain = {"optim": {"steps": 40}, "validate_every": 10, "checkpoint_every": 15}
    name = str(world.model)
    RunFolder(settings(world, out, **plain, base_lm={"name": name, "device": "cuda:1"}))
    with pytest.raises(ConfigError, match="other settings"):
        RunFolder(settings(world, out, **plain, base_lm={"name": name, "dtype": "float16"}))


def test_a_finished_run_goes_on_elsewhere(finished, world, tmp_path):
    """A moved run folder is the same run: `out` and what only concerns the disk may change."""
    out, _, first = finished
    moved = tmp_path / "moved"
    shutil.copytree(out, moved)
    plain = {"optim": {"steps": 40}, "validate_every": 10}
    again = train(settings(world, moved, **plain, checkpoint_every=7, keep=1))
    assert (again.step, again.best_step, again.metrics) == (40, first.best_step, first.metrics)


# --- schedule -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("blocks", "rate"), [(20, 8e-5), (5, 1.6e-4), (4, 1.788854e-4), (2, 2.529822e-4)]
)
def test_peak_rate_follows_depth(blocks, rate):
    config = TrainConfig(hypernet=TrainConfig().hypernet.__class__(blocks=blocks))
    assert peak_rate(config.optim, config.hypernet.blocks) == pytest.approx(rate, rel=1e-6)


def test_a_given_rate_wins():
    assert peak_rate(OptimConfig(learning_rate=0.5), 4) == 0.5


@pytest.mark.parametrize(
    ("warmup", "expected"),
    [
        (0, [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]),
        (2, [1 / 3, 2 / 3, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]),
        (9, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]),
    ],
)
def test_learning_rate_by_hand(warmup, expected):
    optim = OptimConfig(steps=10, learning_rate=1.0, warmup_steps=warmup)
    config = TrainConfig(optim=optim)
    assert [rate_at(config, step) for step in range(10)] == pytest.approx(expected)


def test_the_optimizer_takes_the_scheduled_rate(world, tmp_path):
    """AdamW's first update moves every weight by at most the rate, most by just that."""
    out = tmp_path / "run"
    changes = {"steps": 1, "learning_rate": 3e-3, "clip": 1e9}
    untrained = _untrained(world, tmp_path, **changes)
    train(settings(world, out, optim=changes))
    moved = {name: (value - untrained[name]).abs() for name, value in weights(out).items()}
    largest = max(float(value.max()) for value in moved.values())
    assert largest == pytest.approx(3e-3, rel=1e-3)
    assert float(moved["head.2.weight"].median()) == pytest.approx(3e-3, rel=1e-2)
    assert float(moved["scale"]) == 0  # a buffer, not a weight


def _untrained(world, tmp_path, **optim):
    """Weights before the first step: those of a run whose rate is next to nothing."""
    out = tmp_path / "untrained"
    train(settings(world, out, optim={**optim, "learning_rate": 1e-30}))
    return weights(out)


# --- checkpoints, best, patience ----------------------------------------------------------------


def scripted_metrics(monkeypatch, gaps):
    """Let validations find given held-out gaps, one after the other."""
    script = iter(gaps)

    def metrics_of(name, means, prefix=""):
        if prefix:
            return {f"{prefix}{name}_loss": means[0]}
        gap = next(script) if name == "held_out" else 0.0
        return {f"{name}_loss": -gap, f"{name}_gap": gap}

    monkeypatch.setattr("hypersteer.training.validate.metrics", metrics_of)


def test_newest_k_and_best_are_kept(world, tmp_path, monkeypatch):
    scripted_metrics(monkeypatch, [0.1, 0.5, 0.2, 0.3, 0.4, 0.1])
    out = tmp_path / "run"
    config = settings(world, out, validate_every=2, checkpoint_every=2, keep=2)
    result = train(config)
    assert result.best_step == 4
    assert checkpoints(out) == [4, 10, 12]
    assert read_card(out).step == 4


def test_keep_one_where_the_newest_is_the_best(world, tmp_path, monkeypatch):
    scripted_metrics(monkeypatch, [0.1, 0.2, 0.3])
    out = tmp_path / "run"
    result = train(settings(world, out, validate_every=4, checkpoint_every=1, keep=1))
    assert (result.best_step, checkpoints(out), read_card(out).step) == (12, [12], 12)


def test_a_better_figure_makes_a_checkpoint_though_none_is_due(world, tmp_path, monkeypatch):
    scripted_metrics(monkeypatch, [0.1, 0.5, 0.2, 0.3])
    out = tmp_path / "run"
    train(settings(world, out, validate_every=3, checkpoint_every=100, keep=3))
    assert checkpoints(out) == [3, 6, 12]
    assert read_card(out).step == 6


@pytest.mark.parametrize(("best", "step"), [("held_out_gap", 6), ("held_out_loss", 6)])
def test_best_by_gap_is_highest_and_by_loss_lowest(world, tmp_path, monkeypatch, best, step):
    scripted_metrics(monkeypatch, [0.1, 0.5, 0.2, 0.3])  # losses are the gaps' negatives
    result = train(settings(world, tmp_path / "run", validate_every=3, best=best))
    assert result.best_step == step


@pytest.mark.parametrize(
    ("best", "bad"),
    [
        ("held_out_gap", float("nan")),
        ("held_out_gap", float("inf")),
        ("held_out_loss", float("nan")),
        ("held_out_loss", float("inf")),  # the loss is the gap's negative
    ],
)
def test_what_is_no_number_never_is_the_best(world, lm, tmp_path, monkeypatch, bad, best):
    scripted_metrics(monkeypatch, [bad, 0.1, bad, 0.05])
    out = tmp_path / "run"
    config = settings(world, out, validate_every=2, best=best, optim={"steps": 8})
    result = train(config, lm)
    assert (result.best_step, read_card(out).step) == (4, 4)
    for file in out.rglob("*.json*"):  # a bare NaN is no JSON
        text = file.read_text()
        for line in [text] if file.suffix == ".json" else text.splitlines():
            json.loads(line, parse_constant=pytest.fail)
    lines = validation_lines(out)
    assert [line["held_out_gap"] for line in lines] == [None, 0.1, None, 0.05]


def test_until_a_validation_gives_numbers_the_newest_is_the_best(world, lm, tmp_path, monkeypatch):
    nan = float("nan")
    scripted_metrics(monkeypatch, [nan, nan, nan, nan])
    out = tmp_path / "run"
    result = train(settings(world, out, validate_every=3, patience=4), lm)
    assert (result.best_step, read_card(out).step) == (12, 12)
    assert math.isnan(read_card(out).metrics["held_out_gap"])


def test_no_number_in_an_earlier_versions_files_is_forgotten(world, lm, tmp_path, monkeypatch):
    """Such a run had taken NaN for the best figure, and then nothing was better."""
    scripted_metrics(monkeypatch, [0.3, 0.2, 0.1, 0.1])
    out = tmp_path / "run"
    train(settings(world, out, validate_every=3, optim={"steps": 9}), lm)
    (out / "checkpoints/step-0000009").rename(tmp_path / "later")
    file = out / "checkpoints/step-0000006/trainer/progress.json"
    kept = json.loads(file.read_text())
    figures = kept["figures"] | {"held_out_gap": float("nan")}
    file.write_text(json.dumps(kept | {"best": float("nan"), "figures": figures}))
    lines = metrics(out)
    text = "".join(json.dumps(line | {"held_in_gap": float("nan")}) + "\n" for line in lines)
    (out / "metrics.jsonl").write_text(text)
    result = train(settings(world, out, validate_every=3, optim={"steps": 9}), lm)
    assert (result.best_step, read_card(out).step) == (9, 9)
    assert "NaN" not in (out / "metrics.jsonl").read_text()
    assert [line["step"] for line in step_lines(out)] == list(range(1, 10))


# --- more steps ---------------------------------------------------------------------------------


def test_a_finished_run_is_extended(world, lm, tmp_path, monkeypatch):
    """The rate of the steps that are left is that of the longer run; the figures go on."""
    scripted_metrics(monkeypatch, [0.5, 0.1, 0.2, 0.3, 0.4, 0.6])
    out = tmp_path / "run"
    short = settings(world, out, validate_every=3, optim={"steps": 6, "learning_rate": 1e-3})
    longer = settings(world, out, validate_every=3, optim={"steps": 18, "learning_rate": 1e-3})
    train(short, lm)
    before = weights(out / "checkpoints/step-0000006")
    result = train(longer, lm, extend=True)
    assert (result.step, result.best_step) == (18, 18)
    lines = step_lines(out)
    assert [line["step"] for line in lines] == list(range(1, 19))
    assert [line["learning_rate"] for line in lines[:6]] == [rate_at(short, n) for n in range(6)]
    expected = [rate_at(longer, number) for number in range(6, 18)]
    assert [line["learning_rate"] for line in lines[6:]] == expected
    assert [line["step"] for line in validation_lines(out)] == [3, 6, 9, 12, 15, 18]
    after = weights(out)
    assert any(not torch.equal(value, after[name]) for name, value in before.items())
    assert read_card(out).training["optim"]["steps"] == 18
    # From here on it is a run of 18 steps: with or without `extend`, nothing is left to do.
    monkeypatch.setattr("hypersteer.training.loop._Run.step", None)
    assert train(longer, lm).step == train(longer, lm, extend=True).step == 18


def test_an_extended_run_resumes_exactly(world, lm, tmp_path):
    """Cut off before or after its first own checkpoint."""
    short = settings(world, tmp_path / "a", optim={"steps": 4})
    train(short, lm)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    longer = settings(world, tmp_path / "a", optim={"steps": 10})
    train(longer, lm, extend=True)
    straight = weights(tmp_path / "a/checkpoints/step-0000010")
    again = settings(world, tmp_path / "b", keep=10, optim={"steps": 10})
    train(again, lm, extend=True)
    for step in (10, 9):
        shutil.rmtree(tmp_path / f"b/checkpoints/step-{step:07d}")
    train(again, lm)  # the newest of the earlier ones says that the run is extended
    found = weights(tmp_path / "b/checkpoints/step-0000010")
    assert all(torch.equal(found[name], value) for name, value in straight.items())


def test_patience_starts_anew_in_an_extended_run(world, lm, tmp_path, monkeypatch):
    scripted_metrics(monkeypatch, [0.5, 0.1, 0.2, 0.3, 0.4, 0.6])
    out = tmp_path / "run"
    changes = {"validate_every": 2, "patience": 2}
    assert train(settings(world, out, **changes, optim={"steps": 8}), lm).step == 6
    longer = settings(world, out, **changes, optim={"steps": 12})
    assert train(longer, lm, extend=True).step == 10
    assert train(longer, lm, extend=True).step == 10  # and stopped stays stopped


def test_what_cannot_be_extended(world, lm, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(ConfigError, match="holds no run to extend; leave out --extend") as caught:
        train(settings(world, out), lm, extend=True)
    assert not out.exists()
    train(settings(world, out, optim={"steps": 6}), lm)
    with pytest.raises(ConfigError, match=r"has taken 6 steps; .* above that, not 5") as caught:
        train(settings(world, out, optim={"steps": 5}), lm, extend=True)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"\(seed 3, now 4\)"):
        train(settings(world, out, seed=4, optim={"steps": 9}), lm, extend=True)


def test_settings_that_are_infinite_are_the_same_run(world, lm, tmp_path):
    """JSON has no infinity, so it is kept as null."""
    config = settings(world, tmp_path / "run", optim={"clip": float("inf"), "steps": 3})
    train(config, lm)
    assert train(config, lm).step == 3
    with pytest.raises(ConfigError, match=r"\(optim.clip null, now 1.0\)"):
        train(settings(world, tmp_path / "run", optim={"steps": 3}), lm)


def test_early_stopping_by_patience(world, tmp_path, monkeypatch):
    scripted_metrics(monkeypatch, [0.1, 0.5, 0.2, 0.5, 0.9, 0.9])
    out = tmp_path / "run"
    config = settings(world, out, validate_every=2, checkpoint_every=100, patience=2)
    result = train(config)
    assert (result.step, result.best_step) == (8, 4)  # equal is not better
    assert [line["step"] for line in step_lines(out)] == list(range(1, 9))
    assert checkpoints(out) == [4, 8]
    assert train(config).step == 8  # stopped stays stopped


def test_patience_starts_anew_with_a_better_figure(world, tmp_path, monkeypatch):
    scripted_metrics(monkeypatch, [0.5, 0.4, 0.6, 0.5, 0.7, 0.1])
    config = settings(world, tmp_path / "run", validate_every=2, patience=2)
    assert train(config).step == 12


def test_one_held_out_concept_still_has_a_gap(world, tmp_path):
    """With no second held-out concept to be wrong with, a training concept serves."""
    data = {"held_out_concepts": 1}
    result = train(settings(world, tmp_path / "run", data=data, optim={"steps": 3}))
    assert result.metrics["prompted_held_out_gap"] != 0
    assert result.metrics["held_out_gap"] != 0


def test_without_held_out_concepts_the_last_step_is_the_best(world, tmp_path):
    out = tmp_path / "run"
    result = train(settings(world, out, data={"held_out_concepts": 0}))
    assert not any("held_out" in name for name in result.metrics)
    assert (result.best_step, read_card(out).step) == (12, 12)


def test_validation_rows_that_are_all_too_long_are_no_validation(world, tmp_path):
    """The prompts of the held-out rows may all be longer than the limit."""
    data = tmp_path / "data"
    shutil.copytree(world.data, data)
    lines = [json.loads(line) for line in (data / "train_data.jsonl").read_text().splitlines()]
    for line in lines:
        if line["concept_id"] == 5:
            line["input"] += " at length" * 10
    (data / "train_data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    limited = {"source": [str(data)], "held_out_concepts": [5], "max_prompt_tokens": 60}
    result = train(settings(world, tmp_path / "run", data=limited, optim={"steps": 2}))
    assert "held_in_loss" in result.metrics
    assert "held_out_loss" not in result.metrics


# --- what may be trained ------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["cross-attention", "in-context", "no-context"])
@pytest.mark.parametrize("contrast", [0.0, 1.0])
def test_all_variants_train(world, lm, tmp_path, variant, contrast):
    out = tmp_path / "run"
    changes = {"hypernet": {"variant": variant}, "loss": {"contrast": contrast}}
    before = {name: value.clone() for name, value in lm.model.state_dict().items()}
    result = train(settings(world, out, optim={"steps": 30}, **changes), lm)
    lines = step_lines(out)
    assert sum(x["loss"] for x in lines[-5:]) < sum(x["loss"] for x in lines[:5])
    assert result.metrics["held_in_loss"] < result.metrics["unsteered_held_in_loss"]
    assert ("contrastive" in lines[0]) == bool(contrast)
    assert read_card(out).hypernet.variant == variant
    for name, value in lm.model.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("kind", ["vector", "gated"])
def test_the_diversity_term_turns_edits_apart(world, lm, tmp_path, kind):
    hypernet = {"edit": kind, "variant": "no-context", "more_layers": [3]}
    seen = {}
    for weight in (1e-9, 1.0):
        out = tmp_path / str(weight)
        loss = {"diversity": weight}
        train(settings(world, out, hypernet=hypernet, loss=loss, optim={"steps": 20}), lm)
        seen[weight] = sum(line["similarity"] for line in step_lines(out)[-5:]) / 5
    assert seen[1.0] < seen[1e-9] - 0.1


def test_the_contrastive_term_alone_raises_the_gap_and_no_more(world, lm, tmp_path):
    """With weight 0 the gap grows, and the loss is not what is minimised."""
    out = tmp_path / "run"
    train(settings(world, out, loss={"weight": 0.0, "contrast": 2.0}, optim={"steps": 30}), lm)
    alone = step_lines(out)
    train(settings(world, tmp_path / "both", loss={"contrast": 2.0}, optim={"steps": 30}), lm)
    both = step_lines(tmp_path / "both")

    def late(lines, name):
        return sum(line[name] for line in lines[-8:]) / 8

    assert late(alone, "training_gap") > 2 * alone[0]["training_gap"]
    assert late(alone, "training_gap") > 0.05
    assert late(alone, "loss") > late(both, "loss")


@pytest.mark.parametrize("guidance", [0.0, 1.0])
def test_distillation_comes_closer_to_the_prompted_model(world, lm, tmp_path, guidance):
    out = tmp_path / "run"
    changes = {"loss": {"objective": "distillation", "guidance": guidance}}
    train(settings(world, out, optim={"steps": 40}, **changes), lm)
    losses = [line["loss"] for line in step_lines(out)]
    assert min(losses) > 0  # a divergence
    assert sum(losses[-8:]) < 0.9 * sum(losses[:8])


@pytest.mark.parametrize("guidance", [0.0, 1.0])
def test_activations_come_closer_to_those_of_the_prompted_model(world, lm, tmp_path, guidance):
    """A distance of 1 is that of the plain states; no block above the last site runs."""
    out = tmp_path / "run"
    changes = {"loss": {"objective": "activations", "guidance": guidance}}
    ran = [0] * len(lm.blocks)

    def count(number):
        return lm.blocks[number].register_forward_hook(
            lambda *_: ran.__setitem__(number, ran[number] + 1)
        )

    config = settings(world, out, optim={"steps": 40}, **changes)
    run = _Run(config, new_accelerator("cpu", "no"), lm, extend=False)
    handles = [count(number) for number in range(len(lm.blocks))]
    run.step(0)
    for handle in handles:
        handle.remove()
    last = run.hypernet.sites[-1].layer
    assert all(ran[: last + 1])
    assert not any(ran[last + 1 :])
    train(config, lm)
    losses = [line["loss"] for line in step_lines(out)]
    assert losses[0] == pytest.approx(1.0, abs=0.1)
    assert sum(losses[-8:]) < 0.9 * sum(losses[:8])


@pytest.mark.parametrize("variant", ["cross-attention", "in-context", "no-context"])
def test_edits_are_learnt_beside_the_prompt(world, lm, tmp_path, variant):
    """The figures are those of answers to prompts that say the steering prompt, taken by hand."""
    out = tmp_path / "run"
    changes = {"hypernet": {"variant": variant}, "loss": {"prompted": True}}
    result = train(settings(world, out, optim={"steps": 30}, best="held_in_loss", **changes), lm)
    assert result.metrics["held_in_loss"] < result.metrics["prompted_held_in_loss"]
    held_out = read_card(out).held_out
    rows = [json.loads(x) for x in (world.data / "train_data.jsonl").read_text().splitlines()]
    steerer = steering.load(out, lm=lm)
    losses = []
    for row in rows:
        if row["output_concept"] in held_out:
            said = _prompted(row["output_concept"], row["input"])
            edit = steerer.edit(row["output_concept"], prompt=said)
            prompt, response = lm.chat.prompt(said), lm.chat.response(row["output"], ends=True)
            batch = collate([prompt], [response], pad_id=lm.chat.pad_id)
            mask = scope_mask([edit.scope], batch.spans)
            with at_sites(
                lm.blocks, [(edit.site, lambda h, e=edit, m=mask: h + e.vector * m[..., None])]
            ):
                losses.append(response_losses(lm, batch)[0])
    mean = torch.cat(losses).double().mean().item()
    assert result.metrics["held_out_loss"] == pytest.approx(mean, abs=1e-4)


def test_prior_and_style_train_and_the_style_is_not_used(world, lm, tmp_path):
    out = tmp_path / "run"
    options = {"prior": "activation", "style": True}
    train(settings(world, out, hypernet=options, optim={"steps": 30}, best="held_in_loss"), lm)
    lines = step_lines(out)
    assert sum(x["loss"] for x in lines[-5:]) < sum(x["loss"] for x in lines[:5])
    learnt = weights(out)
    assert learnt["style"].abs().max() > 0
    assert learnt["mean"].abs().max() > 0
    assert learnt["prior.centre"].abs().max() > 0
    steerer = steering.load(out, lm=lm)
    before = steerer.edit("owls", prompt="Why?").vector
    with torch.no_grad():
        steerer.hypernet.style.zero_()
    assert torch.equal(steerer.edit("owls", prompt="Why?").vector, before)


def test_a_learned_strength_trains_on_the_ends_of_prompts(world, lm, tmp_path):
    """PrOSV: two tokens at either end are edited; lengths move as the loss wants them."""
    out = tmp_path / "run"
    changes = {"site": {"layer": 1, "scope": "prompt_ends"}, "hypernet": {"learned_strength": True}}
    train(settings(world, out, optim={"steps": 30}, best="held_in_loss", **changes), lm)
    lines = step_lines(out)
    assert sum(x["loss"] for x in lines[-5:]) < sum(x["loss"] for x in lines[:5])
    steerer = steering.load(out, lm=lm)
    edit = steerer.edit("speak of owls", prompt="Why?")
    length = edit.vector.pow(2).mean().sqrt() / steerer.hypernet.scale
    assert abs(length - FIRST_STRENGTH) > 0.01


@pytest.mark.parametrize("kind", ["attention", "mlp"])
def test_sub_layer_sites_and_scopes_train(world, lm, tmp_path, kind):
    changes = {"site": {"layer": 2, "kind": kind, "scope": "response"}}
    out = tmp_path / "run"
    result = train(settings(world, out, optim={"steps": 30}, **changes), lm)
    assert result.metrics["held_in_loss"] < result.metrics["unsteered_held_in_loss"]
    card = read_card(out)
    assert (card.site.layer, card.site.kind, card.scope) == (2, kind, "response")


def test_the_default_site_is_two_fifths_of_the_way_up(world, lm, tmp_path):
    out = tmp_path / "run"
    train(settings(world, out, site={"layer": None}, optim={"steps": 1}), lm)
    assert read_card(out).site.layer == 2  # round(0.4 * 4)


@pytest.mark.parametrize("sharp", [False, True])
def test_weight_decay_and_clipping_reach_the_optimizer(world, lm, tmp_path, sharp):
    """A clip of almost nothing leaves decay alone to move the weights: w (1 - rate decay)."""
    changes = {"steps": 1, "learning_rate": 0.01, "weight_decay": 0.1, "clip": 1e-12}
    untrained = _untrained(world, tmp_path, **changes)
    out = tmp_path / "run"
    train(settings(world, out, optim={**changes, "weight_decay": 0.1 if sharp else 0.0}), lm)
    name = "cross.0.query.weight"
    expected = untrained[name] * (1 - 0.01 * 0.1 * sharp)
    torch.testing.assert_close(weights(out)[name], expected, atol=2e-6, rtol=0)


@pytest.mark.slow
def test_contrast_raises_the_gap(world, lm, tmp_path):
    gaps = {}
    for contrast in (0.0, 4.0):
        out = tmp_path / f"contrast-{contrast}"
        changes = {"optim": {"steps": 120, "learning_rate": 5e-3}, "validate_every": 120}
        result = train(settings(world, out, loss={"contrast": contrast}, **changes), lm)
        gaps[contrast] = result.metrics["held_in_gap"]
        if contrast:
            lines = step_lines(out)
            first, last = ([x["contrastive"] for x in part] for part in (lines[:5], lines[-5:]))
            assert sum(last) < sum(first)
            assert lines[-1]["training_gap"] > 0
    assert gaps[4.0] > gaps[0.0] + 0.05


def test_reconstruction_reduces_the_distance(world, lm, tmp_path):
    targets = torch.randn(len(CONCEPTS), lm.width, generator=torch.Generator().manual_seed(0))
    save_file({"vectors": targets}, tmp_path / "targets.safetensors")
    out = tmp_path / "run"
    config = settings(
        world,
        out,
        hypernet={"variant": "no-context"},
        loss={
            "objective": "reconstruction",
            "targets": str(tmp_path / "targets.safetensors"),
        },
        optim={"steps": 150, "learning_rate": 1e-2},
        validate_every=150,
        best="held_in_loss",
    )
    train(config, lm)
    losses = [line["loss"] for line in step_lines(out)]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])

    # Each trained concept's vector came nearer to its own target than to any other.
    steerer = steering.load(out, lm=lm)
    names = list(CONCEPTS)
    trained = [names.index(text) for text in steerer.card.concepts]
    ids = [lm.chat.text(names[number]) for number in trained]
    prompts = [lm.chat.prompt("any")] * len(ids)
    vectors = tiny.write_vectors(steerer.hypernet, lm, steerer.card.hypernet, ids, prompts)
    assert torch.cdist(vectors, targets).argmin(1).tolist() == trained


@pytest.mark.parametrize(
    ("tensors", "error", "told"),
    [
        ({"vectors": torch.zeros(5, 32)}, ConfigError, r"\[5, 32\] are not \[6, 32\]"),
        ({"vectors": torch.zeros(6, 31)}, ConfigError, r"\[6, 31\] are not \[6, 32\]"),
        ({"vector": torch.zeros(6, 32)}, DataError, "no readable 'vectors'"),
        (None, DataError, "no targets at"),
    ],
)
def test_bad_targets_are_refused(world, lm, tmp_path, tensors, error, told):
    path = tmp_path / "targets.safetensors"
    if tensors:
        save_file(tensors, path)
    config = settings(
        world,
        tmp_path / "run",
        hypernet={"variant": "no-context"},
        loss={"objective": "reconstruction", "targets": str(path)},
    )
    with pytest.raises(error, match=told):
        train(config, lm)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", OPTIONS)
def test_accumulation_gives_the_same_weights(world, lm, tmp_path, name):
    found = []
    changes = option(name, tmp_path)
    for parts in (1, 4):
        out = tmp_path / f"parts-{parts}"
        # AdamW turns rounding of near-zero gradients into steps, so the rate is small.
        optim = {"steps": 5, "batch_size": 8, "accumulation": parts, "learning_rate": 2e-4}
        optim |= changes.get("optim", {})
        train(settings(world, out, **{**changes, "optim": optim}), lm)
        found.append((weights(out), step_lines(out)))
    (one, lines), (four, other_lines) = found
    # A gradient of 1e-9, less than AdamW's epsilon, moves its weight by its own rounding: in some
    # of these runs one weight of thousands meets one, though gradients agree to 1e-8 everywhere.
    for name, value in one.items():
        torch.testing.assert_close(four[name], value, atol=1e-5, rtol=0)
    for line, other in zip(lines, other_lines, strict=True):
        for name in line.keys() - {"tokens_per_s"}:
            assert other[name] == pytest.approx(line[name], rel=1e-6, abs=2e-5)


def test_the_seed_decides_and_nothing_else(world, lm, tmp_path):
    """Same seed, same weights bit for bit, whatever the global generators hold; others differ."""
    found = []
    for number, seed in enumerate((3, 3, 4)):
        torch.manual_seed(number)
        out = tmp_path / str(number)
        train(settings(world, out, seed=seed, optim={"steps": 3}), lm)
        found.append(weights(out))
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())
    assert any(not torch.equal(value, found[2][name]) for name, value in found[0].items())


def test_training_leaves_the_global_generator_alone(world, lm, tmp_path):
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    train(settings(world, tmp_path / "run", optim={"steps": 2}), lm)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.slow
def test_bf16_arithmetic_keeps_float32_weights(world, lm, tmp_path):
    out = tmp_path / "run"
    optim = {"steps": 20, "mixed_precision": "bf16"}
    result = train(settings(world, out, optim=optim), lm)
    assert result.metrics["held_in_loss"] < result.metrics["unsteered_held_in_loss"]
    assert {value.dtype for value in weights(out).values()} == {torch.float32}
    moments = load_file(out / "checkpoints/step-0000020/trainer/optimizer.safetensors")
    assert {value.dtype for value in moments.values()} == {torch.float32}


def test_a_text_with_two_ids_is_one_concept_and_the_checkpoint_can_be_evaluated(
    world, lm, tmp_path, capsys
):
    """Two sets of AxBench's Concept500 have one; it was trained on and held out."""
    folder = tmp_path / "data"
    shutil.copytree(world.data, folder)
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    lines[4] = {"concept_id": 4, "concept": f" {lines[1]['concept']}"}
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for seed in range(3):
        data = {"source": [str(folder)], "held_out_concepts": 2}
        config = settings(world, tmp_path / f"{seed}", data=data, seed=seed, optim={"steps": 1})
        train(config, lm)
        assert "5 concepts (1 more had a text that was there" in capsys.readouterr().err
        card = read_card(tmp_path / f"{seed}")
        assert (len(card.concepts), len(card.held_out)) == (3, 2)
        assert not set(map(text_key, card.concepts)) & set(map(text_key, card.held_out))
        found = load_concepts(str(folder))
        split = split_as(found, config.data, seed)
        held_in, held_out = (
            [f"{found.concept(id_).text} " for id_ in ids]  # space around a text is no other text
            for ids in (split.train_concepts, split.held_out_concepts)
        )
        check_split({"ours": Hypersteer(str(tmp_path / f"{seed}"))}, held_in, held_out)
        with pytest.raises(SteeringError, match="was trained on"):
            check_split({"ours": Hypersteer(str(tmp_path / f"{seed}"))}, held_in, held_in)


# --- the context window -------------------------------------------------------------------------


@pytest.fixture
def long_texts(world, tmp_path):
    """Writes the world's data with other prompts and concepts, for a base LM of 256 positions."""

    def write(prompts, concepts=None):
        folder = tmp_path / "long"
        shutil.copytree(world.data, folder)
        for name in ("metadata", "train_data"):
            text = (folder / f"{name}.jsonl").read_text()
            lines = [json.loads(line) for line in text.splitlines()]
            for number, line in enumerate(lines):
                if name == "train_data":
                    line["input"] = prompts(number)
                elif concepts:
                    line["concept"] = concepts(number)
                    line.pop("concept_genres_map")
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (folder / f"{name}.jsonl").write_text(text)
        data = {"source": [str(folder)], "max_prompt_tokens": 240, "max_response_tokens": 16}
        return tiny.lm_of("gpt2"), {"data": data, "optim": {"steps": 4}}

    return write


def test_a_concept_longer_than_the_window_is_named_before_any_work(
    world, tmp_path, long_texts, monkeypatch
):
    lm, changes = long_texts(
        lambda n: f"Why {n}?", lambda n: f"owls {n}" + " and {} owls" * (n == 4) * 40
    )
    monkeypatch.setattr(type(lm), "forward", None)
    with pytest.raises(SteeringError) as caught:
        train(settings(world, tmp_path / "run", **changes), lm)
    told = str(caught.value)
    assert told.startswith("concept 4, 'owls 4 and {} owls")
    assert re.search(
        r"needs \d{3} tokens, but the context window of \S+ has 256; shorten it$", told
    )
    assert "\n" not in told
    assert not (tmp_path / "run").exists()


def test_prompts_that_do_not_fit_with_a_steering_prompt_are_no_validation(
    world, tmp_path, long_texts, capsys
):
    lm, changes = long_texts(lambda n: "z" * (175 if n % 3 else 20) + str(n))
    assert 200 < len(lm.chat.prompt("z" * 175).ids) <= 256 - 16  # it fits by itself
    result = train(settings(world, tmp_path / "run", **changes), lm)
    assert {"held_out_loss", "prompted_held_out_loss"} <= result.metrics.keys()
    told = re.search(r"on (\d+) held-in and (\d+) held-out .*; (\d+) more", capsys.readouterr().err)
    assert sum(map(int, told.groups())) == 24
    assert int(told[3]) > 8


@pytest.mark.parametrize(
    "changes",
    [{"hypernet": {"variant": "in-context"}}, {"loss": {"objective": "distillation"}}],
    ids=["in-context", "distillation"],
)
def test_rows_that_do_not_fit_with_a_steering_prompt_are_not_trained_on(
    world, tmp_path, long_texts, changes
):
    lm, more = long_texts(
        lambda n: "z" * (150 if n % 3 else 5) + str(n), lambda n: f"owls {n}" + " {}" * 35
    )
    assert len(lm.chat.prompt("z" * 150).ids) < 240  # and by itself each would fit
    train(settings(world, tmp_path / "run", **more, **changes), lm)
    assert len(step_lines(tmp_path / "run")) == 4


def test_rows_of_which_none_fits_are_told_before_the_first_step(world, tmp_path, long_texts):
    lm, more = long_texts(lambda n: "z" * 150 + str(n), lambda n: f"owls {n}" + " {}" * 35)
    config = settings(world, tmp_path / "run", **more, loss={"objective": "distillation"})
    with pytest.raises(DataError, match=r"no row of .* fits: every prompt is too long for"):
        train(config, lm)
    assert not (tmp_path / "run").exists()


def test_sums_are_taken_where_there_is_float64(monkeypatch):
    """Apple's MPS has none: losses come to the CPU first."""

    class Elsewhere:
        def __init__(self, losses):
            self.losses = losses

        def cpu(self):
            return self.losses

    losses = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
    found = validate.mean_losses.__wrapped__(
        lambda rows: Elsewhere(losses), [1, 2], batch_size=2, reduce=lambda total: total
    )
    assert found == [1.5, 4.0]


# --- TensorBoard --------------------------------------------------------------------------------


def test_tensorboard_is_written_where_wanted(world, lm, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "run"
    train(settings(world, out, tensorboard=True, optim={"steps": 3}), lm)
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    written = [(event.step, event.value) for event in events.Scalars("loss")]
    expected = [(line["step"], pytest.approx(line["loss"], rel=1e-6)) for line in step_lines(out)]
    assert written == expected
    assert [event.step for event in events.Scalars("held_out_gap")] == [3]


def test_tensorboard_is_optional(world, lm, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    train(settings(world, tmp_path / "without", optim={"steps": 1}), lm)
    with pytest.raises(ConfigError, match=r"hypersteer\[tensorboard\]"):
        train(settings(world, tmp_path / "with", tensorboard=True, optim={"steps": 1}), lm)
