"""What the tasks beside this file need: their documents, and how a free answer is measured."""

import json
import re
from pathlib import Path
from typing import Any

from datasets import Dataset


def read(name: str, **_: Any) -> dict[str, Dataset]:
    """Return the documents of a task; the harness gives the model's settings as well."""
    lines = (Path(__file__).parent / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return {"test": Dataset.from_list([json.loads(line) for line in lines])}


def measure(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Return whether an answer holds the right word, and whether it holds a word of the style."""
    words = set(re.findall(r"[a-z]+", results[0].lower()))
    return {
        "answered": float(doc["answer"].lower() in words),
        "styled": float(not words.isdisjoint(doc["words"])),
    }
