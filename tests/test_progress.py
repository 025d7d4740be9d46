"""Progress bars, on a terminal and without one."""

import io

import pytest
from rich.console import Console

from hypersteer.progress import ProgressBar


def console(*, terminal):
    return Console(file=io.StringIO(), force_terminal=terminal, width=120)


def test_without_a_terminal_it_prints_a_line_at_every_quarter():
    shown = console(terminal=False)
    with ProgressBar("answers", 8, console=shown, quarters=True) as bar:
        for _ in range(8):
            bar.advance(1)
    lines = [f"answers: {share} %" for share in (0, 25, 50, 75, 100)]
    assert shown.file.getvalue().split("\n")[:5] == lines


@pytest.mark.parametrize("options", [{}, {"active": False, "quarters": True}])
def test_without_a_terminal_it_prints_nothing_else(options):
    shown = console(terminal=False)
    with ProgressBar("answers", 2, console=shown, **options) as bar:
        bar.advance(2)
    assert not shown.file.getvalue().strip()


def test_it_counts_and_grows():
    with ProgressBar("answers", None, console=console(terminal=False), completed=1) as bar:
        assert (bar.completed, bar.total) == (1, 0)
        bar.update(2, 4)
        bar.advance(1)
        bar.grow(3)
        assert (bar.completed, bar.total) == (3, 7)


def test_a_terminal_shows_the_task_the_count_and_the_note():
    shown = console(terminal=True)
    notes = iter(["", "$0.10", "$0.20"])
    with ProgressBar("answers", 4, console=shown, note=lambda: next(notes)) as bar:
        bar.update(1)
        bar.update(3)
    last = shown.file.getvalue()
    assert "answers" in last
    assert "3/4" in last
    assert "$0.20" in last
