"""FSDP2 and DDP, started with the launch files for GPUs, on two processes of this machine."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import hypersteer as hs
from hypersteer.errors import ConfigError
from hypersteer.hypernet.card import read_card
from hypersteer.training.loop import train
from hypersteer.training.sharding import split_as, whole
from training.launching import assert_equal_runs, launch, weights
from training.worlds import option, settings, step_lines, validation_lines

FILES = Path(__file__).parents[2] / "experiments/full_size"
DDP, FSDP2 = FILES / "ddp.yaml", FILES / "fsdp2.yaml"
OLD = (
    *("contrast on some", "contrast but for negated", "style", "prior and style"),
    *("reconstruction", "clip and decay", "sub-layer", "activations", "preference"),
)
MORE = {  # beside the options of a step: kinds of edits, and what is run again
    "again": {"optim": {"gradient_checkpointing": True}},
    "low-rank": {"hypernet": {"edit": "low-rank", "more_layers": [2]}},
    "per-token": {"hypernet": {"edit": "per-token"}, "optim": {"gradient_checkpointing": True}},
    "recalling": {"hypernet": {"edit": "per-token", "self_attention": True, "more_layers": [2]}},
    "prompted": {
        "loss": {"prompted": True, "alone": 0.5},
        "hypernet": {"variant": "in-context"},
    },
}
NAMES = (*OLD, *MORE)


def changes_of(name, folder):
    """Settings that one of the runs has of its own."""
    found = MORE[name] if name in MORE else option(name, folder)
    return {table: dict(values) for table, values in found.items()}


@pytest.fixture(scope="module")
def runs(world, lm, tmp_path_factory, cache):
    """The same runs on one process with 8 rows a step, and on two that share the hypernetwork."""
    folder = tmp_path_factory.mktemp("sharded")
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYPERSTEER_CACHE", str(cache))
        for processes, rows in ((1, 8), (2, 4)):
            optim = {"learning_rate": 2e-4, "batch_size": rows, "accumulation": 2 // processes}
            found[processes] = {}
            for name in NAMES:
                changes = changes_of(name, folder)
                changes["optim"] = optim | {"steps": 3} | changes.get("optim", {})
                changes["data"] = {"max_validation_rows": 3} | changes.get("data", {})
                out = folder / f"{processes}-{name}".replace(" ", "-")
                found[processes][name] = settings(world, out, **changes)
            found[processes]["share"] = settings(
                world,
                folder / f"{processes}-share",
                loss={"contrast": 1.0, "contrast_share": 0.5},
                optim=optim | {"steps": 3},
            )
            found[processes]["whole"] = settings(
                world,
                folder / f"{processes}-whole",
                loss={"contrast": 1.0},
                optim=optim | {"steps": 6, "accumulation": 2},
                validate_every=3,
            )
        for name in (*NAMES, "whole"):
            train(found[1][name], lm)
        told = launch(found[2].values(), folder, how=["sizes"], file=FSDP2)
    assert told.count("training on 24 rows") == 2 + len(NAMES)  # the other process is silent
    assert "Warning" not in told
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", [*NAMES, "whole"])
def test_two_that_share_a_hypernetwork_equal_one(runs, name):
    config, other = runs[1][name], runs[2][name]
    expected = assert_equal_runs(config, other, config.optim.steps)
    start = weights(Path(config.out), 3) if name == "whole" else None
    if start is not None:
        moved = max(float((value - start[key]).abs().max()) for key, value in expected.items())
        assert moved > 1e-4  # what is compared is many tolerances away from standing still


@pytest.mark.slow
def test_each_holds_half(runs):
    """Of weights, of gradients and of the optimizer's state; the last run was the whole one."""
    out = Path(runs[2]["whole"].out)
    total = sum(
        value.numel()
        for name, value in weights(out, 6).items()
        if name not in ("scale", "excess")  # no weights
    )
    for number in (0, 1):
        sizes = json.loads((out.parent / f"sizes-{number}.json").read_text())
        for what in ("weights", "gradients", "state"):
            assert sizes[what] == pytest.approx(total / 2, rel=0.01), (what, total)


@pytest.mark.slow
def test_a_checkpoint_is_as_any_other(runs, lm):
    """Whole weights and optimizer state, under the same names as those of one process."""
    one, two = (Path(runs[number]["whole"].out) for number in (1, 2))
    for file in ("model.safetensors", "trainer/optimizer.safetensors"):
        expected, found = (load_file(out / "checkpoints/step-0000006" / file) for out in (one, two))
        assert list(found) == list(expected)
        for name, value in expected.items():
            assert found[name].shape == value.shape, name
            torch.testing.assert_close(found[name], value, atol=1e-5, rtol=0)
    assert read_card(two / "checkpoints/step-0000006").step == 6
    texts = [
        hs.load(out, lm=lm).generate("Tell 3?", steer="speak of owls", max_new_tokens=8)
        for out in (one, two)
    ]
    assert texts[0] == texts[1]


def cut_off(run, out):
    """Settings of a copy of the run, as if it had been killed before its last checkpoint."""
    shutil.copytree(run.out, out)
    shutil.rmtree(out / "checkpoints/step-0000006")
    return replace(run, out=str(out))


def assert_went_on(out):
    assert [line["step"] for line in step_lines(out)] == list(range(1, 7))
    assert [line["step"] for line in validation_lines(out)] == [3, 6]


@pytest.mark.slow
def test_a_run_goes_on_exactly(runs, tmp_path):
    run = runs[2]["whole"]
    config = cut_off(run, tmp_path / "run")
    told = launch([config], tmp_path, file=FSDP2)
    assert told.count("resuming from step 3") == 1
    straight = weights(Path(run.out), 6)
    for name, value in weights(Path(config.out), 6).items():
        assert torch.equal(value, straight[name]), name
    assert_went_on(Path(config.out))


@pytest.mark.slow
def test_the_launch_file_of_ddp_gives_the_same_weights_and_takes_over(runs, tmp_path):
    """Also where the hypernetwork runs more than once before a backward pass."""
    run, share = runs[2]["whole"], runs[2]["share"]
    config = cut_off(run, tmp_path / "run")
    other = replace(share, out=str(tmp_path / "share"))
    told = launch([other, config], tmp_path, file=DDP)
    assert told.count("resuming from step 3") == 1
    assert_equal_runs(share, other, 3)
    assert_equal_runs(run, config, 6)
    assert_went_on(Path(config.out))


# --- what it cannot do --------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch):
    """The environment that a launch with FSDP2 makes."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    return monkeypatch.setenv


REFUSED = [
    ("FSDP_VERSION", "1", "asks for FSDP version 1; set fsdp_version to 2"),
    ("FSDP_OFFLOAD_PARAMS", "true", "fsdp_offload_params"),
    ("FSDP_ACTIVATION_CHECKPOINTING", "true", "set it to false, and optim.gradient_checkpointing"),
    ("FSDP_CPU_RAM_EFFICIENT_LOADING", "true", "fsdp_cpu_ram_efficient_loading"),
    ("ACCELERATE_USE_PARALLELISM_CONFIG", "true", "parallelism_config splits a model in other"),
]


@pytest.mark.parametrize(("name", "value", "told"), REFUSED)
def test_what_sharding_cannot_do_is_told(world, lm, tmp_path, asked, name, value, told):
    asked(name, value)
    with pytest.raises(ConfigError) as caught:
        train(settings(world, tmp_path / "run"), lm)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_half_precision_is_refused(world, lm, tmp_path, asked):
    config = settings(world, tmp_path / "run", optim={"mixed_precision": "fp16"})
    with pytest.raises(ConfigError, match=r"'fp16' with FSDP2, .* set it to 'bf16' or 'no'"):
        train(config, lm)
    assert not (tmp_path / "run").exists()


def test_one_process_has_nobody_to_share_with(world, lm, tmp_path, asked):
    train(settings(world, tmp_path / "run", optim={"steps": 2}), lm)
    assert len(step_lines(tmp_path / "run")) == 2


def test_what_is_not_split_stays_as_it_is():
    tensor = torch.ones(3)
    assert whole(tensor) is tensor
    assert split_as(tensor, torch.zeros(3)) is tensor


@pytest.mark.parametrize("file", [DDP, FSDP2])
def test_launch_files_ask_for_what_can_be_done(file):
    """And FSDP2's asks for nothing that is refused."""
    asked = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert asked["num_processes"] == 8
    sharded = asked.get("fsdp_config", {})
    assert (asked["distributed_type"] == "FSDP") == bool(sharded) == (file == FSDP2)
    assert sharded.get("fsdp_version", 2) == 2
