"""Configurations of many architectures, tiny: what `docs/models.md` lists.

A name is what transformers calls the kind of model (`model_type`). `tiny.FAMILIES` has those that
all invariants are tested on.
"""

import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

import tiny

SLIDE = {"sliding_window": tiny.WINDOW}
HEAD = {"head_dim": 8}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8}
LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
}
IDS = {"vocab_size": tiny.VOCAB, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
OLD = {**IDS, "n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 256}
PLAIN, GQA = tiny.COMMON, tiny.GQA
FULL, SLIDING, CONV = "full_attention", "sliding_attention", "conv"

OPTIONS: dict[str, dict] = {
    "apertus": GQA,
    "arcee": GQA,
    "bamba": {**GQA, **MAMBA, "attn_layer_indices": [1, 3], "mamba_n_groups": 1},
    "biogpt": PLAIN,
    "bitnet": GQA,
    "bloom": {**IDS, "hidden_size": 32, "n_layer": 4, "n_head": 4, "initializer_range": 0.2},
    "codegen": {**OLD, "rotary_dim": 4},
    "cohere": GQA,
    "cohere2": {**GQA, **SLIDE, **HEAD},
    "ctrl": {**OLD, "dff": 48},
    "deepseek_v2": {**PLAIN, **LATENT, "n_group": 1, "topk_group": 1},
    "deepseek_v3": {**PLAIN, **LATENT, "n_group": 2, "topk_group": 1},
    "ernie4_5": {**GQA, **HEAD},
    "exaone4": {**GQA, **SLIDE},
    "falcon": {**IDS, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4},
    "falcon_h1": {**GQA, **MAMBA, **HEAD, "mamba_d_ssm": 64, "mamba_n_groups": 1},
    "gemma": {**GQA, **HEAD},
    "gemma2": tiny.FAMILIES["gemma2"].options,
    "gemma3_text": tiny.FAMILIES["gemma3"].options,
    "gemma3n_text": {
        **GQA,
        **HEAD,
        **SLIDE,
        "num_kv_shared_layers": 2,
        "vocab_size_per_layer_input": tiny.VOCAB,
        "hidden_size_per_layer_input": 8,
        "intermediate_size": [48] * 4,
        "activation_sparsity_pattern": [0.0] * 4,
        "laurel_rank": 4,
        "layer_types": [SLIDING, FULL] * 2,
    },
    "glm": {**GQA, **HEAD},
    "glm4": {**GQA, **HEAD},
    "gpt2": tiny.FAMILIES["gpt2"].options,
    "gpt_bigcode": {**OLD, "n_inner": 48},
    "gpt_neo": {
        **IDS,
        "hidden_size": 32,
        "num_layers": 4,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 2]],
        "window_size": tiny.WINDOW,
        "max_position_embeddings": 256,
        "intermediate_size": 48,
    },
    "gpt_neox": PLAIN,
    "gpt_oss": {**GQA, **HEAD, **LOCAL, **SLIDE},
    "gptj": {**OLD, "rotary_dim": 4},
    "granite": GQA,
    "granitemoe": {**GQA, **LOCAL},
    "granitemoehybrid": {
        **GQA,
        **LOCAL,
        **MAMBA,
        "layer_types": ["mamba", "attention"] * 2,
        "shared_intermediate_size": 16,
    },
    "helium": {**GQA, **HEAD},
    "hunyuan_v1_dense": {**GQA, **HEAD},
    "jamba": {
        **GQA,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "mamba_d_state": 8,
        "mamba_dt_rank": 4,
        "use_mamba_kernels": False,
    },
    "lfm2": tiny.EVERY["lfm2"].options,
    "llama": GQA,
    "mamba": {**IDS, "hidden_size": 32, "num_hidden_layers": 4, "state_size": 8},
    "mamba2": {
        **IDS,
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "state_size": 8,
        "head_dim": 16,
        "num_heads": 4,
        "n_groups": 1,
        "chunk_size": 16,
    },
    "minimax": {**GQA, **HEAD, **LOCAL, "block_size": 16},
    "mistral": {**GQA, **SLIDE},
    "mixtral": {**GQA, **LOCAL},
    "mpt": tiny.EVERY["mpt"].options,
    "nemotron": GQA,
    "olmo": GQA,
    "olmo2": GQA,
    "olmo3": {**GQA, **SLIDE},
    "olmoe": {**GQA, "num_experts": 4, "num_experts_per_tok": 2},
    "openai-gpt": OLD,
    "opt": {
        **PLAIN,
        "ffn_dim": 48,
        "word_embed_proj_dim": 32,
    },
    "persimmon": PLAIN,
    "phi": GQA,
    "phi3": GQA,
    "phimoe": {**GQA, **LOCAL},
    "qwen2": GQA,
    "qwen2_moe": {**GQA, **EXPERTS, "shared_expert_intermediate_size": 16},
    "qwen3": {**GQA, **HEAD},
    "qwen3_moe": {**GQA, **HEAD, **EXPERTS},
    "qwen3_next": {**GQA, **HEAD, **LINEAR, **EXPERTS, "shared_expert_intermediate_size": 16},
    "qwen3_5_text": {**GQA, **HEAD, **LINEAR},
    "recurrent_gemma": {
        **PLAIN,
        **HEAD,
        "num_key_value_heads": 1,
        "lru_width": 32,
        "attention_window_size": tiny.WINDOW,
        "conv1d_width": 4,
    },
    "rwkv": {
        **IDS,
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "context_length": 256,
        "attention_hidden_size": 32,
        "intermediate_size": 48,
    },
    "seed_oss": {**GQA, **HEAD},
    "smollm3": GQA,
    "stablelm": GQA,
    "starcoder2": {**GQA, **SLIDE},
    "xglm": {
        **IDS,
        "d_model": 32,
        "num_layers": 4,
        "attention_heads": 4,
        "ffn_dim": 48,
        "max_position_embeddings": 256,
    },
    "xlstm": {"vocab_size": tiny.VOCAB, "hidden_size": 64, "num_hidden_layers": 4, "num_heads": 4},
    "zamba2": {
        **GQA,
        "mamba_d_state": 8,
        "mamba_headdim": 16,
        "n_mamba_heads": 4,
        "layers_block_type": ["mamba", "hybrid"] * 2,
    },
}


def model_of(name: str) -> nn.Module | None:
    """A tiny random model, or None where this release of transformers does not know its kind."""
    if name not in CONFIG_MAPPING:
        return None
    config = CONFIG_MAPPING[name](**OPTIONS[name])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.1 * torch.randn_like(parameter))
    return model
