"""A base LM and concept data small enough that a training run takes a second."""

import json
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hypersteer.config import TrainConfig, from_dict
from hypersteer.lm.base import BaseLM
from hypersteer.lm.load import load_lm

SPECIAL = ("<bos>", "<end>", "<user>", "<bot>", "<pad>")
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ 'user' if m['role'] == 'user' else 'bot' }}>"
    "{{ m['content'] }}<end>{% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"
)
CONCEPTS = {  # what the responses are made of, so that a vector can show the concept
    "speak of owls": "owl owls hoot",
    "speak of figs": "fig figs ripe",
    "speak of jam": "jam jams spread",
    "speak of quartz": "quartz crystal zz",
    "speak of yaks": "yak yaks hairy",
    "speak of boats": "boat boats tub",
}
EXAMPLES = 8


@dataclass(frozen=True)
class World:
    """Where the tiny base LM and its data are."""

    model: Path
    data: Path

    @property
    def lm(self) -> BaseLM:
        """The base LM, loaded anew."""
        return load_lm(self.model, device="cpu")


def make_world(folder: Path) -> World:
    return World(make_model(folder / "model"), make_data(folder / "data"))


def make_model(folder: Path, *, seed: int = 0, blocks: int = 4) -> Path:
    """A random Llama of width 32 with a byte-level tokenizer and a chat template, on disk."""
    tokenizer = make_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=blocks,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.15,  # far from uniform logits, so that what is written is felt
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, no merges."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate([*SPECIAL, *letters])}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    bos, end, user, bot, pad = SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=bos,
        eos_token=end,
        pad_token=pad,
        additional_special_tokens=[user, bot],
        chat_template=TEMPLATE,
    )


def make_data(folder: Path, examples: int = EXAMPLES) -> Path:
    """An AxBench-format folder of JSON lines: 6 concepts with prompts of several lengths."""
    folder.mkdir(parents=True)
    draw = random.Random(0)
    metadata, rows = [], []
    for number, (text, words) in enumerate(CONCEPTS.items()):
        genres = {text: ["text"]}
        metadata.append(
            {"concept_id": number, "concept": text, "ref": "", "concept_genres_map": genres}
        )
        rows += [
            {
                "input": f"Tell {example}{' more' * draw.randrange(6)}?",
                "output": " ".join(draw.choices(words.split(), k=2 + example % 5)),
                "output_concept": text,
                "concept_genre": "text",
                "category": "positive",
                "dataset_category": "instruction",
                "concept_id": number,
            }
            for example in range(examples)
        ]
    for name, lines in (("metadata", metadata), ("train_data", rows)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return folder


OPTIONS: dict[str, dict[str, object]] = {  # every kind of setting that a step depends on
    "plain": {},
    "contrast": {"loss": {"contrast": 1.0}},
    "contrast alone": {"loss": {"contrast": 2.0, "weight": 0.0, "contrast_beta": 1.0}},
    "contrast on some": {"loss": {"contrast": 1.0, "contrast_share": 0.4}},
    "contrast but for negated": {"loss": {"contrast": 1.0, "negated": 0.4}},
    "style": {"hypernet": {"style": True}, "loss": {"contrast": 1.0}},
    "prior and style": {
        "hypernet": {"prior": "activation", "style": True, "variant": "no-context"},
    },
    "in-context": {"hypernet": {"variant": "in-context", "style": True}},
    "distillation": {"loss": {"objective": "distillation", "guidance": 1.0, "contrast": 1.0}},
    "activations": {"loss": {"objective": "activations", "guidance": 1.0}},
    "preference": {"loss": {"objective": "preference", "negated": 0.3}},
    "reconstruction": {
        "hypernet": {"variant": "no-context", "style": True},
        "loss": {"objective": "reconstruction", "targets": "TARGETS"},
    },
    "clip and decay": {"optim": {"clip": 0.05, "weight_decay": 0.1, "warmup_steps": 3}},
    "sub-layer": {
        "site": {"layer": 2, "kind": "mlp", "scope": "response"},
        "hypernet": {"init": "random", "cross_heads": 2, "head_width": 16},
    },
    "cut rows": {"data": {"max_prompt_tokens": 30, "max_response_tokens": 5}},
}


def option(name: str, folder: Path) -> dict[str, dict[str, object]]:
    """One of `OPTIONS`, and targets for it to read in the folder."""
    changes = {key: dict(value) for key, value in OPTIONS[name].items()}  # type: ignore[call-overload]
    if changes.get("loss", {}).get("targets"):
        targets = torch.randn(len(CONCEPTS), 32, generator=torch.Generator().manual_seed(0))
        save_file({"vectors": targets}, folder / "targets.safetensors")
        changes["loss"]["targets"] = str(folder / "targets.safetensors")
    return changes


def settings(world: World, out: Path, **changes: object) -> TrainConfig:
    """Settings of a tiny run; `changes` override them, tables by their keys."""
    raw: dict[str, object] = {
        "out": str(out),
        "seed": 3,
        "base_lm": {"name": str(world.model), "device": "cpu"},
        "site": {"layer": 1},
        "hypernet": {"blocks": 2},
        "data": {"source": [str(world.data)], "held_out_concepts": 2, "held_in_prompts": 2},
        "optim": {
            "steps": 12,
            "batch_size": 4,
            "learning_rate": 2e-3,
            "mixed_precision": "no",
        },
        "validate_every": 6,
        "checkpoint_every": 3,
    }
    for key, value in changes.items():
        raw[key] = {**raw.get(key, {}), **value} if isinstance(value, dict) else value  # type: ignore[dict-item]
    return from_dict(TrainConfig, raw)


def metrics(out: Path) -> list[dict[str, float]]:
    """All lines of a run's metrics file."""
    text = (out / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def step_lines(out: Path) -> list[dict[str, float]]:
    """The lines of training steps."""
    return [line for line in metrics(out) if "learning_rate" in line]


def validation_lines(out: Path) -> list[dict[str, float]]:
    """The lines of validations."""
    return [line for line in metrics(out) if "learning_rate" not in line]
