"""A training run in a process of its own, for tests that kill it or start several.

    python child.py settings.json [slow | hang-in-save]

`slow` makes a step last long enough to be killed within; `hang-in-save` stops for good in the
second checkpoint, with half of it written, after leaving the file `hanging` beside the settings.
"""

import json
import sys
import time
from pathlib import Path

import torch

from hypersteer.config import TrainConfig, from_dict
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
    file = Path(sys.argv[1])
    if "slow" in sys.argv:
        slow_down()
    if "hang-in-save" in sys.argv:
        hang_in_save(file.with_name("hanging"))
    loop.train(from_dict(TrainConfig, json.loads(file.read_text(encoding="utf-8"))))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # or a process may abort while it exits


main()
