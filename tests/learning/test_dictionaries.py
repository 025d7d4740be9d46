"""Dictionaries read from files written here, against latents computed feature by feature."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import tiny
from hypersteer.edits.sites import Site
from hypersteer.errors import ConfigError, DataError
from hypersteer.learning.dictionaries import find_dictionary, read_dictionary

F, D = 12, 5


def weights_of(seed=0, size=F, width=D):
    generator = torch.Generator().manual_seed(seed)
    return {
        "W_enc": torch.randn(width, size, generator=generator),
        "b_enc": torch.randn(size, generator=generator),
        "W_dec": torch.randn(size, width, generator=generator),
        "b_dec": torch.randn(width, generator=generator),
        "threshold": torch.rand(size, generator=generator),
    }


def saelens(folder, weights, **config):
    folder.mkdir(exist_ok=True, parents=True)
    save_file({k: v.contiguous() for k, v in weights.items()}, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps(config), encoding="utf-8")
    return str(folder)


def by_hand(weights, hidden, *, threshold=True, shifted=False, top_k=0, rescaled=False):
    """Latents of one state, feature by feature, in plain numbers."""
    state = hidden - weights["b_dec"] if shifted else hidden
    found = []
    for f in range(weights["W_dec"].shape[0]):
        raw = float(state @ weights["W_enc"][:, f] + weights["b_enc"][f])
        if rescaled:
            raw *= float(weights["W_dec"][f].norm())
        limit = float(weights["threshold"][f]) if threshold else 0.0
        found.append(raw if raw > max(limit, 0.0) else 0.0)
    if top_k:
        kept = sorted(found, reverse=True)[:top_k]
        found = [z if z in kept else 0.0 for z in found]
    return torch.tensor(found)


def some_states(count=7):
    return 2 * torch.randn(count, D, generator=torch.Generator().manual_seed(9))


def check(path, weights, **options):
    dictionary = read_dictionary(path)
    hidden = some_states()
    expected = torch.stack([by_hand(weights, h, **options) for h in hidden])
    found = dictionary.latents(hidden)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert 0 < (found > 0).float().mean() < 1
    rows = weights["W_dec"]
    if options.get("rescaled"):
        rows = rows / rows.norm(dim=1, keepdim=True)
    torch.testing.assert_close(
        dictionary.decode(found), expected @ rows + weights["b_dec"], atol=1e-4, rtol=1e-4
    )
    some = dictionary.reader([7, 2], torch.device("cpu"))
    torch.testing.assert_close(some(hidden), expected[:, [7, 2]], atol=1e-5, rtol=1e-5)
    return dictionary


def test_gemmascope_npz(tmp_path):
    weights = weights_of()
    np.savez(tmp_path / "params.npz", **{name: value.numpy() for name, value in weights.items()})
    assert check(str(tmp_path), weights).site is None
    check(str(tmp_path / "params.npz"), weights)


def test_bare_safetensors_in_any_case_and_dtype(tmp_path):
    weights = {name: value.bfloat16() for name, value in weights_of().items()}
    save_file({name.lower(): value for name, value in weights.items()}, tmp_path / "x.safetensors")
    check(str(tmp_path / "x.safetensors"), {k: v.float() for k, v in weights.items()})


def test_saelens_jumprelu(tmp_path):
    folder = saelens(
        tmp_path,
        weights_of(),
        architecture="jumprelu",
        normalize_activations="none",
        apply_b_dec_to_input=False,
        metadata={"hook_name": "blocks.3.hook_resid_post", "neuronpedia_id": "m/3-res"},
    )
    dictionary = check(folder, weights_of())
    assert (dictionary.site, dictionary.neuronpedia, dictionary.size) == (Site(3), "m/3-res", F)


@pytest.mark.parametrize("said", [{"apply_b_dec_to_input": True}, {}])
def test_saelens_standard_shifts_its_input_unless_told_otherwise(tmp_path, said):
    weights = {k: v for k, v in weights_of().items() if k != "threshold"}
    folder = saelens(
        tmp_path, weights, architecture="standard", normalize_activations=False, **said
    )
    check(folder, weights, threshold=False, shifted=True)


@pytest.mark.parametrize(
    "config",
    [
        {"architecture": "topk", "k": 3},
        {"architecture": "topk", "activation_fn_kwargs": {"k": 3}},
        {"architecture": "standard", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3}},
        {"architecture": "topk", "k": 3, "rescale_acts_by_decoder_norm": True},
    ],
)
def test_saelens_topk(tmp_path, config):
    weights = {k: v for k, v in weights_of().items() if k != "threshold"}
    rescaled = config.get("rescale_acts_by_decoder_norm", False)
    folder = saelens(tmp_path, weights, apply_b_dec_to_input=False, **config)
    check(folder, weights, threshold=False, top_k=3, rescaled=rescaled)


@pytest.mark.parametrize(
    ("hook", "site"),
    [
        ("blocks.4.hook_resid_pre", Site(3)),
        ("blocks.4.hook_attn_out", Site(4, "attention")),
        ("blocks.4.hook_mlp_out", Site(4, "mlp")),
        ("model.layers.4", Site(4)),
        ("blocks.0.hook_resid_pre", None),
        ("something.else", None),
    ],
)
def test_the_site_is_read_from_the_hook(tmp_path, hook, site):
    for key in ("hook_name", "hook_point"):  # as SAELens calls it, and as it called it before
        folder = saelens(tmp_path / key, weights_of(), architecture="jumprelu", **{key: hook})
        assert find_dictionary(folder).site == site


def test_a_sub_layer_behind_a_norm_is_refused(tmp_path):
    weights = weights_of(width=tiny.WIDTH)
    dictionary = read_dictionary(saelens(tmp_path, weights, hook_name="blocks.1.hook_mlp_out"))
    dictionary.check(tiny.lm_of("llama"), Site(1, "mlp"))
    with pytest.raises(ConfigError, match="behind a norm, as TransformerLens has it"):
        dictionary.check(tiny.lm_of("gemma2"), Site(1, "mlp"))


def test_a_changed_file_is_read_anew(tmp_path):
    folder = saelens(tmp_path, weights_of(0), architecture="jumprelu")
    first = read_dictionary(folder)
    assert read_dictionary(folder) is first
    saelens(tmp_path, weights_of(1), architecture="jumprelu")
    torch.testing.assert_close(read_dictionary(folder).decoder, weights_of(1)["W_dec"])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architecture": "gated"}, "architecture 'gated' is not supported; known: jumprelu"),
        ({"architecture": "topk"}, "needs a number k above 0, not 0"),
        ({"normalize_activations": "layer_norm"}, "'layer_norm' is not supported; fold it"),
        ({"activation_fn_str": "tanh-relu"}, "activation_fn 'tanh-relu' is not supported"),
        ({"finetuning_scaling_factor": True}, "finetuning_scaling_factor is not supported"),
    ],
)
def test_what_would_be_read_wrongly_is_refused(tmp_path, config, message):
    folder = saelens(tmp_path, weights_of(), **config)
    with pytest.raises(ConfigError, match=message):
        find_dictionary(folder)


def test_missing_and_damaged_files(tmp_path):
    for path, message in (
        ("", "no SAE dictionary is given: set `dictionary`"),
        (str(tmp_path), f"no SAE dictionary at '{tmp_path}'"),
    ):
        with pytest.raises(ConfigError, match=message + r".*python experiments/train_sae\.py"):
            find_dictionary(path)
    (tmp_path / "params.npz").write_bytes(b"PK\x03\x04 no zip")
    with pytest.raises(DataError, match="cannot read"):
        read_dictionary(str(tmp_path))
    np.savez(tmp_path / "params.npz", W_enc=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match=r"cannot read .*allow_pickle"):
        read_dictionary(str(tmp_path))
    np.savez(tmp_path / "params.npz", W_enc=np.zeros((2, 3)))
    with pytest.raises(DataError, match="lacks b_dec, b_enc, w_dec and has W_enc"):
        read_dictionary(str(tmp_path))
    (tmp_path / "cfg.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(DataError, match=r"cannot read .*cfg\.json"):
        read_dictionary(str(tmp_path))


def test_wrong_shapes_and_a_lost_threshold(tmp_path):
    weights = {**weights_of(), "b_enc": torch.zeros(D)}
    with pytest.raises(DataError, match=rf"b_enc has shape \[{D}\], expected \[{F}\]"):
        read_dictionary(saelens(tmp_path / "a", weights))
    del weights["threshold"]
    weights["b_enc"] = torch.zeros(F)
    with pytest.raises(DataError, match="lacks the threshold"):
        read_dictionary(saelens(tmp_path / "b", weights, architecture="jumprelu"))


def test_another_base_lm_or_site_is_refused(tmp_path, tiny_llama):
    weights = weights_of(width=tiny.WIDTH)
    config = {"architecture": "jumprelu", "hook_name": "blocks.1.hook_resid_post"}
    fitting = saelens(tmp_path / "a", weights, **config, base_lm=tiny_llama.fingerprint)
    read_dictionary(fitting).check(tiny_llama, Site(1))
    with pytest.raises(ConfigError, match=r"residual@1, but the site is mlp@2; set site\.layer"):
        read_dictionary(fitting).check(tiny_llama, Site(2, "mlp"))
    with pytest.raises(ConfigError, match=f"base LM abc.*llama .{tiny_llama.fingerprint}"):
        read_dictionary(saelens(tmp_path / "b", weights, **config, base_lm="abc")).check(
            tiny_llama, Site(1)
        )
    with pytest.raises(ConfigError, match=f"width {D}, but those of llama have {tiny.WIDTH}"):
        read_dictionary(saelens(tmp_path / "c", weights_of(), **config)).check(tiny_llama, Site(1))
