"""Loading base LMs from folders and GGUF files, and what is said when it cannot be done."""

import copy
import json
import shutil
from typing import ClassVar

import pytest
import torch
from transformers import modeling_gguf_pytorch_utils

import tiny
from gguf_files import write_gguf
from hypersteer.errors import ConfigError, ModelError
from hypersteer.lm import load as load_module
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import collate
from hypersteer.lm.load import load_lm, pick_device, pick_dtype
from hypersteer.progress import ProgressBar

PROMPT = "Tell me about your day."


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny Llama as `save_pretrained` leaves it."""
    path = tmp_path_factory.mktemp("models") / "tiny llama"
    tiny.model_of("llama").save_pretrained(path)
    tiny.tokenizer().save_pretrained(path)
    return path


def logits(lm):
    batch = collate([lm.chat.prompt(PROMPT)], pad_id=lm.chat.pad_id)
    with torch.no_grad():
        return lm.logits(batch)


def test_a_folder_loads_as_what_was_saved(folder, tiny_llama):
    lm = load_lm(folder, device="cpu")
    assert torch.equal(logits(lm), logits(tiny_llama))
    assert lm.fingerprint == tiny_llama.fingerprint
    assert lm.name == str(folder)
    assert lm.chat.prompt(PROMPT) == tiny_llama.chat.prompt(PROMPT)
    assert lm.chat.end_of_turn == (1,)
    assert (lm.width, lm.depth, lm.vocab, lm.context_window) == (32, 4, 300, 256)
    assert (lm.dtype, lm.device) == (torch.float32, torch.device("cpu"))
    assert not lm.model.training
    assert not any(p.requires_grad for p in lm.model.parameters())


def test_the_fingerprint_is_that_of_the_weights_not_of_the_dtype(folder, tiny_llama):
    half = load_lm(str(folder), device="cpu", dtype="bfloat16")
    assert half.dtype == torch.bfloat16
    assert half.fingerprint == tiny_llama.fingerprint
    prints = {tiny.lm_of(family).fingerprint for family in tiny.FAMILIES}
    assert len(prints) == len(tiny.FAMILIES)
    assert tiny.lm_of("llama", seed=1).fingerprint not in prints


def test_generation_settings_add_ends_of_turn(folder, tmp_path):
    model = tiny.model_of("llama")
    model.generation_config.eos_token_id = [3, 1, 2]
    model.save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    assert load_lm(tmp_path).chat.end_of_turn == (1, 3, 2)  # the tokenizer's own first


def refused(error, name, *words, **options):
    with pytest.raises(error) as caught:
        load_lm(name, **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def test_unknown_names_are_told_with_the_nearest(monkeypatch, tmp_path):
    refused(ModelError, "smollm2-135m-instuct", "did you mean 'smollm2-135m-instruct'")
    refused(ModelError, "gemma-2-2b", "did you mean 'gemma-2-2b-it'")
    refused(ModelError, "zzz", "'zzz'", "smollm2-135m-instruct", "folder")
    refused(ModelError, str(tmp_path / "nowhere"), "nowhere")
    refused(ModelError, "./runs/model", "./runs/model")
    refused(ModelError, str(tmp_path / "no.gguf"), "no.gguf")
    (tmp_path / "empty").mkdir()
    refused(ModelError, str(tmp_path / "empty"), "empty", "config.json")

    def unreachable(name):
        raise OSError(f"{name} is not a local folder\nand the hub is away")

    monkeypatch.setattr(load_module.AutoConfig, "from_pretrained", unreachable)
    refused(ModelError, "nobody/nothing", "nobody/nothing", "Hub")


def test_damaged_folders_are_told(folder, tmp_path, silent_libraries):
    for name in ("cut", "json", "kind"):
        for file in folder.iterdir():
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    (tmp_path / "json" / "config.json").write_text("{")
    (tmp_path / "kind" / "config.json").write_text('{"model_type": "no-such-kind"}')
    for name in ("cut", "json", "kind"):
        refused(ModelError, tmp_path / name, f"cannot load the base LM '{tmp_path / name}'")
    silent_libraries.clear()  # transformers has its own word on an unknown kind of model


def test_a_config_with_endless_blocks_is_told_at_once(folder, tmp_path):
    """Else transformers makes them, one empty block after the other, for hours."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2**31}))
    with pytest.raises(ModelError, match="says 2147483648 decoder blocks"):
        load_lm(copy)


def test_unknown_settings_are_told_before_anything_is_loaded(folder, monkeypatch):
    monkeypatch.setattr(load_module.AutoTokenizer, "from_pretrained", lambda *_a, **_k: 1 / 0)
    refused(ConfigError, folder, "float23", "did you mean 'float32'", dtype="float23")
    refused(ConfigError, folder, "'gpu'", "cuda", device="gpu")
    refused(ConfigError, folder, "'int4'", "4bit, 8bit", quantization="int4")
    if not torch.cuda.is_available():
        refused(ConfigError, folder, "cuda:1", "cpu", device="cuda:1")
    monkeypatch.setattr(load_module.importlib.util, "find_spec", lambda _name: None)
    refused(ConfigError, folder, "hypersteer[quantization]", quantization="4bit")


def test_the_dtype_follows_the_device(monkeypatch):
    assert pick_dtype(None, torch.device("cpu")) == torch.float32
    assert pick_dtype(None, torch.device("cuda")) == torch.bfloat16
    assert pick_dtype("float16", torch.device("cpu")) == torch.float16
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device(None) == torch.device("cpu")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device(None) == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device(None) == torch.device("cuda")


def test_a_gguf_file_loads_once_and_then_from_the_cache(tmp_path, tiny_llama, monkeypatch):
    monkeypatch.setenv("HYPERSTEER_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "tiny.gguf"
    write_gguf(path, tiny_llama.model, tiny.tokenizer())
    lm = load_lm(path, device="cpu")
    torch.testing.assert_close(logits(lm), logits(tiny_llama), rtol=0, atol=1e-5)
    assert lm.fingerprint == tiny_llama.fingerprint
    assert lm.chat.prompt(PROMPT) == tiny_llama.chat.prompt(PROMPT)
    assert len(list((tmp_path / "cache" / "models").iterdir())) == 1
    monkeypatch.setattr("hypersteer.lm.weights._convert", lambda *_: pytest.fail("converted again"))
    assert torch.equal(logits(load_lm(path, device="cpu")), logits(lm))


def test_a_gguf_file_of_a_model_whose_head_is_its_embeddings(tmp_path, monkeypatch):
    monkeypatch.setenv("HYPERSTEER_CACHE", str(tmp_path / "cache"))
    model = copy.deepcopy(tiny.model_of("llama"))
    model.lm_head.weight = model.model.embed_tokens.weight
    model.config.tie_word_embeddings = True
    write_gguf(tmp_path / "tied.gguf", model, tiny.tokenizer())
    lm = load_lm(tmp_path / "tied.gguf", device="cpu")
    assert lm.model.lm_head.weight is lm.model.model.embed_tokens.weight
    expected = BaseLM.of(model, tiny.tokenizer(), name="tied")
    torch.testing.assert_close(logits(lm), logits(expected), rtol=0, atol=1e-5)


def test_reading_a_gguf_file_shows_our_bar_only(tmp_path, tiny_llama, monkeypatch, capfd):
    monkeypatch.setenv("HYPERSTEER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("hypersteer.lm.weights.ProgressBar", Watched)
    write_gguf(tmp_path / "tiny.gguf", tiny_llama.model, tiny.tokenizer())
    load_lm(tmp_path / "tiny.gguf", device="cpu")
    tensors = len(tiny_llama.model.state_dict())
    (bar,) = Watched.made
    assert bar.seen == [(0, tensors), *((n, tensors) for n in range(1, tensors + 1))]
    assert capfd.readouterr() == ("", "")
    assert load_module.hf_logging.is_progress_bar_enabled() is False
    assert "tqdm" in str(modeling_gguf_pytorch_utils.tqdm)


class Watched(ProgressBar):
    """A progress bar that remembers what it has shown."""

    made: ClassVar[list] = []

    def __init__(self, *args, **named):
        super().__init__(*args, **named)
        self.seen = []
        self.made.append(self)

    def update(self, *args):
        super().update(*args)
        self.seen.append((self.completed, self.total))


def test_a_damaged_gguf_file_is_told_and_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("HYPERSTEER_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    refused(ModelError, path, "bad.gguf")
    assert list((tmp_path / "cache" / "models").iterdir()) == []


def test_quantised_weights_go_to_the_device_that_was_asked_for(monkeypatch):
    monkeypatch.setattr(load_module.importlib.util, "find_spec", lambda _name: object())
    options = load_module._quantized("8bit", torch.device("cuda:1"))
    assert options["device_map"] == {"": torch.device("cuda:1")}
    assert options["quantization_config"].load_in_8bit
