"""The base LMs that come as wheels, for real: their files are whole, they load, and they write."""

import pytest

from hypersteer.lm.catalogue import MODELS, find_known
from hypersteer.lm.fetch import _hash
from hypersteer.lm.load import load_lm
from hypersteer.lm.stored import fetched_gguf, stored_gguf

WITH_FILES = [model.alias for model in MODELS if len(model.wheels) > 1]

pytestmark = [pytest.mark.models, pytest.mark.slow]


@pytest.fixture(params=WITH_FILES)
def model(request):
    """A base LM whose GGUF file is in the user's cache; nothing is fetched here."""
    known = find_known(request.param)
    if stored_gguf(known) is None:
        pytest.skip(f"not on this disk; `hypersteer models get {known.alias}` fetches it")
    return known


def test_the_file_is_what_the_table_says(model):
    path = fetched_gguf(model)
    assert path.stat().st_size == model.size
    assert _hash(path) == model.sha256


def test_it_loads_and_writes_words(model):
    if model.parameters > 600:
        pytest.skip("takes 6 GB in float32")
    lm = load_lm(model.alias, device="cpu")
    # Some files hold the embeddings a second time, in other bits, for the output.
    ends = (lm.model.get_input_embeddings().weight, lm.model.get_output_embeddings().weight)
    blocks = [
        weights for weights in lm.model.parameters() if all(weights is not end for end in ends)
    ]
    counted = sum(weights.numel() for weights in (*blocks, ends[0]))
    assert counted / 1e6 == pytest.approx(model.parameters, rel=0.01)
    assert "Paris" in lm.generate("What is the capital of France?", max_new_tokens=16)
