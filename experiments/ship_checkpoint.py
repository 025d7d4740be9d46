"""Make the checkpoint that ships with the package: its data, its training, and what is given away.

    python experiments/ship_checkpoint.py                  # 45 minutes on one CPU core with bf16
    python experiments/ship_checkpoint.py --out elsewhere

The same command goes on where it was cut off. The model card takes `shipped_card.md`, whose figures
come from `hypersteer evaluate experiments/held_out_cpu.toml`.
"""

import argparse
from pathlib import Path

from hypersteer.checkpoint import BUNDLED, export, find_checkpoint
from hypersteer.config import TrainConfig, load_toml
from hypersteer.config.synthesis import DistillationConfig
from hypersteer.synthesis.distillation import distil
from hypersteer.training.loop import train

HERE = Path(__file__).parent
STRENGTH = 1.25
"""What becomes strength 1: as trained, the network is a little timid (docs/results.md)."""


def main() -> None:
    """Distil, train, export."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", default=str(HERE / "distilled_cpu.toml"))
    parser.add_argument("--config", default=str(HERE / "shipped_cpu.toml"))
    parser.add_argument("--out", default=str(find_checkpoint(BUNDLED)))
    given = parser.parse_args()
    distil(load_toml(given.data, DistillationConfig))
    result = train(load_toml(given.config, TrainConfig))
    about = (HERE / "shipped_card.md").read_text(encoding="utf-8")
    folder = export(result.folder, Path(given.out), about, strength=STRENGTH)
    size = (folder / "model.safetensors").stat().st_size / 2**20
    print(f"{folder}: step {result.best_step}, {size:.1f} MiB")


if __name__ == "__main__":
    main()
