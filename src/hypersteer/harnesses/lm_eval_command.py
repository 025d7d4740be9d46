"""The command `hypersteer-lm-eval`: `lm_eval` with our model, for releases that find no models.

lm-evaluation-harness up to 0.4.13 looks for models in its own package only. Later ones read the
entry points of the group `lm_eval.models`, and `lm_eval` itself will do.
"""

import importlib
import sys
from importlib.util import find_spec

from hypersteer.errors import SteeringError


def run() -> None:
    """Run `lm_eval` on the command line's arguments; what a user can mend ends in one line."""
    if find_spec("lm_eval") is None:
        _end("lm-evaluation-harness is not installed; pip install 'hypersteer[lm-eval]'")
    importlib.import_module("hypersteer.harnesses.lm_eval_model")
    try:
        importlib.import_module("lm_eval.__main__").cli_evaluate()
    except SteeringError as error:
        _end(str(error))


def _end(told: str) -> None:
    sys.stderr.write(f"error: {told}\n")
    raise SystemExit(2)
