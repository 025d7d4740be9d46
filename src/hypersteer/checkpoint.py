"""Checkpoint folders: save, load, and the model card.

A checkpoint holds the hypernetwork only, never the base LM: `config.json` (what it is and for
which base LM), `model.safetensors` (float32 weights), `README.md` (model card), and, for resuming
only, `trainer/` (see `hypersteer.training.state`).
"""

import dataclasses
import hashlib
import importlib.resources
import json
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hypersteer.config import HypernetConfig, from_dict, to_dict
from hypersteer.config.folders import holds_checkpoint
from hypersteer.edits import Scope, Site, check_scope
from hypersteer.errors import CheckpointError, SteeringError, one_line
from hypersteer.files import exists, is_folder, numbers, path_of, read_json, replacing, to_json
from hypersteer.hypernet.network import Hypernet
from hypersteer.lm.base import BaseLM
from hypersteer.texts import check_text

FORMAT = "hypersteer-checkpoint-1"
FILES = ("config.json", "model.safetensors", "README.md")
BUNDLED = "bundled"
"""Names the checkpoint that ships with the package, for SmolLM2-135M-Instruct."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a checkpoint's `config.json` says.

    Attributes:
        base_lm: name that the base LM was loaded as.
        fingerprint: a short label of the base LM's weights.
        identity: tells the base LM from others; empty in checkpoints of earlier versions, which
            are held against the fingerprint.
        site: where the hypernetwork reads and writes.
        scope: which tokens its vectors touch.
        hypernet: variant and sizes.
        training: the resolved settings of the run that made it.
        step: optimizer steps taken.
        metrics: validation figures at that step.
        concepts: steering prompts it was trained on.
        held_out: steering prompts kept for validation.
    """

    base_lm: str
    fingerprint: str
    site: Site
    scope: Scope
    hypernet: HypernetConfig
    training: dict[str, Any] = field(default_factory=dict)
    step: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    concepts: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    identity: str = ""


def write_folder(folder: Path, hypernet: Hypernet, card: Card) -> None:
    """Write a checkpoint into an existing folder (the caller makes the step atomic).

    Raises:
        OSError: if the disk is full or the folder cannot be written.
    """
    described = {"format": FORMAT, "version": version("hypersteer"), **dataclasses.asdict(card)}
    described["site"] = {"layer": card.site.layer, "kind": card.site.kind}
    described["hypernet"] = to_dict(card.hypernet)
    (folder / "config.json").write_text(to_json(described, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(_model_card(card), encoding="utf-8")
    save_tensors(dict(hypernet.state_dict()), folder / "model.safetensors")


def save_tensors(
    tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write tensors, turning safetensors' own errors into OSError.

    Raises:
        OSError: if they cannot be written.
    """
    held = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    try:
        save_file(held, path, metadata)
    except SafetensorError as error:
        raise OSError(one_line(error)) from error


def publish(source: Path, target: Path) -> None:
    """Make `target` loadable as the checkpoint `source`, file by file, each whole or not at all."""
    for name in FILES:
        with replacing(target / name) as temporary:
            try:
                os.link(source / name, temporary)
            except OSError:
                shutil.copyfile(source / name, temporary)


def export(source: Path, target: Path, about: str = "", *, strength: float = 1.0) -> Path:
    """Write a checkpoint as it is given away: weights in bfloat16, and nothing for resuming.

    Half the size; an edit differs from the float32 one by some 0.3 % of its length.

    Args:
        source: a checkpoint.
        target: folder to make, or to replace file by file.
        about: Markdown that the model card has before its list of concepts.
        strength: what shall be strength 1: it is multiplied into the unit of the vectors.

    Raises:
        CheckpointError: if the source is none.
        OSError: if the target cannot be written.
    """
    card = read_card(find_checkpoint(source))
    weights = _read_weights(source / "model.safetensors")
    with tempfile.TemporaryDirectory(dir=target.parent) as made:
        folder = Path(made)
        shutil.copyfile(source / "config.json", folder / "config.json")
        (folder / "README.md").write_text(_model_card(card, about), encoding="utf-8")
        small = {name: value.to(torch.bfloat16) for name, value in weights.items()}
        small["scale"] = weights["scale"] * strength
        save_tensors(small, folder / "model.safetensors")
        target.mkdir(exist_ok=True)
        for name in FILES:
            (folder / name).replace(target / name)
    return target


def find_checkpoint(name: str | Path) -> Path:
    """Folder of a checkpoint given as a local folder or a Hub id, or of the bundled one.

    Raises:
        CheckpointError: if there is none.
    """
    if isinstance(name, str) and name == BUNDLED:
        return Path(str(importlib.resources.files("hypersteer.data"))) / "pretrained"
    path = path_of(name, "the checkpoint", CheckpointError)
    if is_folder(path):
        if holds_checkpoint(path):
            return path
        raise CheckpointError(
            f"the folder '{name}' is no checkpoint: it lacks config.json or model.safetensors; "
            "give the folder that 'hypersteer train' wrote to"
        )
    text = str(name)
    if exists(path) or text.count("/") != 1 or text.startswith((".", "/", "~")):
        raise CheckpointError(f"no checkpoint folder at '{name}'; train one with 'hypersteer demo'")
    try:
        return Path(snapshot_download(text, allow_patterns=list(FILES)))
    except Exception as error:  # the Hub client raises many kinds; each means it is not to be had
        raise CheckpointError(
            f"'{name}' is neither a folder nor to be had from the Hub: {one_line(error)}"
        ) from error


def read_card(folder: Path) -> Card:
    """What the checkpoint's `config.json` says.

    Raises:
        CheckpointError: if it is missing, malformed, or of a foreign format.
    """
    try:
        raw = read_json(folder / "config.json")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read '{folder}/config.json': {one_line(error)}") from error
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        found = raw.get("format") if isinstance(raw, dict) else None
        raise CheckpointError(
            f"'{folder}' is no hypersteer checkpoint (format {found!r}, not {FORMAT!r}); give the "
            "folder that 'hypersteer train' wrote to, and a base LM with --lm or load_lm"
        )
    try:
        return Card(
            base_lm=check_text(raw["base_lm"], "base_lm"),
            fingerprint=check_text(raw["fingerprint"], "fingerprint"),
            site=Site(raw["site"]["layer"], raw["site"]["kind"]),
            scope=check_scope(raw["scope"]),
            hypernet=from_dict(HypernetConfig, raw["hypernet"], f"{folder}/config.json"),
            training=dict(raw["training"]),
            step=int(raw["step"]),
            metrics=numbers(raw["metrics"]),
            concepts=tuple(check_text(text, "concepts:") for text in raw["concepts"]),
            held_out=tuple(check_text(text, "held_out:") for text in raw["held_out"]),
            identity=str(raw.get("identity", "")),
        )
    except (KeyError, TypeError, ValueError, AttributeError, SteeringError) as error:
        raise CheckpointError(f"'{folder}/config.json' is damaged: {one_line(error)}") from error


def read_hypernet(folder: Path, card: Card, lm: BaseLM) -> Hypernet:
    """The checkpoint's hypernetwork, in eval mode on the base LM's device.

    Raises:
        CheckpointError: if the base LM is another one, or the weights are corrupt or do not fit.
    """
    lm.check_made_for(
        card.identity or card.fingerprint,
        f"'{folder}'",
        f"load {card.base_lm}, or train a hypernetwork for this one",
        "trained",
    )
    with torch.random.fork_rng():
        # Every weight is overwritten, and a quantised base LM has none to copy.
        blank = dataclasses.replace(card.hypernet, init="random")
        hypernet = Hypernet(lm, blank, card.site)
    hypernet.config = card.hypernet
    load_weights(hypernet, folder / "model.safetensors")
    return hypernet.eval().requires_grad_(False)


def load_weights(hypernet: Hypernet, path: Path) -> None:
    """Fill a hypernetwork from a weights file; all names and shapes must agree.

    Raises:
        CheckpointError: if the file is missing, corrupt, or does not fit.
    """
    weights = _read_weights(path)
    # Earlier versions read all dimensions as they are.
    weights.setdefault("excess", torch.ones_like(hypernet.excess))
    try:
        hypernet.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"the weights '{path}' are damaged or foreign: {one_line(error)}"
        ) from error


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"the weights '{path}' are damaged or foreign: {one_line(error)}"
        ) from error
    for name, value in weights.items():
        if not bool(value.isfinite().all()):
            raise CheckpointError(
                f"the weights '{path}' hold NaN or infinite values in {name}; take an earlier "
                "checkpoint, or train it anew"
            )
    return weights


def generator_hash(folder: Path) -> str:
    """Short hash of a checkpoint's weights, which its edits carry."""
    with (folder / "model.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _model_card(card: Card, about: str = "") -> str:
    figures = "\n".join(f"| {name} | {value:.4f} |" for name, value in card.metrics.items())
    shown = "\n".join(f"- {text}" for text in card.concepts[:40])
    more = len(card.concepts) - 40
    return f"""---
library_name: hypersteer
base_model: {json.dumps(card.base_lm)}
tags: [steering, hypernetwork]
---

# HyperSteer hypernetwork for {card.base_lm}

Turns a plain-language steering prompt into a steering vector for {card.base_lm}
(fingerprint `{card.fingerprint}`), written at {card.site}, scope `{card.scope}`.
Variant `{card.hypernet.variant}`, {card.hypernet.blocks} blocks, {card.step} training steps.

```python
import hypersteer as hs

steerer = hs.load("path/to/this/folder")
print(steerer.generate("Tell me about your day.", steer="talk like a pirate"))
```

| figure (nats per response token) | value |
|---|---|
{figures}

A gap is the loss with another row's steering prompt minus the loss with the right one.
{about and f"{chr(10)}{about.strip()}{chr(10)}"}
## Trained on

{shown}
{f"- and {more} more" if more > 0 else ""}

Held out: {"; ".join(card.held_out) or "none"}
"""
