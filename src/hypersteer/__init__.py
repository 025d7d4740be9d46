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
    from hypersteer.config import EvaluateConfig, TrainConfig
    from hypersteer.data.sources import load_concepts
    from hypersteer.edits import Site, VectorEdit, load_edit
    from hypersteer.errors import SteeringError
    from hypersteer.evaluation.run import EvaluateResult, evaluate
    from hypersteer.lm.base import BaseLM
    from hypersteer.lm.load import load_lm
    from hypersteer.steering import Steerer, load
    from hypersteer.training.loop import TrainResult, train

__all__ = [
    "BaseLM",
    "EvaluateConfig",
    "EvaluateResult",
    "Site",
    "Steerer",
    "SteeringError",
    "TrainConfig",
    "TrainResult",
    "VectorEdit",
    "evaluate",
    "load",
    "load_concepts",
    "load_edit",
    "load_lm",
    "train",
]

_HOMES = {
    "BaseLM": "hypersteer.lm.base",
    "EvaluateConfig": "hypersteer.config",
    "EvaluateResult": "hypersteer.evaluation.run",
    "Site": "hypersteer.edits",
    "SteeringError": "hypersteer.errors",
    "Steerer": "hypersteer.steering",
    "TrainConfig": "hypersteer.config",
    "TrainResult": "hypersteer.training.loop",
    "VectorEdit": "hypersteer.edits",
    "evaluate": "hypersteer.evaluation.run",
    "load": "hypersteer.steering",
    "load_concepts": "hypersteer.data.sources",
    "load_edit": "hypersteer.edits",
    "load_lm": "hypersteer.lm.load",
    "train": "hypersteer.training.loop",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hypersteer' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
