"""Devices, processes and arithmetic of a run, and the base LM on its process's device."""

from dataclasses import replace

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import patch_environment

from hypersteer.config import LMConfig
from hypersteer.lm.base import BaseLM
from hypersteer.lm.bfloat16 import bf16_is_faster
from hypersteer.lm.load import open_lm, pick_device
from hypersteer.training.sharding import ASKED, check_precision, sharding_asked


def new_accelerator(device_name: str | None, mixed_precision: str) -> Accelerator:
    """Return Accelerate's view of devices and processes, with the run's precision.

    Raises:
        ConfigError: if the launch asks for a kind of sharding that there is none of here.
    """
    device = pick_device(device_name)
    taken = precision(mixed_precision, device)
    if sharding_asked():
        check_precision(taken)
    # A second run in one process may want another precision, which Accelerate refuses otherwise.
    AcceleratorState._reset_state()
    with patch_environment(**{ASKED: "false"}):  # the sharding is our own, see `sharding`
        return Accelerator(mixed_precision=taken, cpu=device.type == "cpu")


def precision(wanted: str, device: torch.device) -> str:
    """Return the wanted arithmetic, or with `auto` bf16 where the device is faster at it."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type == "cpu":
        return "bf16" if bf16_is_faster() else "no"
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
