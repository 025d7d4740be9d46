"""What is found out when a base LM is loaded: missing weights, caches that are ignored, NaN."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
from hypersteer.errors import ModelError
from hypersteer.lm.base import BaseLM
from hypersteer.lm.load import load_lm


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("checks")
    tiny.model_of("llama").save_pretrained(path)
    tiny.tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def damaged(folder, tmp_path):
    """A copy of the model's folder, to be damaged."""
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def refused(path, *words):
    with pytest.raises(ModelError) as caught:
        load_lm(path, device="cpu")
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def keep(folder, weights):
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def test_weights_of_a_block_that_are_missing_are_named(damaged):
    weights = weights_of(damaged)
    keep(damaged, {key: value for key, value in weights.items() if "layers.2." not in key})
    refused(damaged, "model.layers.2.input_layernorm.weight", "more, which LlamaForCausalLM needs")


def test_renamed_weights_are_missing_too(damaged):
    keep(damaged, {f"renamed.{key}": value for key, value in weights_of(damaged).items()})
    refused(damaged, "lack")


@pytest.mark.parametrize(("depth", "word"), [(6, "lack"), (3, "has no place for")])
def test_a_configuration_of_other_depth_is_told(damaged, depth, word):
    config = json.loads((damaged / "config.json").read_text())
    config["num_hidden_layers"] = depth
    (damaged / "config.json").write_text(json.dumps(config))
    refused(damaged, word, "config.json")


def test_what_old_files_hold_besides_is_no_matter(damaged):
    more = {f"model.layers.{n}.self_attn.rotary_emb.inv_freq": torch.ones(4) for n in range(4)}
    keep(damaged, {**weights_of(damaged), **more, "score.weight": torch.ones(2, 32)})
    assert load_lm(damaged).depth == 4


def test_weights_that_are_not_finite_are_told(damaged):
    weights = weights_of(damaged)
    weights["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    keep(damaged, weights)
    refused(damaged, "not finite", "float32")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", b'{"version": "9.9", "model": {"type": "Later"}}'),
        ("config.json", b"[]"),
        ("config.json", b'"llama"'),
        ("model.safetensors", b"garbage"),
        ("chat_template.jinja", b" \n"),
        ("chat_template.jinja", b"{% for %}"),
        ("chat_template.jinja", b"{{ raise_exception('no') }}"),
        ("generation_config.json", b"[1]"),
    ],
)
def test_files_that_are_damaged_are_told_in_one_line(damaged, name, content):
    (damaged / name).write_bytes(content)
    refused(damaged)


def test_a_garbage_pickle_is_told_in_one_line(damaged):
    (damaged / "model.safetensors").unlink()
    (damaged / "pytorch_model.bin").write_bytes(b"\x80garbage")
    refused(damaged, f"cannot load the base LM '{damaged}'")


@pytest.mark.parametrize("length", [0, 3, 100, 5000])
def test_a_gguf_that_was_cut_is_told_and_leaves_nothing_in_the_cache(tmp_path, monkeypatch, length):
    monkeypatch.setenv("HYPERSTEER_CACHE", str(tmp_path / "cache"))
    whole = b"GGUF" + (3).to_bytes(4, "little") + bytes(range(256)) * 20
    (tmp_path / "cut.gguf").write_bytes(whole[:length])
    refused(tmp_path / "cut.gguf", "cut.gguf")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


class IgnoresCache(torch.nn.Module):
    """A token mixer that sees whole prompts only: no cache is read or written."""

    def __init__(self, mixer):
        super().__init__()
        self.mixer = mixer

    def forward(self, *args, **kwargs):
        for name in ("past_key_values", "cache"):
            kwargs.pop(name, None)
        kwargs["attention_mask"] = None
        return self.mixer(*args, **kwargs)


def test_a_model_that_ignores_its_cache_is_refused():
    model = copy.deepcopy(tiny.model_of("llama"))
    for layer in model.model.layers:
        layer.self_attn = IgnoresCache(layer.self_attn)
    with pytest.raises(ModelError, match=r"padding|cache"):
        BaseLM.of(model, tiny.tokenizer(), name="cacheless")


def test_windows_are_known_by_all_their_names():
    assert tiny.lm_of("llama").context_window == 256
    assert tiny.lm_of("gpt2").context_window == 256
    assert tiny.lm_of("mpt").context_window == 256
    assert tiny.lm_of("bloom").context_window == 2**31  # linear biases have no limit
