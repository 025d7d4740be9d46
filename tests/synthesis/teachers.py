"""A scripted teacher that knows every question, a tiny base LM for it, and settings of a build."""

import json
import random
import re
from pathlib import Path

from endpoint.server import said
from hypersteer.config import from_dict
from hypersteer.config.synthesis import SynthesisConfig
from training.worlds import make_model

VOCABULARY = """
river lamp stone green window paper cloud gentle engine seven corner bright wooden market silver
door quiet garden bread yellow travel winter simple hand light open carry early north
"""
CONCEPTS = (
    {"concept": "talk like a pirate", "kind": "persona"},
    {"concept": "mentions of python loops", "genre": "code"},
    {
        "concept": "terms about boats",
        "ref": "https://www.neuronpedia.org/gemma-2-2b/20-gemmascope-res-16k/77",
    },
)
TOKENS = 60
COUNTS = {
    "train_positives": 4,
    "test_positives": 2,
    "test_negatives": 8,
    "hard_negatives": 3,
    "pool_negatives": 2,
}
OTHER_MEANINGS = {
    "anchor": "A person who presents the news.",
    "deck": "None.",
    "bow": "To bend forward in respect.",
}
DISTINCT = {"anchor": "Yes.", "bow": "no"}
HARD_REQUESTS = 1 + len(OTHER_MEANINGS) + len(DISTINCT) + 1
"""Of one concept: words, meanings, checks, and the one response that is left."""


def prose(text, count=18):
    """Words that follow from a text, like no other text's."""
    return " ".join(random.Random(text).choices(VOCABULARY.split(), k=count)) + "."


def step_of(text):
    """Which question a request is, told by its wording."""
    marks = {
        "In which kind of text": "genre",
        "let the concept show": "positive",
        "with one exception": "negative",
        "common English words": "words",
        "other established meaning": "meaning",
        "yes or no": "distinct",
        "and use the word": "hard",
        "Invent ": "invent",
    }
    (step,) = {step for mark, step in marks.items() if mark in text}
    return step


def field(text, name):
    """What stands behind a name in a request."""
    return re.search(rf"^{name}: (.+)$", text, re.MULTILINE)[1]


def answer(text):
    """What a good teacher says."""
    step = step_of(text)
    if step == "genre":
        return "I would say: **text**."
    if step == "words":
        return "1. anchor\n2. deck\n- bow\n4. two words"
    if step == "meaning":
        return OTHER_MEANINGS[re.search(r"The word '(\w+)'", text)[1]]
    if step == "distinct":
        return DISTINCT[field(text, "Word")]
    if step == "hard":
        return f"The anchor said {prose(text)}"
    return f'"{prose(text)}"'


def teach(asked):
    return said(answer(asked.text))


def make_lm(folder):
    """The tiny base LM with a window that the teacher's questions fit into, a byte a token."""
    make_model(folder, blocks=2)
    path = folder / "config.json"
    config = json.loads(path.read_text()) | {"max_position_embeddings": 4096}
    path.write_text(json.dumps(config))
    return folder


def write_list(path, concepts=CONCEPTS):
    path.write_text("".join(json.dumps(one) + "\n" for one in concepts))
    return path


def settings(out, server=None, lm="none", **changes) -> SynthesisConfig:
    """Settings of a small build; `changes` override them, tables by their keys."""
    teacher = {"backoff_s": 0.001, "concurrency": 4, "model": "tiny"}
    raw = {
        "out": str(out),
        "seed": 5,
        "instructions": "bundled",
        "response_tokens": TOKENS,
        "base_lm": {"name": str(lm), "device": "cpu"},
        "teacher": teacher | ({"base_url": server.url} if server else {}),
        "counts": COUNTS | ({"pool_negatives": 0} if lm == "none" else {}),
    }
    for key, value in changes.items():
        raw[key] = {**raw.get(key, {}), **value} if isinstance(value, dict) else value
    return from_dict(SynthesisConfig, raw)


def toml(config_changes, path: Path):
    """A TOML file with tables of settings."""
    lines = []
    for key, value in config_changes.items():
        if not isinstance(value, dict):
            lines.append(f"{key} = {json.dumps(value)}")
    for key, value in config_changes.items():
        if isinstance(value, dict):
            lines.append(f"[{key}]")
            lines += [f"{name} = {json.dumps(one)}" for name, one in value.items()]
    path.write_text("\n".join(lines) + "\n")
    return path
