"""Training runs in a process of its own, for tests that kill it or start several.

    python child.py settings.json [slow | hang-in-save | apart | sizes]

The file holds the settings of one run, or of several that follow each other. `slow` makes a step
last long enough to be killed within; `hang-in-save` stops for good in the second checkpoint, with
half of it written, after leaving the file `hanging` beside the settings; `apart` gives every
process a working folder of its own, named by its number, as on nodes that share no disk, and leaves
what stopped each run in `stopped-N.json` beside the settings; `sizes` leaves in `sizes-N.json` how
many numbers of weights, gradients and optimizer state process N held in the last run.
"""

import json
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import torch

from hypersteer.config import TrainConfig, from_dict
from hypersteer.errors import SteeringError
from hypersteer.launched import leave
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


def measure_sizes(marker: Path) -> None:
    adamw_step = torch.optim.AdamW.step

    def numbers(tensors: Iterable[torch.Tensor]) -> int:
        own = (getattr(tensor, "_local_tensor", tensor) for tensor in tensors)
        storages = {store.data_ptr(): store.nbytes() for store in map(storage, own)}
        return sum(storages.values()) // 4

    def storage(tensor: torch.Tensor) -> torch.UntypedStorage:
        return tensor.untyped_storage()

    def step(self: torch.optim.AdamW, *args: object) -> object:
        result = adamw_step(self, *args)
        weights = [weight for group in self.param_groups for weight in group["params"]]
        sizes = {
            "weights": numbers(weights),
            "gradients": numbers(weight.grad for weight in weights),
            "state": numbers(self.state[weight]["exp_avg"] for weight in weights),
        }
        marker.write_text(json.dumps(sizes), encoding="utf-8")
        return result

    torch.optim.AdamW.step = step


def main() -> None:
    torch.set_num_threads(1)
    file = Path(sys.argv[1]).absolute()
    if "slow" in sys.argv:
        slow_down()
    if "hang-in-save" in sys.argv:
        hang_in_save(file.with_name("hanging"))
    if "sizes" in sys.argv:
        measure_sizes(file.with_name(f"sizes-{os.environ['RANK']}.json"))
    raw = json.loads(file.read_text(encoding="utf-8"))
    configs = [from_dict(TrainConfig, one) for one in (raw if isinstance(raw, list) else [raw])]
    if "apart" in sys.argv:
        run_apart(configs, file.parent, os.environ["RANK"])
    else:
        for config in configs:
            loop.train(config)
    leave(0)


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
