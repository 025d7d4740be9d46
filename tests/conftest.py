"""One torch thread, tensor shapes checked while tests run, and the tiny base LMs.

Warnings are errors (pyproject.toml says which are not); what libraries tell through logging
instead fails the test too, see `silent_libraries`.
"""

import logging
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # processes that tests start have one thread too

from jaxtyping import install_import_hook

# Before hypersteer is imported, and only where tensors go in and out: elsewhere beartype would
# forestall our own messages for bad input. An int may stand where a float is wanted.
CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
CHECKED = (
    "analysis.attention",
    "analysis.edit_vectors",
    "analysis.effect",
    "analysis.geometry",
    "analysis.lens",
    "conditions.directions",
    "conditions.gate",
    "conditions.search",
    "edits.kinds",
    "edits.low_rank",
    "edits.vector",
    "engine.batch",
    "engine.cache",
    "engine.guidance",
    "engine.running",
    "engine.sampling",
    "learning",
    "lm.base",
    "lm.cache",
    "lm.likelihood",
    "lm.pooling",
    "lm.writers",
    "methods",
    "hypernet",
    "stats",
    "training.forward",
    "training.objectives",
)
install_import_hook([f"hypersteer.{name}" for name in CHECKED], CHECKER)

import pytest  # noqa: E402
import torch  # noqa: E402

import tiny  # noqa: E402
from tiers import mark_redundant  # noqa: E402
from wheels import index, known  # noqa: E402, F401  (fixtures)

torch.set_num_threads(1)


@pytest.hookimpl(wrapper=True, tryfirst=True)  # before `-m "not exhaustive"` is looked at
def pytest_collection_modifyitems(items):
    mark_redundant(items, list(tiny.EVERY))
    yield
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)  # or one worker would be left with them


LEFT_OUT = [0]
"""Exhaustive tests that were not wanted; a list since workers of pytest-xdist report theirs."""


def pytest_deselected(items):
    LEFT_OUT.append(sum(item.get_closest_marker("exhaustive") is not None for item in items))


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left out"] = max(LEFT_OUT)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    LEFT_OUT.append(getattr(node, "workeroutput", {}).get("left out", 0))


def pytest_terminal_summary(terminalreporter):
    if left := max(LEFT_OUT):
        terminalreporter.write_line(f"{left} exhaustive tests left to `make test-all`")


LIBRARIES = ("transformers", "torch", "accelerate", "peft", "huggingface_hub", "safetensors")
"""Libraries that warn of a call of ours, a deprecated one say, on their own loggers."""

NOT_OURS = ("`loss_type=None` was set in the config", "is falling back to its")
"""Said where a test compares with transformers' own loss, which the package never asks for; and to
users of models whose optional fast kernels are not installed, who had better know."""


class Heard(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        if not any(part in line for part in NOT_OURS):
            self.lines.append(f"{record.name}: {line}")


# From the start of the session: fixtures that tests share load models too.
HEARD = Heard()
for library in LIBRARIES:
    logging.getLogger(library).addHandler(HEARD)


@pytest.fixture(autouse=True)
def silent_libraries():
    """No library logs a warning: users would read it on standard error.

    A test that gives a library cause to complain takes the lines out of what this yields.
    """
    yield HEARD.lines
    told = HEARD.lines.copy()
    HEARD.lines.clear()
    assert not told


@pytest.fixture(autouse=True)
def no_engine_at_hand(monkeypatch):
    """What large models the user's cache holds changes no test: no judge is taken from there."""
    monkeypatch.setattr("hypersteer.judges.choose.PACKAGE", "no_such_package")


@pytest.fixture(scope="session", params=tiny.FAMILIES)
def lm(request):
    return tiny.lm_of(request.param)


@pytest.fixture(scope="session")
def tiny_llama():
    return tiny.lm_of("llama")
