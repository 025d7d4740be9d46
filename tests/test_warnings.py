"""Whatever a library warns of fails the test that gave it cause: users see none of it."""

import logging
import warnings

import pytest

import tiny
from hypersteer.lm.cache import new_cache


def test_a_warning_is_an_error():
    for kind in (FutureWarning, DeprecationWarning, UserWarning):
        with pytest.raises(kind):
            warnings.warn("old", kind, stacklevel=1)


def test_a_logged_warning_is_heard(silent_libraries):
    logging.getLogger("transformers.models.llama").info("fine")
    assert silent_libraries == []
    logging.getLogger("transformers.models.llama").warning("%s is old", "this")
    assert silent_libraries == ["transformers.models.llama: this is old"]
    silent_libraries.clear()


def test_a_deprecated_call_of_a_model_is_an_error(tiny_llama):
    """The net holds for calls that pass through torch, to which the warning is attributed."""
    import transformers

    if tuple(map(int, transformers.__version__.split(".")[:2])) < (5, 24):
        pytest.skip("the name was not deprecated yet")
    ids = tiny.tokenizer()("Hi", return_tensors="pt").input_ids
    with pytest.raises(FutureWarning, match="past_key_values"):
        tiny_llama.model(ids, past_key_values=new_cache(tiny_llama.model))
