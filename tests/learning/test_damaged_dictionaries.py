"""Dictionaries and labels with damaged files: each is told in one line."""

import json
from contextlib import suppress

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import tiny
from damages import DAMAGES, check_told, damaged, odd_values
from hypersteer.errors import ConfigError, DataError, SteeringError
from hypersteer.learning.dictionaries import read_dictionary
from hypersteer.learning.sae_labels import read_labels
from hypersteer.methods.sae import Sae
from learning.test_dictionaries import D, F, saelens, weights_of
from methods.cases import concepts_of

CONFIG = {
    "architecture": "topk",
    "activation_fn": "topk",
    "activation_fn_kwargs": {"k": 3},
    "hook_name": "blocks.1.hook_resid_post",
    "apply_b_dec_to_input": True,
    "rescale_acts_by_decoder_norm": False,
    "normalize_activations": "none",
    "neuronpedia_id": "a/1-b",
    "metadata": {"base_lm": "", "hook_point": "x"},
}


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", ["cfg.json", "sae_weights.safetensors", "params.npz"])
def test_a_damaged_file_is_told(tmp_path, name, how):
    folder = tmp_path / "sae"
    saelens(folder, weights_of(), **CONFIG)
    if name == "params.npz":
        (folder / "sae_weights.safetensors").unlink()
        np.savez_compressed(folder / name, **{k: v.numpy() for k, v in weights_of().items()})
    read_dictionary(str(folder))
    file = folder / name
    file.write_bytes(damaged(file.read_bytes(), how))
    if name == "cfg.json" and how == "an empty object":  # SAELens's defaults
        assert read_dictionary(str(folder)).top_k == 0
        return
    with pytest.raises(DataError) as told:
        read_dictionary(str(folder))
    check_told(told, file)


def test_settings_are_read_or_told(tmp_path, tiny_llama):
    """Whatever stands in them, nothing is left to break later."""
    folder, used, told = tmp_path / "sae", 0, 0
    weights = weights_of(width=tiny.WIDTH)
    labels = [{"index": 1, "description": "the sea", "maxActApprox": 2.0}]
    saelens(folder, weights, **CONFIG)
    (folder / "labels.jsonl").write_text("\n".join(map(json.dumps, labels)))
    for _, changed in odd_values(CONFIG):
        (folder / "cfg.json").write_text(json.dumps(changed))
        found = None
        with suppress(SteeringError):
            found = Sae(dictionary=str(folder)).fit(tiny_llama, tiny.site_of(tiny_llama), [])
            Sae(dictionary=str(folder)).fit(
                tiny_llama, tiny.site_of(tiny_llama), concepts_of(1, negatives=0)
            )
        used, told = used + (found is not None), told + (found is None)
    assert used > 20
    assert told > 20


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"W_enc": torch.full((D, F), torch.nan)}, "W_enc is not finite"),
        ({"b_dec": torch.full((D,), torch.inf)}, "b_dec is not finite"),
        ({"threshold": torch.full((F,), torch.nan)}, "threshold is not finite"),
        ({"W_dec": torch.zeros(0, D)}, "so no features"),
        ({"W_dec": torch.zeros(F)}, "so no features"),
        ({"b_enc": torch.ones(F, dtype=torch.bool)}, "b_enc holds torch.bool, not numbers"),
        ({"b_enc": torch.ones(F, dtype=torch.complex64)}, "b_enc holds torch.complex64"),
    ],
)
def test_weights_that_are_no_numbers_are_told(tmp_path, changes, told):
    folder = saelens(tmp_path / "sae", {**weights_of(), **changes})
    with pytest.raises(DataError, match=told):
        read_dictionary(folder)


def test_a_threshold_may_be_out_of_reach(tmp_path):
    weights = {**weights_of(), "threshold": torch.full((F,), torch.inf)}
    dictionary = read_dictionary(saelens(tmp_path / "sae", weights))
    assert not dictionary.latents(torch.randn(3, D)).any()


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_another_kind_of_file_by_that_name_is_told(tmp_path, suffix):
    file = tmp_path / f"params{suffix}"
    with file.open("wb") as out:
        np.save(out, np.ones(3))
    with pytest.raises(DataError) as told:
        read_dictionary(str(file))
    check_told(told, file)
    save_file({"x": torch.ones(1)}, file)
    with pytest.raises(DataError) as told:
        read_dictionary(str(file))
    check_told(told, file)


@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_labels_are_told(tmp_path, how):
    file = tmp_path / "labels.jsonl"
    whole = '{"index": "12", "description": "the sea"}\n{"index": 3, "description": "bees"}'
    file.write_bytes(damaged(whole.encode(), how))
    with pytest.raises(DataError) as told:
        read_labels(file)
    check_told(told, file)


def test_labels_are_read_or_told(tmp_path):
    file = tmp_path / "labels.jsonl"
    entry = {"index": 3, "description": "bees", "maxActApprox": 2.0}
    for _, changed in odd_values(entry):
        file.write_text(json.dumps(changed))
        with suppress(DataError):
            labels = read_labels(file)
            assert all(0 < highest < 1e308 for highest in labels.highest.values())
            assert all(0 <= feature < 10**12 for feature, _ in labels.texts)
    file.write_text(json.dumps({**entry, "index": "9" * 5000}))
    with pytest.raises(DataError, match="entry 0"):
        read_labels(file)


def test_a_name_that_is_no_text_is_told(tmp_path):
    folder = saelens(tmp_path / "sae", weights_of(), neuronpedia_id=5)
    with pytest.raises(ConfigError, match="neuronpedia_id is 5, not a text"):
        read_dictionary(folder)
