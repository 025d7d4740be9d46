"""One torch thread, tensor shapes checked while tests run, and the tiny base LMs."""

from jaxtyping import install_import_hook

# Before hypersteer is imported, and only where tensors go in and out: elsewhere beartype would
# forestall our own messages for bad input. An int may stand where a float is wanted.
CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
CHECKED = (
    "lm.base",
    "lm.cache",
    "lm.gate",
    "lm.likelihood",
    "lm.pooled",
    "lm.sampling",
    "lm.writers",
    "baselines",
    "conditioning.directions",
    "conditioning.search",
    "hypernet",
    "training.forward",
    "training.losses",
)
install_import_hook([f"hypersteer.{name}" for name in CHECKED], CHECKER)

import pytest  # noqa: E402
import torch  # noqa: E402

import tiny  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(scope="session", params=tiny.FAMILIES)
def lm(request):
    return tiny.lm_of(request.param)


@pytest.fixture(scope="session")
def tiny_llama():
    return tiny.lm_of("llama")
