"""A run that begins with the weights of a checkpoint goes on from there."""

import json

import pytest
from safetensors.torch import load_file

from hypersteer.config import TrainConfig, from_dict
from hypersteer.errors import CheckpointError, ConfigError
from hypersteer.hypernet.card import read_card
from hypersteer.lm.load import load_lm
from hypersteer.training.devices import new_accelerator
from hypersteer.training.loop import _Run, train
from training.worlds import make_model, settings, step_lines

HYPERNET = {"edit": "gated", "variant": "no-context", "rank": 2, "more_layers": [3]}


@pytest.fixture(scope="module")
def first(world, tmp_path_factory):
    """A finished run, on some of the concepts."""
    out = tmp_path_factory.mktemp("first") / "run"
    data = {"source": [str(world.data)], "held_out_concepts": [4, 5]}
    train(settings(world, out, hypernet=HYPERNET, data=data, optim={"steps": 30}))
    return out


def goes_on(world, out, start, **changes):
    """Settings of a run that has the start's network, whatever the defaults are."""
    held = settings(world, out, **changes)
    raw = {
        "out": str(out),
        "start": str(start),
        "base_lm": {"name": str(world.model), "device": "cpu"},
        "data": {"source": list(held.data.source), "held_out_concepts": [3, 4]},
        "optim": {"steps": 12, "learning_rate": 1e-4, "mixed_precision": "no"},
        "checkpoint_every": 6,
    }
    return from_dict(TrainConfig, {**raw, **changes})


def test_it_begins_with_the_weights_and_has_seen_what_they_have(world, first, tmp_path):
    out = tmp_path / "second"
    train(goes_on(world, out, first))
    earlier, card = read_card(first), read_card(out)
    assert (card.hypernet, card.site, card.scope) == (earlier.hypernet, earlier.site, earlier.scope)
    assert step_lines(out)[0]["loss"] < step_lines(first)[0]["loss"] - 0.2
    before, after = (load_file(run / "model.safetensors") for run in (first, out))
    moved = max((after[name] - before[name]).abs().max() for name in before)
    assert 0 < moved < 0.02
    # Held out now, but trained on by the start: seen.
    assert "speak of quartz" in card.concepts
    assert card.held_out == ("speak of yaks",)
    assert json.loads((out / "config.json").read_text())["training"]["start"] == str(first)


def test_it_resumes_as_any_run(world, first, tmp_path):
    straight, out = tmp_path / "straight", tmp_path / "cut"
    train(goes_on(world, straight, first))
    cut = _Run(goes_on(world, out, first), new_accelerator("cpu", "no"), None, extend=False)
    for number in range(6):
        cut.step(number)
        cut.progress.step += 1
    cut.save()
    train(goes_on(world, out, first))
    ends = [run / "checkpoints/step-0000012/model.safetensors" for run in (out, straight)]
    assert ends[0].read_bytes() == ends[1].read_bytes()


def test_what_does_not_agree_with_the_start_is_told(world, first, tmp_path):
    out = tmp_path / "run"
    for changes, told in (
        ({"hypernet": {"edit": "low-rank"}}, "hypernet.edit 'low-rank' with start"),
        ({"site": {"layer": 3}}, "site.layer 3 with start"),
        ({"base_lm": {"name": "elsewhere"}}, "base_lm.name 'elsewhere' with start"),
    ):
        with pytest.raises(ConfigError, match=told):
            train(goes_on(world, out, first, **changes))
    with pytest.raises(CheckpointError, match="no checkpoint"):
        train(goes_on(world, out, tmp_path))
    assert not (out / "checkpoints").exists()


def test_the_start_of_another_base_lm_is_refused(world, first, tmp_path):
    other = make_model(tmp_path / "other", seed=1)
    config = goes_on(world, tmp_path / "run", first)
    with pytest.raises(CheckpointError, match="leave out start"):
        train(config, load_lm(other, device="cpu"))
