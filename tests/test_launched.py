"""What a launcher says, and what follows for threads and devices."""

import os
import signal
import subprocess
import sys

import pytest
import torch

from children import ran
from hypersteer import launched
from hypersteer.config import LMConfig
from hypersteer.lm import load
from training.worlds import make_model


@pytest.fixture
def one_of_four(monkeypatch):
    for name, value in (("RANK", 6), ("LOCAL_RANK", 2), ("LOCAL_WORLD_SIZE", 4), ("WORLD_SIZE", 8)):
        monkeypatch.setenv(name, str(value))


def test_without_a_launcher_there_is_one_process(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert (launched.rank(), launched.local_rank()) == (0, None)
    assert (launched.processes(), launched.neighbours()) == (1, 1)
    assert not launched.shares(wanted=False)
    assert launched.shares(wanted=True)
    assert launched.cores() == len(os.sched_getaffinity(0))
    monkeypatch.setenv("RANK", "first")
    assert launched.rank() == 0


def test_a_launched_process_knows_its_place(one_of_four, monkeypatch):
    assert (launched.rank(), launched.local_rank()) == (6, 2)
    assert (launched.processes(), launched.neighbours()) == (8, 4)
    assert launched.shares(wanted=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(18)))
    assert launched.cores() == 4
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert launched.cores() == 1


@pytest.mark.parametrize(("gpus", "device"), [(8, "cuda:2"), (2, "cuda:0")])
def test_each_process_of_a_machine_has_a_gpu(one_of_four, monkeypatch, gpus, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert str(load.pick_device(None)) == device
    assert str(load.pick_device("cuda:1")) == "cuda:1"
    monkeypatch.delenv("LOCAL_RANK")
    assert str(load.pick_device(None)) == "cuda"


@pytest.mark.parametrize(("told", "threads"), [(None, 3), ("1", 7)])
def test_processes_of_a_machine_share_its_cores(one_of_four, monkeypatch, tmp_path, told, threads):
    """Unless the launcher, or who called it, has said how many threads each has."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)))
    monkeypatch.delenv("OMP_NUM_THREADS")
    if told:
        monkeypatch.setenv("OMP_NUM_THREADS", told)
    found = [7]
    monkeypatch.setattr(torch, "set_num_threads", found.append)
    load.open_lm(LMConfig(name=str(make_model(tmp_path / "lm")), device="cpu"))
    assert found[-1] == threads


ABORTS_AT_ITS_END = (
    "import atexit, os, resource, runpy, sys; atexit.register(os.abort); "
    "resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); "
)
"""What a thread of the transport may do to a process that ends beside others; nothing is dumped."""


def ended(code: str, processes: int) -> subprocess.CompletedProcess[str]:
    return ran(
        [sys.executable, "-c", ABORTS_AT_ITS_END + code],
        env={**os.environ, "WORLD_SIZE": str(processes), "RANK": "0"},
    )


COMMAND = "sys.argv = ['hypersteer', {}]; runpy.run_module('hypersteer', run_name='__main__')"


@pytest.mark.parametrize(
    ("code", "exit_code", "said"),
    [
        ("from hypersteer.launched import leave; print('done', end=''); leave(3)", 3, "done"),
        (COMMAND.format("'--version'"), 0, "hypersteer "),
        (COMMAND.format("'generat'"), 2, "unknown command 'generat'"),
    ],
)
def test_a_launched_process_ends_before_a_thread_can_abort_it(code, exit_code, said):
    done = ended(code, processes=2)
    assert done.returncode == exit_code
    assert said in done.stdout + done.stderr
    assert ended(code.replace("leave(3)", "sys.exit(3)"), processes=1).returncode == -signal.SIGABRT
