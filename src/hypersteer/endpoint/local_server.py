"""A local engine: llama.cpp through `xllamacpp`, started and stopped by us, asked like any server.

It runs in a process of its own, so that it can fail without taking ours along, and only this
process can ask it: it listens on the loopback and wants a key that was drawn for it.
"""

import contextlib
import hashlib
import importlib.util
import json
import secrets
import subprocess
import sys
import tempfile
import threading
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

from hypersteer.errors import EndpointError, one_line
from hypersteer.files import edges, is_file
from hypersteer.launched import cores

MODULE = "hypersteer.endpoint.llama_process"
PACKAGE = "xllamacpp"
GOODBYE_S = 5.0
"""How long an engine may take to end by itself."""


class Reached(NamedTuple):
    """Where a running engine listens, and the key that it wants."""

    url: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """How an engine runs.

    Attributes:
        parallel: requests that are answered together.
        context: tokens of one request with its reply, at most.
        threads: threads that compute; by default one per core that this process may use, which is
            its share where several were launched on the machine. Fewer are faster where other
            programs are busy, since threads wait for each other.
    """

    parallel: int = 4
    context: int = 2048
    threads: int | None = None


@dataclass(slots=True)
class _Running:
    process: subprocess.Popen[str]
    log: IO[str]
    reached: Reached


@dataclass(slots=True, eq=False, weakref_slot=True)
class LocalServer:
    """A GGUF model that is loaded when it is first asked; threads may share it.

    Args:
        model: the GGUF file.
        settings: how it runs.

    Raises:
        EndpointError: if the file or the `xllamacpp` package is missing.
    """

    model: Path
    settings: EngineSettings = EngineSettings()
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _running: _Running | None = None

    def __post_init__(self) -> None:
        if not is_file(self.model):
            raise EndpointError(f"no such file: '{self.model}'")
        if importlib.util.find_spec(PACKAGE) is None:
            raise EndpointError(
                f"'{self.model.name}' needs llama.cpp: pip install \"hypersteer[local]\""
            )

    @property
    def name(self) -> str:
        """Name of the file with a hash of its size and edges: other weights, another name."""
        size = self.model.stat().st_size
        digest = hashlib.sha256(str(size).encode() + edges(self.model))
        return f"{self.model.stem} {digest.hexdigest()[:8]}"

    def start(self) -> Reached:
        """Return where the engine listens; load the model where it does not run.

        Raises:
            EndpointError: if it cannot be loaded.
        """
        with self._lock:
            if self._running is None or self._running.process.poll() is not None:
                self._running = _start(self.model, self.settings)
                weakref.finalize(self, _stop, self._running)
            return self._running.reached

    def stop(self) -> None:
        """End the engine and give its memory back; the next request loads it again."""
        with self._lock:
            if self._running is not None:
                _stop(self._running)
                self._running = None

    def ended(self) -> str | None:
        """Say how the engine ended without being told to; None while it runs or has not begun."""
        running = self._running
        if running is None or (code := running.process.poll()) is None:
            return None
        return f"the engine of '{self.model.name}' ended ({_why(code, running.log)})"


def _start(model: Path, settings: EngineSettings) -> _Running:
    key = secrets.token_urlsafe()
    told = {
        "model": str(model),
        "key": key,
        "parallel": settings.parallel,
        "context": settings.context,
        "threads": settings.threads or cores(),
    }
    log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
    process = subprocess.Popen(
        [sys.executable, "-m", MODULE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        start_new_session=True,  # an interrupt is ours to handle
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(json.dumps(told) + "\n")
        process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        why = _why(process.wait(), log)
        for pipe in (process.stdin, process.stdout, log):
            with contextlib.suppress(OSError):  # what was not read
                pipe.close()
        raise EndpointError(
            f"cannot load '{model.name}' into llama.cpp ({why}): see that the file is whole and "
            "that there is enough memory"
        )
    url: Any = json.loads(answer)["url"]
    return _Running(process, log, Reached(f"{url}/v1", key))


def _stop(running: _Running) -> None:
    process = running.process
    with contextlib.suppress(OSError):
        assert process.stdin is not None
        process.stdin.close()
    try:
        process.wait(GOODBYE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    assert process.stdout is not None
    process.stdout.close()
    running.log.close()


def _why(code: int, log: IO[str]) -> str:
    """Return how a process ended, and the last line that it wrote."""
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    with contextlib.suppress(OSError, ValueError):
        log.seek(0)
        lines = [line for line in log.read().splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line.lower()] or lines
        return f"{how}: {one_line(errors[0], 160)}" if errors else how
    return how
