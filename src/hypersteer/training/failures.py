"""What to tell the user about a run that had to stop."""

import errno
from pathlib import Path

import torch

from hypersteer.errors import SteeringError, TrainingError, one_line

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
UNWRITABLE = (*DISK_FULL, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)
LOST_PEER = ("Connection closed by peer", "Connection reset by peer", "ncclRemoteError")
"""What the transports between processes say when one of them has ended."""


def describe_failure(error: BaseException, step: int, path: Path) -> SteeringError | None:
    """What to tell the user about an error in a run; None if it is not theirs to mend.

    Args:
        error: what went wrong.
        step: when, counted from 1.
        path: the run's folder.
    """
    text = str(error)
    out_of_memory = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError)
        and ("can't allocate memory" in text or "not enough memory" in text)
    )
    if out_of_memory:
        return TrainingError(
            f"out of memory at step {step}; {_kept(path)}; raise optim.accumulation, or lower "
            "optim.batch_size or data.max_response_tokens"
        )
    if isinstance(error, RuntimeError) and "without overflow" in text:
        return TrainingError(
            f"a number is too large for float32 at step {step}; {_kept(path)}; lower "
            "optim.learning_rate or optim.weight_decay"
        )
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        return cannot_write(error, path, step)
    if any(sign in text for sign in LOST_PEER):
        return TrainingError(
            f"another process of this run ended at step {step}; its own message says why; "
            f"{_kept(path)}"
        )
    return None


def cannot_write(error: OSError, path: Path, step: int) -> TrainingError:
    """The error for a run's folder that takes no more, or nothing at all, at a step."""
    return TrainingError(
        f"cannot write to '{path}' at step {step}: {reason(error)}; {_kept(path)}; "
        "mend that and run the same command again"
    )


def _kept(path: Path) -> str:
    found = sorted((path / "checkpoints").glob("step-*"))
    return f"the checkpoint '{found[-1]}' is intact" if found else "no checkpoint was due yet"


def reason(error: OSError) -> str:
    """Why something could not be written."""
    full = error.errno in DISK_FULL or "No space left" in str(error)
    return "the disk is full" if full else one_line(error)
