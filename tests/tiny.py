"""Tiny random base LMs of every family, one small real tokenizer, and untrained steerers."""

import dataclasses
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from packaging.version import Version
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    Lfm2Config,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    MptConfig,
    Olmo2Config,
    PhiConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from hypersteer.config import HypernetConfig
from hypersteer.edits.edit import VectorEdit
from hypersteer.edits.kinds import plus
from hypersteer.edits.sites import Site
from hypersteer.engine.decoding import Decoding
from hypersteer.engine.generate import generate_ids
from hypersteer.engine.requests import as_request
from hypersteer.errors import ModelError
from hypersteer.hypernet.card import Card
from hypersteer.hypernet.maker import write_edits
from hypersteer.hypernet.network import Hypernet, new_hypernet
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import Chat, PromptIds
from hypersteer.lm.writers import Writer
from hypersteer.steering import Steerer
from hypersteer.training.forward import Steered, steered_losses

VOCAB, WIDTH, DEPTH, WINDOW = 300, 32, 4, 16
CORPUS = [
    "You are a helpful assistant.",
    "system\n",
    "user\n",
    "assistant\n",
    "Tell me about your day.\n\nTalk like a pirate, and say why the sky is blue.\n\n",
    "the sea the ship the day the bees and the honey\n\nnaïve café",
    *["\n\n"] * 4,
]
TEMPLATE = """\
{{ bos_token }}{% if messages[0]['role'] != 'system' %}<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif %}{% for m in messages %}<|im_start|>{{ m['role'] }}
{{ m['content'] }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with every byte and a few merges (one is two line feeds), and ChatML.

    As many do, it puts a BOS before any text unless told otherwise, and so does its template.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", special_tokens=[("<|bos|>", 0)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=["<|bos|>", "<|im_end|>", "<|pad|>", "<|im_start|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(CORPUS * 5, trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<|bos|>", eos_token="<|im_end|>", pad_token="<|pad|>"
    )
    made.chat_template = TEMPLATE
    assert len(made) == VOCAB
    assert len(made("\n\n", add_special_tokens=False)["input_ids"]) == 1
    return made


COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
GQA = {**COMMON, "num_key_value_heads": 2}
SLIDING, FULL = "sliding_attention", "full_attention"


class Family(NamedTuple):
    """A configuration, and where a test finds blocks and sub-layers by name."""

    config: type
    options: dict
    blocks: str = "model.layers"
    attention: str = "self_attn"
    mlp: str = "mlp"
    instead: str = ""
    """What blocks without attention have in its place."""


FAMILIES = {
    "llama": Family(LlamaConfig, GQA),
    "gemma2": Family(
        Gemma2Config,
        {**GQA, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": WINDOW},
    ),
    "gemma3": Family(
        Gemma3TextConfig,
        {
            **GQA,
            "head_dim": 8,
            "query_pre_attn_scalar": 8,
            "sliding_window": WINDOW,
            "layer_types": [SLIDING, SLIDING, FULL, SLIDING],
        },
    ),
    "qwen3": Family(Qwen3Config, {**GQA, "head_dim": 8}),
    "gpt2": Family(
        GPT2Config,
        {
            **COMMON,
            "n_embd": WIDTH,
            "n_layer": DEPTH,
            "n_head": 4,
            "n_positions": 256,
            "n_inner": 48,
        },
        "transformer.h",
        "attn",
    ),
    "gpt_neox": Family(GPTNeoXConfig, COMMON, "gpt_neox.layers", "attention"),
    "phi": Family(PhiConfig, GQA),
    "mistral": Family(MistralConfig, {**GQA, "sliding_window": WINDOW}),
    "olmo2": Family(Olmo2Config, GQA),
    "mixtral": Family(MixtralConfig, {**GQA, "num_local_experts": 4, "num_experts_per_tok": 2}),
}

MORE = {
    # Positions as linear biases, and blocks that carry a state instead of keys and values.
    "bloom": Family(
        BloomConfig,
        {
            "vocab_size": VOCAB,
            "hidden_size": WIDTH,
            "n_layer": DEPTH,
            "n_head": 4,
            "initializer_range": 0.2,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 2,
        },
        "transformer.h",
        "self_attention",
    ),
    "mpt": Family(
        MptConfig,
        {
            "vocab_size": VOCAB,
            "d_model": WIDTH,
            "n_layers": DEPTH,
            "n_heads": 4,
            "expansion_ratio": 2,
            "max_seq_len": 256,
            "initializer_range": 0.2,
        },
        "transformer.blocks",
        "attn",
        "ffn",
    ),
    "lfm2": Family(
        Lfm2Config,
        {
            **GQA,
            "layer_types": ["conv", FULL, "conv", FULL],
            "block_ff_dim": 48,
            "block_auto_adjust_ff_dim": False,
        },
        mlp="feed_forward",
        instead="conv",
    ),
}
"""Further families, for the invariants; tests of methods that look for parts by name have none."""

EVERY = {**FAMILIES, **MORE}


def model_of(family: str, seed: int = 0) -> nn.Module:
    """A random float32 model, none of whose norms and biases are trivial."""
    kind = EVERY[family]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(kind.config(**kind.options), dtype=torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@cache
def lm_of(family: str, seed: int = 0) -> BaseLM:
    """The family's base LM, made once; a test ends where an old transformers cannot run it."""
    try:
        return BaseLM.of(model_of(family, seed), tokenizer(), name=family)
    except ModelError as error:
        if family in MORE and older_than_the_page():
            pytest.skip(f"this release of transformers cannot run it: {error}")
        raise


def older_than_the_page() -> bool:
    """Whether transformers is older than what docs/models.md tells about."""
    lock = Path(__file__).parents[1] / "requirements/locked.txt"
    locked = re.search(r"^transformers==(\S+)", lock.read_text(), re.MULTILINE)
    assert locked is not None
    return Version(version("transformers")) < Version(locked[1])


def ending_with(lm: BaseLM, *ids: int) -> BaseLM:
    """The same model, whose responses end with one of these ids only; with none, never."""
    return dataclasses.replace(lm, chat=Chat(lm.tokenizer, ids))


def site_of(lm: BaseLM, kind: str = "residual", layer: int = 1) -> Site:
    return lm.site(layer, kind)


def module_at(lm: BaseLM, site: Site) -> nn.Module:
    """The module whose output is the site's hidden state, found by the family's own names."""
    family = EVERY[lm.name]
    block = lm.model.get_submodule(family.blocks)[site.layer]
    if site.kind == "residual":
        return block
    name = getattr(family, site.kind)
    return block.get_submodule(name if hasattr(block, name) else family.instead)


@cache
def edit_of(lm: BaseLM, site: Site, seed: int = 0, scope: str = "all", size: float = 1.0):
    """A random vector of the size of ordinary hidden states."""
    vector = size * torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed))
    return VectorEdit(vector=vector, site=site, scope=scope, base_lm=str(lm.identity))


@cache
def steerer_of(
    lm: BaseLM,
    variant: str = "cross-attention",
    kind: str = "residual",
    seed: int = 0,
    scope: str = "all",
    blocks: int = 2,
    edit: str = "vector",
    more_layers: tuple[int, ...] = (),
    self_attention: bool = False,
) -> Steerer:
    """An untrained hypernetwork whose every part matters: no small or zero weights."""
    config = HypernetConfig(
        variant=variant,
        blocks=blocks,
        edit=edit,
        rank=3,
        more_layers=more_layers,
        self_attention=self_attention,
    )
    site = site_of(lm, kind)
    network = new_hypernet(lm, config, site, seed)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed + 1)
        written_by = network.head if network.fields is None else network.fields
        for module in [*network.cross.modules(), *written_by.modules()]:
            if isinstance(module, nn.Linear):
                module.weight.normal_(std=1.5 * WIDTH**-0.5)
            elif isinstance(module, nn.RMSNorm) and not module.weight.any():
                module.weight.fill_(3.0)  # the last layer of self-attention
    card = Card(
        base_lm=lm.name,
        fingerprint=lm.fingerprint,
        identity=str(lm.identity),
        site=site,
        scope=scope,
        hypernet=config,
    )
    return Steerer(lm, network.eval().requires_grad_(False), card, generator="test")


def losses_while_learning(
    lm: BaseLM, net: Hypernet, texts: Sequence[str], steps: int = 12
) -> Iterator[float]:
    """Train on one answer to some texts; yield each loss while its gradients are to be seen."""
    setup = Steered(lm, net, net.config, net.sites, "all")
    prompts = [lm.chat.prompt(text) for text in texts]
    responses = [lm.chat.response("the sea the bees")] * len(prompts)
    steering = [[lm.chat.text("sing of bees")] * len(prompts)]
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(steps):
        loss = steered_losses(setup, prompts, responses, steering).mean()
        optimizer.zero_grad()
        loss.backward()
        yield float(loss.detach())
        optimizer.step()


def write_vectors(*args, **options) -> Tensor:
    """The vectors [R, D] that a hypernetwork writes at its one site."""
    (params,) = write_edits(*args, **options)
    assert list(params) == ["vector"]
    return params["vector"]


@contextmanager
def counting_flops() -> Iterator[FlopCounterMode]:
    """Torch's own count of all products, those of attention too, which it sees one by one only."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        yield counter


class Scaled:
    """A kind of edit that depends on the state: `h -> h + strength * factor * h`."""

    added = ()

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def apply(self, hidden, params, mask, strength):
        return plus(hidden, self.factor * hidden, mask, strength)


def scaled_writer(site: Site, factor: float, rows: int, **options) -> Writer:
    """Multiplies the states of rows by one plus a factor."""
    return Writer(site, Scaled(factor), {"nothing": torch.zeros(rows)}, ["all"] * rows, **options)


class Case(NamedTuple):
    """One way to steer: an endless base LM with a steerer, and two things to steer it with."""

    lm: BaseLM
    steerer: Steerer
    steer: tuple

    def writers(self, prompts, steer, strength=1.0, scope=None) -> list[Writer]:
        """What `steerer.generate` lets act on the rows."""
        return self.steerer.writers(as_request(self.lm, prompts, steer, strength), scope)


VARIANTS = ("cross-attention", "in-context", "no-context")
KINDS = ("residual", "attention", "mlp")


@cache
def case_of(family: str, name: str) -> Case:
    """Fixed edits at the site kind `name`, or the hypernetwork variant `name`."""
    lm = ending_with(lm_of(family))
    if name in VARIANTS:
        return Case(lm, steerer_of(lm, name), ("talk like a pirate", "mention bees"))
    site = site_of(lm, name)
    return Case(lm, steerer_of(lm, "no-context"), (edit_of(lm, site, 1), edit_of(lm, site, 2)))


class Decoded(NamedTuple):
    """What decoding chose, and the logits [steps, B, V] it chose from."""

    ids: list[list[int]]
    logits: Tensor


def decoded(
    lm: BaseLM, prompts: Sequence[PromptIds], writers: Sequence[Writer] = (), steps: int = 6
) -> Decoded:
    """Greedy cached decoding of an endless base LM, watched from outside."""
    with logits_seen(lm) as seen:
        ids = generate_ids(lm, prompts, writers, Decoding(max_new_tokens=steps))
    return Decoded(ids, torch.stack(seen))


@contextmanager
def logits_seen(lm: BaseLM):
    """The last logits [B, V] of every forward pass of this thread."""
    seen: list[Tensor] = []
    thread = threading.get_ident()

    def watch(_module, _args, output):
        if threading.get_ident() == thread:
            seen.append(output.logits[:, -1])

    hook = lm.model.register_forward_hook(watch)
    try:
        yield seen
    finally:
        hook.remove()
