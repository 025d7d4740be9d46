"""Bars of a build, with what it has cost so far."""

from collections.abc import Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from hypersteer.synthesis.teacher import Teacher


class Bar:
    """One stage's bar; it can grow, where requests are repeated."""

    def __init__(self, progress: Progress, task: TaskID, teacher: Teacher | None) -> None:
        self._progress = progress
        self._task = task
        self._teacher = teacher

    def advance(self, count: int) -> None:
        """So many more requests are finished."""
        self._progress.update(self._task, advance=count, spent=spent(self._teacher))

    def grow(self, count: int) -> None:
        """So many more requests are needed."""
        total = self._progress.tasks[self._task].total or 0
        self._progress.update(self._task, total=total + count)


class Bars:
    """Shows one stage after the other.

    Args:
        console: where; without a terminal, one line per stage is printed when it ends.
        teacher: whose cost is shown; None shows none.
    """

    def __init__(self, console: Console, teacher: Teacher | None = None) -> None:
        self._console = console
        self.teacher = teacher

    @contextmanager
    def stage(self, name: str, total: int) -> Generator[Bar]:
        """The bar of a stage of `total` requests."""
        live = self._console.is_terminal
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[spent]}"),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=self._console,
            disable=not live,
        ) as progress:
            task = progress.add_task(name, total=total, spent=spent(self.teacher))
            yield Bar(progress, task, self.teacher)
            finished = int(progress.tasks[0].completed)
        if finished and not live:
            self.say(f"{name}: {finished:,} done {spent(self.teacher)}".rstrip())

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def spent(teacher: Teacher | None) -> str:
    """Dollars of this run so far; empty where no prices are set."""
    cost = None if teacher is None else teacher.usage.cost
    return "" if cost is None else f"${cost:,.4f}"
