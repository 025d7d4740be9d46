"""Print a Markdown table of the validation figures of runs.

    python experiments/table.py runs/concept10/*

Reads each run's `metrics.jsonl` (steered figures at every validation) and its checkpoint's
`config.json` (figures of the unsteered and prompted base LM).
"""

import json
import sys
from pathlib import Path

COLUMNS = ("held_in_loss", "held_in_gap", "held_out_loss", "held_out_gap")


def row(name: str, step: object, figures: dict, prefix: str = "") -> str:
    """One line of the table."""
    cells = [f"{figures[key]:.3f}" if (key := prefix + c) in figures else "" for c in COLUMNS]
    return f"| {name} | {step} | {' | '.join(cells)} |"


def main(folders: list[str]) -> None:
    """Print the table of some run folders."""
    print("| run | step | held-in loss | held-in gap | held-out loss | held-out gap |")
    print("|---|---|---|---|---|---|")
    told: set[str] = set()
    for folder in map(Path, folders):
        card = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        for method in ("unsteered", "prompted"):
            line = row(method, "", card["metrics"], f"{method}_")
            if line not in told:
                print(line)
                told.add(line)
        for text in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
            figures = json.loads(text)
            if "held_in_loss" in figures:
                print(row(folder.name, figures["step"], figures))


if __name__ == "__main__":
    main(sys.argv[1:])
