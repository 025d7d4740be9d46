"""Settings of vLLM under which requests would be steered wrongly are refused by name."""

from types import SimpleNamespace as Some

import pytest
import torch

from hypersteer.errors import ConfigError
from hypersteer.vllm_plugin.placing import check_engine

OURS = "hypersteer.vllm_plugin.scheduler.new_scheduler"


def config(*, parallel=None, model=None, cache=None, scheduler=OURS, **given):
    plain = {"speculative_config": None, "lora_config": None, **given}
    kinds = ("is_multimodal_model", "is_hybrid", "is_attention_free", "is_encoder_decoder")
    model = {**dict.fromkeys(kinds, False), "dtype": torch.bfloat16, **(model or {})}
    return Some(
        parallel_config=Some(pipeline_parallel_size=1, **(parallel or {}))
        if "pipeline_parallel_size" not in (parallel or {})
        else Some(**parallel),
        cache_config=Some(**{"enable_prefix_caching": True, **(cache or {})}),
        model_config=Some(**model),
        scheduler_config=Some(scheduler_cls=scheduler),
        **plain,
    )


def test_what_is_served():
    check_engine(config(), scheduler=OURS)
    check_engine(config(scheduler=None, cache={"enable_prefix_caching": False}), scheduler=OURS)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"speculative_config": object()}, "speculative decoding"),
        ({"lora_config": object()}, "LoRA adapters"),
        ({"parallel": {"pipeline_parallel_size": 2}}, "pipeline parallelism"),
        ({"parallel": {"enable_dbo": True}}, "microbatches"),
        ({"model": {"is_hybrid": True}}, "hybrid"),
        ({"model": {"is_multimodal_model": True}}, "images or sounds"),
        ({"model": {"dtype": torch.float16}}, "float16"),
        ({"scheduler": None}, "sets no cache salt"),
    ],
)
def test_what_is_refused(given, told):
    with pytest.raises(ConfigError, match=told):
        check_engine(config(**given), scheduler=OURS)
