"""Training runs in a process of its own, for tests that kill it or start several.

    python child.py settings.json [slow | hang-in-save | apart]

The file holds the settings of one run, or of several that follow each other. `slow` makes a step
last long enough to be killed within; `hang-in-save` stops for good in the second checkpoint, with
half of it written, after leaving the file `hanging` beside the settings; `apart` gives every
process a working folder of its own, named by its number, as on nodes that share no disk, and leaves
what stopped each run in `stopped-N.json` beside the settings.
"""

import json
import os
import sys
import time
from pathlib import Path

import torch

from hypersteer.config import TrainConfig, from_dict
from hypersteer.errors import SteeringError
from hypersteer.training import loop, state


def slow_down() -> None:
    step = loop._Run.step

    def slowly(self: loop._Run, number: int) -> object:
        time.sleep(0.1)
        return step(self, number)

    loop._Run.step = slowly


def hang_in_save(marker: Path) -> None:
    save = state.save_tensors

    def hang(tensors: dict, path: Path) -> None:
        save(tensors, path)
        if "step-0000006" in str(path):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            marker.touch()
            time.sleep(600)

    state.save_tensors = hang


def main() -> None:
    torch.set_num_threads(1)
    file = Path(sys.argv[1]).absolute()
    if "slow" in sys.argv:
        slow_down()
    if "hang-in-save" in sys.argv:
        hang_in_save(file.with_name("hanging"))
    raw = json.loads(file.read_text(encoding="utf-8"))
    configs = [from_dict(TrainConfig, one) for one in (raw if isinstance(raw, list) else [raw])]
    if "apart" in sys.argv:
        run_apart(configs, file.parent, os.environ["RANK"])
    else:
        for config in configs:
            loop.train(config)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # or a process may abort while it exits


def run_apart(configs: list[TrainConfig], folder: Path, rank: str) -> None:
    os.chdir(folder / rank)
    stopped = []
    for config in configs:
        try:
            loop.train(config)
        except SteeringError as error:
            stopped.append(f"{type(error).__name__}: {error}")
    (folder / f"stopped-{rank}.json").write_text(json.dumps(stopped))
    torch.distributed.barrier()  # all were told, or this waits for good


main()
