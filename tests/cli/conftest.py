"""A tiny random Llama on disk, and a checkpoint that two training steps made for it."""

import io
import json
import sys

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hypersteer.cli.main import main

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WINDOW = 512
SMALL_RUN = """\
validate_every = 2
[hypernet]
blocks = 1
[data]
held_out_concepts = [3]
held_in_prompts = 1
max_held_out_rows = 1
max_concepts = 2
max_response_tokens = 32
[optim]
steps = 1
batch_size = 2
"""


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("RANK", raising=False)


@pytest.fixture(scope="session")
def tiny_lm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny-lm")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|im_start|>", "<|im_end|>", "<|pad|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(["Follow this steering prompt in your answer: user"] * 9, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|pad|>"
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=5,
        num_attention_heads=4,
        max_position_embeddings=WINDOW,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def settings(tmp_path_factory):
    path = tmp_path_factory.mktemp("settings") / "small.toml"
    path.write_text(SMALL_RUN)
    return str(path)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, tiny_lm, settings):
    folder = str(tmp_path_factory.mktemp("runs") / "small")
    assert main(["train", settings, "--out", folder, "--base-lm.name", tiny_lm]) == 0
    return folder


@pytest.fixture
def run(capsys):
    """Runs a command; gives the exit code, what went to stdout, and what to stderr."""

    def call(*argv):
        capsys.readouterr()
        code = main([str(one) for one in argv])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def fails(run):
    """Runs a command that must end with one line of error; gives that line."""

    def call(*argv):
        code, out, err = run(*argv)
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        return err

    return call


@pytest.fixture
def json_lines():
    return lambda text: [json.loads(line) for line in text.split("\n") if line]


@pytest.fixture
def typed(monkeypatch):
    """Puts lines on the standard input."""
    return lambda *lines: monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines) + "\n"))
