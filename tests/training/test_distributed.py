"""Two processes with half the rows each do what one process does with all of them."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hypersteer.config import to_dict
from hypersteer.errors import ConfigError
from hypersteer.training.loop import train
from training.worlds import metrics, settings, step_lines, validation_lines

CHILD = Path(__file__).with_name("child.py")


def launch(config, folder, processes=2):
    """Run the settings under torchrun; what the run told.

    `accelerate launch --cpu` starts one process only, whatever `--num_processes` says (it leaves
    several to MPI); torchrun sets what Accelerate reads.
    """
    file = folder / "settings.json"
    file.write_text(json.dumps(to_dict(config)))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
    command += ["--master_addr", "127.0.0.1", "--master_port", str(free_port())]
    done = subprocess.run(
        [*command, str(CHILD), str(file)],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,  # 5 s on a quiet machine; much more where others keep the cores busy
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-20000:]
    return done.stderr


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def runs(world, lm, tmp_path_factory, cache):
    """The same run on one process with 8 rows a step, and on two with 4 each."""
    folder = tmp_path_factory.mktemp("distributed")
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYPERSTEER_CACHE", str(cache))
        for processes, rows in ((1, 8), (2, 4)):
            config = settings(
                world,
                folder / str(processes),
                loss={"contrast": 1.0},
                # The rate is small, since AdamW makes steps of the rounding of tiny gradients.
                optim={"steps": 6, "learning_rate": 2e-4, "batch_size": rows, "accumulation": 2},
                validate_every=3,
            )
            found[processes] = (config, Path(config.out))
        train(found[1][0], lm)
        told = launch(found[2][0], folder)
    assert told.count("training on 24 rows") == 1  # the other process is silent
    return found


def weights(out, step):
    return load_file(out / f"checkpoints/step-{step:07d}/model.safetensors")


@pytest.mark.slow
def test_two_processes_equal_one(runs):
    (_, one), (_, two) = runs[1], runs[2]
    assert [line["step"] for line in step_lines(two)] == list(range(1, 7))
    assert [line["step"] for line in validation_lines(two)] == [3, 6]
    for line, other in zip(metrics(one), metrics(two), strict=True):
        assert line.keys() == other.keys()
        for name in line.keys() - {"tokens_per_s"}:
            assert other[name] == pytest.approx(line[name], abs=1e-5), name
    expected, found, earlier = weights(one, 6), weights(two, 6), weights(one, 3)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=0)
    moved = max(float((value - earlier[name]).abs().max()) for name, value in expected.items())
    assert moved > 1e-4  # what is compared is many tolerances away from standing still


@pytest.mark.slow
def test_two_processes_resume_exactly(runs):
    config, out = runs[2]
    straight = weights(out, 6)
    shutil.rmtree(out / "checkpoints/step-0000006")  # as if killed before its last checkpoint
    told = launch(config, out.parent)
    assert told.count("going on from step 3") == 1
    again = weights(out, 6)
    assert all(torch.equal(again[name], value) for name, value in straight.items())
    assert [line["step"] for line in step_lines(out)] == list(range(1, 7))
    assert [line["step"] for line in validation_lines(out)] == [3, 6]


@pytest.mark.slow
def test_another_number_of_processes_is_refused(runs, lm):
    config, out = runs[2]
    before = sorted(out.rglob("*"))
    with pytest.raises(ConfigError, match="run on 2 processes, not 1; go on with as many"):
        train(config, lm)
    assert sorted(out.rglob("*")) == before
