"""Marks of tests that need an evaluation harness, and what they ask for."""

from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HINT = "`make test-harnesses` installs it"


def needs(module, name):
    """Skip, with a reason, where a harness is not installed."""
    return [
        pytest.mark.harnesses,
        pytest.mark.filterwarnings("default"),  # other libraries' own
        pytest.mark.skipif(find_spec(module) is None, reason=f"{name} is not installed; {HINT}"),
    ]


LM_EVAL = needs("lm_eval", "lm-evaluation-harness")
INSPECT = needs("inspect_ai", "Inspect")
