"""Tiny base LMs and untrained checkpoints in folders, as vLLM and the plug-in read them."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

import tiny
from hypersteer.checkpoint import write_folder
from hypersteer.config.vllm_plugin import PluginConfig
from hypersteer.lm.base import BaseLM
from hypersteer.vllm_plugin.front import Front
from serving.test_looks import with_card

STEER = ["talk like a pirate", "the sea", "be gloomy, and brief", "bees and honey"]


SHAPE = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2}
WIDE = {"llama": LlamaConfig, "qwen3": Qwen3Config}
"""Families with heads of 32 numbers, the fewest that vLLM's attention takes on the CPU."""


def wide(family: str) -> BaseLM:
    """A random base LM that vLLM can run."""
    tokenizer = tiny.tokenizer()
    config = WIDE[family](
        **SHAPE,
        num_hidden_layers=4,
        num_key_value_heads=2,
        head_dim=32,
        vocab_size=len(tokenizer),
        max_position_embeddings=256,
        tie_word_embeddings=False,
        initializer_range=0.2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return BaseLM.of(model, tokenizer, name=f"wide {family}")


def saved(folder: Path, variant="no-context", family="llama-tiny", prompted=False, **options):
    """Write a base LM and a checkpoint; returns steerer, model folder and checkpoint folder."""
    lm = wide(family) if family in WIDE else tiny.lm_of(family.removesuffix("-tiny"))
    steerer = tiny.steerer_of(lm, variant, **options)
    if prompted:
        steerer = with_card(steerer, training={"loss": {"prompted": True}})
    model, checkpoint = folder / "model", folder / "checkpoint"
    steerer.lm.model.save_pretrained(model)
    steerer.lm.tokenizer.save_pretrained(model)
    checkpoint.mkdir()
    write_folder(checkpoint, steerer.hypernet.state_dict(), steerer.card)
    return steerer, model, checkpoint


def front_of(folder: Path, variant="no-context", *, settings=None, **options):
    """A front end for a tiny base LM; returns the steerer as well, and the model's folder."""
    steerer, model, checkpoint = saved(folder, variant, **options)
    given = {"edits": str(folder / "edits"), **(settings or {})}
    config = PluginConfig(checkpoint=str(checkpoint), **given)
    return Front(config, str(model)), steerer, model
