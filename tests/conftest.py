"""One torch thread, types checked while tests run, and the tiny base LMs as fixtures."""

from jaxtyping import install_import_hook

with install_import_hook("hypersteer", "beartype.beartype"):
    import hypersteer  # noqa: F401
import pytest
import tiny
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session", params=tiny.FAMILIES)
def lm(request):
    return tiny.lm_of(request.param)


@pytest.fixture(scope="session")
def tiny_llama():
    return tiny.lm_of("llama")
