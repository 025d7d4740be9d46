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
    from hypersteer.conditioning.fit import fit_behaviour, fit_condition
    from hypersteer.config import EvaluateConfig, TrainConfig
    from hypersteer.config.conditions import ConditionConfig
    from hypersteer.data.sources import load_concepts
    from hypersteer.edits import Site, VectorEdit, load_edit
    from hypersteer.errors import SteeringError
    from hypersteer.evaluation.run import EvaluateResult, evaluate
    from hypersteer.gates.cast import cast_condition
    from hypersteer.gates.condition import Condition, load_condition
    from hypersteer.gates.decisions import Decisions
    from hypersteer.gates.rules import Rules, rules
    from hypersteer.lm.base import BaseLM
    from hypersteer.lm.load import load_lm
    from hypersteer.steering import Steerer, load
    from hypersteer.training.loop import TrainResult, train

__all__ = [
    "BaseLM",
    "Condition",
    "ConditionConfig",
    "Decisions",
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
    "Condition": "hypersteer.gates.condition",
    "ConditionConfig": "hypersteer.config.conditions",
    "Decisions": "hypersteer.gates.decisions",
    "EvaluateConfig": "hypersteer.config",
    "EvaluateResult": "hypersteer.evaluation.run",
    "Rules": "hypersteer.gates.rules",
    "Site": "hypersteer.edits",
    "SteeringError": "hypersteer.errors",
    "Steerer": "hypersteer.steering",
    "TrainConfig": "hypersteer.config",
    "TrainResult": "hypersteer.training.loop",
    "VectorEdit": "hypersteer.edits",
    "cast_condition": "hypersteer.gates.cast",
    "evaluate": "hypersteer.evaluation.run",
    "fit_behaviour": "hypersteer.conditioning.fit",
    "fit_condition": "hypersteer.conditioning.fit",
    "load": "hypersteer.steering",
    "load_concepts": "hypersteer.data.sources",
    "load_condition": "hypersteer.gates.condition",
    "load_edit": "hypersteer.edits",
    "load_lm": "hypersteer.lm.load",
    "rules": "hypersteer.gates.rules",
    "train": "hypersteer.training.loop",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hypersteer' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
