"""vLLM on the CPU for the tests: small, in this process, one thread."""

import os
from contextlib import contextmanager
from importlib.util import find_spec

import pytest

SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # so that the tests see the worker
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_PLUGINS": "hypersteer",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "HF_HUB_OFFLINE": "1",
}
WORKER = "hypersteer.vllm_plugin.worker.SteeringWorker"
SCHEDULER = "hypersteer.vllm_plugin.scheduler.new_scheduler"
MARKS = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(
        find_spec("vllm") is None, reason="vLLM is not installed; `make test-vllm` installs it"
    ),
]


@contextmanager
def engine(model, **options):
    """Run an engine on a model's folder; it is gone afterwards."""
    os.environ.update(SETTINGS)  # before vLLM is imported
    from vllm import LLM

    given = {
        "dtype": "float32",
        "enforce_eager": True,
        "max_model_len": 512,
        "max_num_seqs": 16,
        "max_num_batched_tokens": 512,
        "worker_cls": WORKER,
        "scheduler_cls": SCHEDULER,
        "enable_prefix_caching": True,
        **options,
    }
    found = LLM(str(model), **given)
    try:
        yield found
    finally:
        found.llm_engine.engine_core.shutdown()


def worker_of(llm):
    """The worker of an engine in this process."""
    return llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker


def scheduler_of(llm):
    """The scheduler of an engine in this process."""
    return llm.llm_engine.engine_core.engine_core.scheduler


def answers(llm, asked, *, new=24, decode=None, **sampling):
    """Texts of requests, each its token ids and `extra_args`, all at once and greedily.

    `decode` makes the texts of token ids, in place of vLLM, which keeps back half a character.
    """
    from vllm import SamplingParams

    options = {"temperature": 0, "max_tokens": new, **sampling}
    found = llm.generate(
        [{"prompt_token_ids": ids} for ids, _ in asked],
        [SamplingParams(**options, extra_args=extra or None) for _, extra in asked],
        use_tqdm=False,
    )
    decode = decode or (lambda _: None)
    return [
        [one.text if (text := decode(one.token_ids)) is None else text for one in answer.outputs]
        for answer in found
    ]


def firsts(llm, asked, **options):
    """The first answer to each request."""
    return [texts[0] for texts in answers(llm, asked, **options)]
