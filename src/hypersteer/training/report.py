"""What a run tells while it goes: a progress bar, metrics.jsonl, and TensorBoard if wanted."""

import json
import math
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from hypersteer.errors import ConfigError
from hypersteer.files import to_json, write_text
from hypersteer.progress import ProgressBar


class Reporter:
    """Shows and keeps the metrics of a run; silent in all processes but the first.

    Args:
        metrics: the JSONL file.
        steps: optimizer steps of the whole run.
        start: steps taken before (a resumed run drops later lines of the file).
        active: whether this is the first process.
        tensorboard: whether to write for TensorBoard as well.

    Raises:
        ConfigError: if TensorBoard is wanted and not installed.
    """

    def __init__(
        self, metrics: Path, steps: int, start: int, *, active: bool, tensorboard: bool
    ) -> None:
        self._active = active
        self._metrics = metrics
        self._console = Console(stderr=True, quiet=not active)
        self._steps = steps
        self._started = time.perf_counter()
        self._tokens = 0
        self._writer = _tensorboard(metrics.parent) if tensorboard and active else None
        if active:
            metrics.parent.mkdir(parents=True, exist_ok=True)
            _drop_later(metrics, start)
        self._note = ""
        self._bar = ProgressBar(
            "training",
            steps,
            console=self._console,
            completed=start,
            note=lambda: self._note,
            active=active,
        )
        self._shown: dict[str, float] = {}

    def __enter__(self) -> "Reporter":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        if self._writer is not None:
            self._writer.close()

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def step(self, step: int, values: dict[str, float], tokens: int) -> None:
        """Record a training step.

        Args:
            step: steps taken, this one included.
            values: its metrics.
            tokens: real tokens of the step, over all processes.
        """
        self._tokens += tokens
        rate = self._tokens / (time.perf_counter() - self._started)
        self._record({"step": step, **values, "tokens_per_s": round(rate, 1)})
        self._shown.update({"loss": values["loss"]})
        shown = " ".join(f"{name} {value:.3f}" for name, value in self._shown.items())
        self._note = f"{shown} {rate:.0f} tok/s"
        self._bar.update(step)
        if not self._console.is_terminal and (step % 10 == 0 or step == self._steps):
            self.say(f"step {step}/{self._steps} {self._note}")

    def validation(self, step: int, values: dict[str, float], baselines: dict[str, float]) -> None:
        """Record validation metrics and show them beside the base LM's own."""
        self._record({"step": step, **values})
        self._shown.update({k.replace("_", "-"): v for k, v in values.items()})
        table = metrics_table(f"step {step}", {**baselines, **values})
        if table.row_count:  # nothing is held out where all rows are trained on
            self._console.print(table)

    def _record(self, values: dict[str, Any]) -> None:
        if not self._active:
            return
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(to_json(values) + "\n")
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, values["step"])


def metrics_table(title: str, metrics: dict[str, float]) -> Table:
    """Lay out losses and gaps of the unsteered, the prompted and the steered base LM."""
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for heading in ("", "held-in loss", "held-in gap", "held-out loss", "held-out gap"):
        table.add_column(heading, justify="left" if not heading else "right")
    for label, prefix in (("unsteered", "unsteered_"), ("prompted", "prompted_"), ("steered", "")):
        keys = [f"{prefix}{s}_{k}" for s in ("held_in", "held_out") for k in ("loss", "gap")]
        cells = [f"{metrics[key]:.3f}" if key in metrics else "" for key in keys]
        if any(cells):
            table.add_row(label, *cells)
    return table


def _drop_later(metrics: Path, start: int) -> None:
    """Forget lines of steps that a resumed run takes again."""
    if not metrics.exists():
        return
    lines = metrics.read_text(encoding="utf-8").splitlines()
    kept = [values for values in map(_values, lines) if values.get("step", math.inf) <= start]
    # Written anew, since earlier versions wrote NaN as JSON does not have it.
    write_text(metrics, "".join(f"{to_json(values)}\n" for values in kept))


def _values(line: str) -> dict[str, Any]:
    """Return what a line holds; empty if it is torn."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(
            "tensorboard = true needs TensorBoard: pip install 'hypersteer[tensorboard]'"
        ) from error
    return SummaryWriter(str(folder / "tensorboard"))
