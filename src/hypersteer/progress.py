"""Progress bars: one look for every task that takes long."""

from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class ProgressBar:
    """A progress bar of one task, as a context manager; nothing moves where there is no terminal.

    Args:
        text: the task, in front of the bar.
        total: units of work; None until `update` tells it.
        console: where to show it; by default stderr.
        completed: units that were finished before.
        note: gives the text behind the bar.
        transient: whether the bar disappears at the end.
        active: whether to show anything at all.
        quarters: whether to print a line at every quarter where there is no terminal.
    """

    def __init__(
        self,
        text: str,
        total: float | None,
        *,
        console: Console | None = None,
        completed: float = 0,
        note: Callable[[], str] = str,
        transient: bool = False,
        active: bool = True,
        quarters: bool = False,
    ) -> None:
        self._text, self._note = text, note
        self._console = console or Console(stderr=True)
        self._quarters = quarters and active and not self._console.is_terminal
        self._quarter = 0
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=self._console,
            transient=transient,
            disable=not active or not self._console.is_terminal,
        )
        self._task = self._bar.add_task(text, total=total, completed=int(completed), note=note())

    def __enter__(self) -> "ProgressBar":
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Show the bar."""
        self._bar.start()
        if self._quarters and self.total:
            self._tell(100 * self.completed / self.total)  # the first quarter may take minutes

    def stop(self) -> None:
        """Leave the bar as it is, or remove it where it is transient."""
        self._bar.stop()

    @property
    def completed(self) -> float:
        """Units of work that are finished."""
        return self._bar.tasks[self._task].completed

    @property
    def total(self) -> float:
        """Units of work in all; 0 as long as that is not known."""
        return self._bar.tasks[self._task].total or 0

    def update(self, completed: float, total: float | None = None) -> None:
        """Show how many units are finished, and of how many, where that has changed."""
        self._bar.update(self._task, completed=completed, total=total, note=self._note())
        if self._quarters and self.total:
            quarter = int(4 * completed / self.total + 1e-9)
            if quarter > self._quarter:
                self._tell(25 * quarter)
            self._quarter = quarter

    def advance(self, units: float) -> None:
        """Show that more units are finished."""
        self.update(self.completed + units)

    def _tell(self, percent: float) -> None:
        self._console.print(f"{self._text}: {percent:.0f} %", markup=False, highlight=False)

    def grow(self, units: float) -> None:
        """Show that more units are to do."""
        self.update(self.completed, self.total + units)
