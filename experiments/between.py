"""A checkpoint between two, the second of which was trained on top of the first: mixed weights.

    python experiments/between.py bundled runs/plain --share 0.5 --out runs/half

Weights that were fine-tuned from others may be averaged with them (model soups, 2203.05482): what
each learnt stays in part. The card is the second one's.
"""

import argparse
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from hypersteer.checkpoint import find_checkpoint


def main() -> None:
    """Mix, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("first")
    parser.add_argument("second")
    parser.add_argument("--share", type=float, default=0.5, help="of the second")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    folders = [find_checkpoint(name) for name in (given.first, given.second)]
    first, second = (load_file(folder / "model.safetensors") for folder in folders)
    if first.keys() != second.keys():
        raise SystemExit("the two have other weights; one must be trained on top of the other")
    mixed = {
        name: first[name].float().lerp(value.float(), given.share) for name, value in second.items()
    }
    given.out.mkdir(parents=True, exist_ok=True)
    save_file(mixed, given.out / "model.safetensors")
    for name in ("config.json", "README.md"):
        shutil.copyfile(folders[1] / name, given.out / name)
    print(f"{given.out}: {given.share:g} of {given.second}, the rest of {given.first}")


if __name__ == "__main__":
    main()
