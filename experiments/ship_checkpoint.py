r"""Make the checkpoint that ships with the package: its training, and what is given away.

    python experiments/ship_checkpoint.py                  # 17 minutes on two CPU cores with bf16
    python experiments/ship_checkpoint.py --out elsewhere
    python experiments/ship_checkpoint.py --config experiments/beside_larger_cpu.toml \
      --about experiments/larger_card.md --out larger  # of the 0.5B base LM, too large to ship

The same command goes on where it was cut off. The model card takes `shipped_card.md`, or what
`--about` names, whose figures come from the commands that it names.
"""

import argparse
from pathlib import Path

from hypersteer.checkpoint import BUNDLED, export, find_checkpoint
from hypersteer.config import TrainConfig, load_toml
from hypersteer.training.loop import train

HERE = Path(__file__).parent


def main() -> None:
    """Train, export."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--config", default=str(HERE / "shipped_cpu.toml"))
    parser.add_argument("--about", default=str(HERE / "shipped_card.md"))
    parser.add_argument("--out", default=str(find_checkpoint(BUNDLED)))
    given = parser.parse_args()
    result = train(load_toml(given.config, TrainConfig))
    about = Path(given.about).read_text(encoding="utf-8")
    folder = export(result.folder, Path(given.out), about)
    size = (folder / "model.safetensors").stat().st_size / 2**20
    print(f"{folder}: step {result.best_step}, {size:.1f} MiB")


if __name__ == "__main__":
    main()
