"""Base LMs in llama.cpp's format."""

import json
import math

import gguf
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import tiny


def write_gguf(path, model, tokenizer):
    """A Llama in llama.cpp's format: its names, order of rotary channels and tokenizer."""
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    bpe = json.loads(tokenizer.backend_tokenizer.to_str())
    special = {token["id"] for token in bpe["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokenizer.convert_ids_to_tokens(range(config.vocab_size)))
    writer.add_token_types([3 if token in special else 1 for token in range(config.vocab_size)])
    writer.add_token_merges([" ".join(pair) for pair in bpe["model"]["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(tokenizer.chat_template)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, value in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        for part, count in heads.items():
            if part in name:
                value = value.unflatten(0, (count, 2, -1)).transpose(1, 2).flatten(0, 2)
        writer.add_tensor(names.get_name(name, (".weight", ".bias")), value.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_talker(path, window=4096, length=30):
    """A tiny random Llama that llama.cpp runs; what it writes are letters, and comes to an end.

    One channel of its states is the same in every place and layer, so that the likelihoods of
    spaces and of the end are what we want them to be.

    Args:
        path: of the GGUF file.
        window: tokens that it reads.
        length: of what it writes, in tokens, on average.
    """
    tokenizer = tiny.tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=window,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        fixed = 1.0  # the other channels are small, so after the norm this one is about sqrt(32)
        model.model.embed_tokens.weight[:, 0] = fixed
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = 0
            layer.mlp.down_proj.weight[0] = 0
        head = model.lm_head.weight
        head.normal_(std=0.5)
        head[:, 0] = -9.0
        letters = [
            token
            for token in range(len(tokenizer))
            if (piece := tokenizer.decode([token])).isascii()
            and piece.isalpha()
            and piece.islower()
        ]
        head[letters, 0] = 0
        share = len(letters) / 32**0.5
        for token, wanted in (
            (tokenizer.convert_tokens_to_ids("\u0120"), 1 / 5),
            (tokenizer.eos_token_id, 1 / length),
        ):
            head[token] = 0
            head[token, 0] = math.log(wanted * share * 32**0.5) / 32**0.5
    write_gguf(path, model, tokenizer)
    return path
