"""`concepts distil` in a process of its own, with a judge whose scores can be worked out.

    python shared_child.py settings.json

Every answer that is judged is a line of the file `judged` beside the settings.
"""

import json
import os
import sys
import time
from pathlib import Path

import torch

from hypersteer.config import from_dict
from hypersteer.config.synthesis import DistillationConfig
from hypersteer.synthesis.distillation import distil
from synthesis.test_distillation import Lengths


class Logging(Lengths):
    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file

    def judge(self, answers: list, done: object = None) -> list:
        out = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for answer in answers:
            os.write(out, (json.dumps(list(answer)) + "\n").encode())
        os.close(out)
        time.sleep(0.5)  # so that the other process has its share
        return super().judge(answers, done)


if __name__ == "__main__":
    torch.set_num_threads(1)
    settings = Path(sys.argv[1])
    config = from_dict(DistillationConfig, json.loads(settings.read_text(encoding="utf-8")))
    folder, _ = distil(config, judge=Logging(settings.with_name("judged")))
    print(folder)
