"""Place the operator in vLLM's model, and refuse what it cannot be right for."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hypersteer.edits.sites import Site
from hypersteer.errors import ConfigError, ModelError
from hypersteer.lm.blocks import site_module
from hypersteer.vllm_plugin.op import steer


def check_engine(config: Any, *, scheduler: str) -> None:
    """Refuse settings of vLLM under which requests would be steered wrongly.

    Args:
        config: vLLM's configuration.
        scheduler: what `--scheduler-cls` must say.

    Raises:
        ConfigError: naming the setting.
    """
    parallel, cache = config.parallel_config, config.cache_config
    refused = {
        "speculative decoding": config.speculative_config is not None,
        "LoRA adapters": config.lora_config is not None,
        "pipeline parallelism": parallel.pipeline_parallel_size > 1,
        "context parallelism": max(
            getattr(parallel, "decode_context_parallel_size", 1),
            getattr(parallel, "prefill_context_parallel_size", 1),
        )
        > 1,
        "microbatches (--enable-dbo)": bool(getattr(parallel, "enable_dbo", False)),
        "a model with images or sounds": bool(config.model_config.is_multimodal_model),
        "a hybrid or attention-free model": bool(
            config.model_config.is_hybrid or config.model_config.is_attention_free
        ),
        "an encoder": bool(config.model_config.is_encoder_decoder),
        "float16, which edits may go beyond": config.model_config.dtype == torch.float16,
        "--kv-sharing-fast-prefill": bool(getattr(cache, "kv_sharing_fast_prefill", False)),
    }
    for what, found in refused.items():
        if found:
            raise ConfigError(f"the hypersteer plug-in does not serve {what}; start vLLM without")
    given = config.scheduler_config.scheduler_cls
    if cache.enable_prefix_caching and given != scheduler:
        raise ConfigError(
            f"--scheduler-cls is {given!r}, which sets no cache salt, so steered blocks would "
            f"reach unsteered requests; give '{scheduler}', or --no-enable-prefix-caching"
        )


def blocks_of(model: nn.Module, depth: int) -> nn.ModuleList:
    """Return the decoder blocks of a model of vLLM's: its one list of so many modules.

    Raises:
        ModelError: if there is none, or more than one.
    """
    found = [one for one in model.modules() if isinstance(one, nn.ModuleList) and len(one) == depth]
    if len(found) != 1:
        raise ModelError(
            f"found {len(found)} lists of {depth} decoder blocks in vLLM's {type(model).__name__}; "
            "the hypersteer plug-in cannot serve it"
        )
    return found[0]


def place(blocks: nn.ModuleList, sites: Sequence[Site], table: str) -> None:
    """Let the operator run on the output of each site's module.

    Args:
        blocks: of vLLM's model.
        sites: of the table, in its order.
        table: its name.

    Raises:
        ModelError: if a block has no such sub-layer.
    """
    for number, site in enumerate(sites):
        site_module(blocks, site).register_forward_hook(_hook(table, number, site))


def _hook(table: str, number: int, site: Site) -> Any:
    whole = site.kind == "residual"

    def write(_module: nn.Module, _args: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            steer(output, None, table, number)
            return
        # vLLM's blocks return what the last sub-layer gave, and the residual it is still to join.
        steer(output[0], output[1] if whole else None, table, number)

    return write
