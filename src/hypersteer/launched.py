"""What a launcher tells its processes: `accelerate launch` and torchrun set the same variables."""

import contextlib
import os
import sys
from typing import NoReturn


def rank() -> int:
    """Return this process's number among all that were launched together; 0 without a launcher."""
    return _number("RANK", 0)


def processes() -> int:
    """Return how many processes were launched together, on all machines; 1 without a launcher."""
    return max(1, _number("WORLD_SIZE", 1))


def local_rank() -> int | None:
    """Return this process's number on its machine, which is that of its GPU; None if unlaunched."""
    found = _number("LOCAL_RANK", -1)
    return None if found < 0 else found


def neighbours() -> int:
    """Return how many processes were launched together on this machine, this one included."""
    return max(1, _number("LOCAL_WORLD_SIZE", 1))


def shares(wanted: bool) -> bool:
    """Return whether a process shares its folder: told so, or launched beside others.

    Args:
        wanted: what the settings say.
    """
    return wanted or processes() > 1


def cores() -> int:
    """Return how many cores this process may use: its share of those of the machine."""
    if hasattr(os, "sched_getaffinity"):
        found = len(os.sched_getaffinity(0))
    else:
        found = os.cpu_count() or 1
    return max(1, found // neighbours())


def leave(code: int) -> NoReturn:
    """End a process that was launched beside others at once, without the interpreter's own end.

    Threads of the transport outlive their process group (DTensor's caches hold its mesh). One that
    wants the interpreter while that ends aborts a process whose work is done, and its launcher
    calls the whole run failed.

    Args:
        code: the exit code; after 0 the process group is given up, as the others do too.
    """
    distributed = sys.modules.get("torch.distributed")
    if not code and distributed and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


def _number(variable: str, otherwise: int) -> int:
    try:
        return int(os.environ.get(variable, ""))
    except ValueError:
        return otherwise
