"""Our plug-in for vLLM, held to the conformance suite; vLLM runs in this process, on the CPU.

    make test-vllm                                     # once, for the environment
    .venv-vllm/bin/hypersteer conform benchmarks/conform_vllm.py:VLLM

The prefix cache is on, prompts are read in chunks, and vectors are stored edits.
"""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hypersteer.config.vllm_plugin import PluginConfig
from hypersteer.conformance.adapter import Ask
from hypersteer.conformance.backends import edit_of
from hypersteer.errors import SteeringError
from hypersteer.lm.base import BaseLM
from hypersteer.lm.catalogue import find_known
from hypersteer.lm.stored import converted_form

SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_PLUGINS": "hypersteer",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "HF_HUB_OFFLINE": "1",
}
ENGINE: dict[str, Any] = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 1024,
    "max_num_seqs": 4,
    "max_num_batched_tokens": 48,
    "enable_chunked_prefill": True,
    "enable_prefix_caching": True,
}


def greedy(
    llm: Any, lm: BaseLM, asked: Sequence[tuple[list[int], dict | None]], tokens: int
) -> list[str]:
    """Return greedy answers to prompts of token ids, each with its `extra_args`."""
    from vllm import SamplingParams

    found = llm.generate(
        [{"prompt_token_ids": ids} for ids, _ in asked],
        [
            SamplingParams(temperature=0, max_tokens=tokens, extra_args=extra or None)
            for _, extra in asked
        ],
        use_tqdm=False,
    )
    ends = lm.chat.end_of_turn
    return [
        lm.chat.decode([token for token in one.outputs[0].token_ids if token not in ends])
        for one in found
    ]


class VLLM:
    """vLLM with the plug-in and the checkpoint that ships."""

    name = "vLLM with our plug-in"
    abilities = frozenset({"mixed", "scopes", "words", "refuses"})

    def __init__(self, lm: BaseLM) -> None:
        self.lm = lm
        self.folder = tempfile.TemporaryDirectory()
        os.environ.update(SETTINGS)  # before vLLM is imported
        from vllm import LLM

        from hypersteer.vllm_plugin.front import Front

        known = find_known(lm.name)
        if known is None:
            raise SteeringError(f"{lm.name} has no short name; give smollm2-135m-instruct")
        model = str(converted_form(known))
        layers = (lm.depth // 5, lm.depth // 2, lm.depth - 1)
        config = PluginConfig(edits=self.folder.name, layers=layers)
        self.front = Front(config, model)
        self.llm = LLM(
            model,
            **ENGINE,
            worker_cls="hypersteer.vllm_plugin.worker.SteeringWorker",
            scheduler_cls="hypersteer.vllm_plugin.scheduler.new_scheduler",
            additional_config={"hypersteer": asdict(config)},
        )

    def answer(self, asks: Sequence[Ask], tokens: int) -> list[str]:
        """Return greedy answers of requests that are queued together."""
        asked = [self.front.request(ask.prompt, self._steering(ask)) for ask in asks]
        return greedy(self.llm, self.lm, asked, tokens)

    def _steering(self, ask: Ask) -> Any:
        """Return a request's field `steering`; a vector is stored under its own hash."""
        if ask.words is not None:
            return {"text": ask.words, "strength": ask.strength}
        edit = edit_of(self.lm, ask)
        if edit is None:
            return None
        layer, numbers, scope = ask.edit
        name = f"{layer}-{numbers[:16]}-{scope}"
        file = Path(self.folder.name) / f"{name}.safetensors"
        if not file.exists():
            edit.save(file)
        return {"edit": name, "strength": ask.strength}

    def close(self) -> None:
        """End the engine."""
        self.llm.llm_engine.engine_core.shutdown()
        self.folder.cleanup()
