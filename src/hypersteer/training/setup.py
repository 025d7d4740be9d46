"""What a run starts with: devices, processes, precision, and the base LM."""

from dataclasses import replace

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from hypersteer.config import LMConfig
from hypersteer.lm.base import BaseLM
from hypersteer.lm.load import open_lm, pick_device


def new_accelerator(device_name: str | None, mixed_precision: str) -> Accelerator:
    """Return Accelerate's view of devices and processes, with the run's precision."""
    device = pick_device(device_name)
    # A second run in one process may want another precision, which Accelerate refuses otherwise.
    AcceleratorState._reset_state()
    return Accelerator(mixed_precision=precision(mixed_precision, device), cpu=device.type == "cpu")


def precision(wanted: str, device: torch.device) -> str:
    """Return the wanted arithmetic, or with `auto` bf16 where the device has it natively.

    Processors without native bfloat16 products are up to 100 times slower at them.
    """
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type == "cpu":
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return "bf16" if native else "no"
    return "no"


def start_lm(config: LMConfig, accelerator: Accelerator) -> BaseLM:
    """Load the base LM onto this process's device.

    Every process loads for itself, with no barrier between, so that bad input ends all of them
    with the same one line.

    Its weights are frozen, so with bf16 arithmetic they are held in bf16, unless the settings say
    otherwise: that saves casting them anew in every step.
    """
    dtype = config.dtype
    if dtype is None and accelerator.mixed_precision == "bf16":
        dtype = "bfloat16"
    return open_lm(replace(config, device=str(accelerator.device), dtype=dtype))
