"""Steer a frozen language model with words.

```python
import hypersteer as hs

steerer = hs.load("runs/demo")
print(steerer.generate("Tell me about your day.", steer="talk like a pirate"))
```

Public names are resolved on first use: importing the package loads no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hypersteer.conditions.cast import cast_condition
    from hypersteer.conditions.condition import Condition, load_condition
    from hypersteer.conditions.deciding import deciding_tokens
    from hypersteer.conditions.fit import fit_behaviour, fit_condition
    from hypersteer.conditions.rules import Decisions, Rules, rules
    from hypersteer.conditions.written import condition
    from hypersteer.config import EvaluateConfig, TrainConfig
    from hypersteer.config.conditions import ConditionConfig
    from hypersteer.data.sources import load_concepts
    from hypersteer.edits.edit import Edit, VectorEdit
    from hypersteer.edits.edit_set import EditSet, load_edit
    from hypersteer.edits.sites import Site
    from hypersteer.errors import SteeringError
    from hypersteer.evaluation.run import EvaluateResult
    from hypersteer.lm.base import BaseLM
    from hypersteer.lm.load import load_lm
    from hypersteer.report.evaluate import evaluate
    from hypersteer.steering import Steerer, load
    from hypersteer.training.loop import TrainResult, train

__all__ = [
    "BaseLM",
    "Condition",
    "ConditionConfig",
    "Decisions",
    "Edit",
    "EditSet",
    "EvaluateConfig",
    "EvaluateResult",
    "Rules",
    "Site",
    "Steerer",
    "SteeringError",
    "TrainConfig",
    "TrainResult",
    "VectorEdit",
    "cast_condition",
    "condition",
    "deciding_tokens",
    "evaluate",
    "fit_behaviour",
    "fit_condition",
    "load",
    "load_concepts",
    "load_condition",
    "load_edit",
    "load_lm",
    "rules",
    "train",
]

_HOMES = {
    "BaseLM": "hypersteer.lm.base",
    "Condition": "hypersteer.conditions.condition",
    "ConditionConfig": "hypersteer.config.conditions",
    "Decisions": "hypersteer.conditions.rules",
    "Edit": "hypersteer.edits.edit",
    "EditSet": "hypersteer.edits.edit_set",
    "EvaluateConfig": "hypersteer.config",
    "EvaluateResult": "hypersteer.evaluation.run",
    "Rules": "hypersteer.conditions.rules",
    "Site": "hypersteer.edits.sites",
    "SteeringError": "hypersteer.errors",
    "Steerer": "hypersteer.steering",
    "TrainConfig": "hypersteer.config",
    "TrainResult": "hypersteer.training.loop",
    "VectorEdit": "hypersteer.edits.edit",
    "cast_condition": "hypersteer.conditions.cast",
    "condition": "hypersteer.conditions.written",
    "deciding_tokens": "hypersteer.conditions.deciding",
    "evaluate": "hypersteer.report.evaluate",
    "fit_behaviour": "hypersteer.conditions.fit",
    "fit_condition": "hypersteer.conditions.fit",
    "load": "hypersteer.steering",
    "load_concepts": "hypersteer.data.sources",
    "load_condition": "hypersteer.conditions.condition",
    "load_edit": "hypersteer.edits.edit_set",
    "load_lm": "hypersteer.lm.load",
    "rules": "hypersteer.conditions.rules",
    "train": "hypersteer.training.loop",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hypersteer' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
