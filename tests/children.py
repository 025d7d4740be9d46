"""Processes that tests start, which are gone when the test is over, also when it fails.

A child that waits for a test which has failed would wait for good, and the suite with it.
"""

import contextlib
import subprocess

import psutil

LONGEST_S = 300
"""Seconds; much more than any takes, since others may keep the cores busy."""


class Child(subprocess.Popen):
    """A process that has ended at the end of a `with`, or is killed then, with all it started."""

    def __init__(self, command, **options):
        super().__init__([str(word) for word in command], **options)

    def __exit__(self, kind, error, trace):
        try:
            if kind is None:
                self.wait(LONGEST_S)
        finally:
            if self.poll() is None:
                self.kill_all()
            super().__exit__(kind, error, trace)

    def kill_all(self):
        """Kill it and what it started."""
        own = psutil.Process(self.pid)
        for process in (*own.children(recursive=True), own):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def said(self, seconds=LONGEST_S):
        """What it still writes, to standard output and to standard error, until it ends."""
        return self.communicate(timeout=seconds)

    def ended_well(self):
        """What it still writes to standard output, until it ends without an error."""
        said, wrong = self.said()
        assert self.returncode == 0, wrong[-20000:]
        return said


def talking(command, **options):
    """Start a process whose standard output and error are read, as text."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return Child(command, **pipes | options)


def ran(command, **options):
    """Run a process to its end; as `subprocess.run` would, but what it started ends with it."""
    with talking(command, **options) as child:
        said, wrong = child.said()
    return subprocess.CompletedProcess(child.args, child.returncode, said, wrong)
