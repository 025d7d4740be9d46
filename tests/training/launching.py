"""Start training runs on several processes of this machine, and compare what they leave."""

import json
import os
import socket
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from children import ran
from hypersteer.config import to_dict
from training.worlds import metrics

CHILD = Path(__file__).with_name("child.py")
TORCHRUN = ("-m", "torch.distributed.run", "--master_addr", "127.0.0.1")


def launch(configs, folder, processes=2, how=(), file=None):
    """Run the settings on several processes, one run after the other; what the runs told.

    `accelerate launch --cpu` starts one process only, whatever `--num_processes` says (it leaves
    several to MPI); torchrun sets what Accelerate reads, and so does a launch file for GPUs.

    Args:
        configs: of the runs.
        folder: where the settings are put.
        processes: how many.
        how: words for `child.py`.
        file: Accelerate's launch file; by default torchrun starts them.
    """
    given = folder / "settings.json"
    given.write_text(json.dumps([to_dict(config) for config in configs]))
    if file is None:
        command = [*TORCHRUN, "--nproc_per_node", processes, "--master_port", free_port()]
    else:
        command = ["-m", "accelerate.commands.launch", "--config_file", file]
        command += ["--num_processes", processes, "--main_process_port", free_port()]
    done = ran(
        [sys.executable, *command, CHILD, given, *how],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-20000:]
    return done.stderr


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def weights(out, step):
    return load_file(out / f"checkpoints/step-{step:07d}/model.safetensors")


def assert_equal_runs(config, other, steps):
    one, two = Path(config.out), Path(other.out)
    for line, same in zip(metrics(one), metrics(two), strict=True):
        assert line.keys() == same.keys()
        for name in line.keys() - {"tokens_per_s"}:
            assert same[name] == pytest.approx(line[name], rel=1e-6, abs=2e-5), name
    expected, found = weights(one, steps), weights(two, steps)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=0)
    return expected
