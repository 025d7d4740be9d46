"""What a checkpoint says about itself: `config.json` and the model card."""

import dataclasses
import json
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hypersteer.config import HypernetConfig, from_dict, to_dict
from hypersteer.edits.sites import Scope, Site, check_scope
from hypersteer.errors import CheckpointError, SteeringError, one_line
from hypersteer.files import numbers, read_json, to_json
from hypersteer.values import check_text

FORMAT = "hypersteer-checkpoint-1"
BESIDE = """
Its edits were learnt beside prompts that say the steering prompt as well, and `generate` says it.
"""


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
        metrics: of validation at that step.
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

    @property
    def prompted(self) -> bool:
        """Whether its edits were learnt beside prompts that say the steering prompt, too."""
        loss = self.training.get("loss")
        return isinstance(loss, dict) and loss.get("prompted") is True


def write_card(folder: Path, card: Card) -> None:
    """Write `config.json` and `README.md` into an existing folder.

    Raises:
        OSError: if they cannot be written.
    """
    described = {"format": FORMAT, "version": version("hypersteer"), **dataclasses.asdict(card)}
    described["site"] = {"layer": card.site.layer, "kind": card.site.kind}
    described["hypernet"] = to_dict(card.hypernet)
    (folder / "config.json").write_text(to_json(described, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(model_card(card), encoding="utf-8")


def read_card(folder: Path) -> Card:
    """Return what the checkpoint's `config.json` says.

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


def model_card(card: Card, about: str = "") -> str:
    """Return the model card, with Markdown `about` the checkpoint before its list of concepts."""
    metrics = "\n".join(f"| {name} | {value:.4f} |" for name, value in card.metrics.items())
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
{metrics}

A gap is the loss with another row's steering prompt minus the loss with the right one.
{BESIDE if card.prompted else ""}{about and f"{chr(10)}{about.strip()}{chr(10)}"}
## Trained on

{shown}
{f"- and {more} more" if more > 0 else ""}

Held out: {"; ".join(card.held_out) or "none"}
"""
