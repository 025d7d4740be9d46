"""Two processes with half the rows each do what one process does with all of them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hypersteer.errors import ConfigError
from hypersteer.training.loop import train
from training.launching import assert_equal_runs, launch, weights
from training.worlds import OPTIONS, option, settings, step_lines, validation_lines


@pytest.fixture(scope="module")
def runs(world, lm, tmp_path_factory, cache):
    """The same runs on one process with 8 rows a step, and on two with 4 each."""
    folder = tmp_path_factory.mktemp("distributed")
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYPERSTEER_CACHE", str(cache))
        for processes, rows in ((1, 8), (2, 4)):
            # The rate is small, since AdamW makes steps of the rounding of tiny gradients.
            optim = {"steps": 6, "learning_rate": 2e-4, "batch_size": rows, "accumulation": 2}
            config = settings(
                world,
                folder / str(processes),
                loss={"contrast": 1.0},
                optim=optim,
                validate_every=3,
            )
            brief = optim | {"steps": 3, "accumulation": 2 // processes}
            found[processes] = {"whole": config} | {
                name: _brief(world, folder, f"{processes}-{name}", option(name, folder), brief)
                for name in OPTIONS
            }
        for config in found[1].values():
            train(config, lm)
        told = launch(found[2].values(), folder)
    assert told.count("training on 24 rows") == 1 + len(OPTIONS)  # the other process is silent
    return found


def _brief(world, folder, name, changes, optim):
    """Settings of a run of a few steps, hardly validated."""
    changes["optim"] = optim | changes.get("optim", {})
    changes["data"] = {"max_validation_rows": 2} | changes.get("data", {})
    return settings(world, folder / name.replace(" ", "-"), **changes)


@pytest.mark.slow
def test_two_processes_equal_one(runs):
    config, other = runs[1]["whole"], runs[2]["whole"]
    expected = assert_equal_runs(config, other, 6)
    assert [line["step"] for line in step_lines(Path(other.out))] == list(range(1, 7))
    assert [line["step"] for line in validation_lines(Path(other.out))] == [3, 6]
    earlier = weights(Path(config.out), 3)
    moved = max(float((value - earlier[name]).abs().max()) for name, value in expected.items())
    assert moved > 1e-4  # what is compared is many tolerances away from standing still


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_two_processes_equal_one_with_every_option(runs, name):
    assert_equal_runs(runs[1][name], runs[2][name], 3)


@pytest.mark.slow
def test_two_processes_resume_exactly(runs):
    config = runs[2]["whole"]
    out = Path(config.out)
    straight = weights(out, 6)
    shutil.rmtree(out / "checkpoints/step-0000006")  # as if killed before its last checkpoint
    told = launch([config], out.parent)
    assert told.count("resuming from step 3") == 1
    again = weights(out, 6)
    assert all(torch.equal(again[name], value) for name, value in straight.items())
    assert [line["step"] for line in step_lines(out)] == list(range(1, 7))
    assert [line["step"] for line in validation_lines(out)] == [3, 6]


@pytest.mark.slow
def test_another_number_of_processes_is_refused(runs, lm):
    config = runs[2]["whole"]
    out = Path(config.out)
    before = sorted(out.rglob("*"))
    with pytest.raises(ConfigError, match="run on 2 processes, not 1; go on with as many"):
        train(config, lm)
    assert sorted(out.rglob("*")) == before


# --- one process that cannot go on --------------------------------------------------------------


@pytest.mark.slow
def test_what_only_one_process_lacks_ends_all(runs, world, tmp_path):
    """On nodes that share no disk: a run folder, and data, which one has and the other has not."""
    config = runs[2]["whole"]
    shutil.copytree(config.out, tmp_path / "0" / "begun")
    shutil.copytree(config.out, tmp_path / "1" / "stale")
    shutil.copytree(world.data, tmp_path / "0" / "data")
    data = replace(config.data, source=("data",))
    wanted = [
        replace(config, out="begun"),
        replace(config, out="stale"),
        replace(config, out="run", data=data),
    ]
    launch(wanted, tmp_path, how=["apart"])
    told = [json.loads((tmp_path / f"stopped-{number}.json").read_text()) for number in (0, 1)]
    assert [len(one) for one in told] == [3, 3]
    for first, second in zip(*told, strict=True):
        assert "\n" not in first + second
    assert told[0][:2] == told[1][:2]
    begun, stale = told[0][:2]
    assert begun.startswith("CheckpointError: the run folder 'begun' is not the same for all")
    assert "process 0 finds step-0000006 in it, process 1 no checkpoint; put it on" in begun
    assert "process 0 finds no checkpoint in it, process 1 step-0000006; put it on" in stale
    assert told[1][2].startswith("DataError: there is no concept data source 'data'")
    assert told[0][2].startswith("TrainingError: process 1 of 2 cannot go on: there is no concept")
    assert not (tmp_path / "0" / "run").exists()
