"""FSDP2: weights, gradients and optimizer state of a hypernetwork, split over the processes.

torch's `fully_shard` does it (Zhao et al. 2023, arXiv 2304.11277). A launch asks for it as
Accelerate's launcher has it (`distributed_type: FSDP`, `fsdp_version: 2`); Accelerate's own wrapper
of it knows no processors and goes by names of block classes, so it is not used.

Each process holds a slice of every weight. Before a block runs, its whole weights are gathered, and
given back behind it; so all processes run the hypernetwork equally often. The base LM is not split:
it runs unequally often (the first process alone has it answer prompts, say).
"""

import os
from collections.abc import Mapping
from typing import Any

from accelerate.utils import parse_flag_from_env
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from hypersteer.errors import ConfigError
from hypersteer.hypernet.network import Hypernet
from hypersteer.hypernet.trunk import trunk_blocks

ASKED = "ACCELERATE_USE_FSDP"
"""What a launch with `distributed_type: FSDP` sets for its processes."""

REFUSED = {
    "FSDP_OFFLOAD_PARAMS": "fsdp_offload_params keeps weights off the GPUs; set it to false, and "
    "start more processes if memory runs out",
    "FSDP_ACTIVATION_CHECKPOINTING": "fsdp_activation_checkpointing is for models that Accelerate "
    "wraps; set it to false, and optim.gradient_checkpointing to true",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "fsdp_cpu_ram_efficient_loading gives the base LM's weights "
    "to one process only; set it to false",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "parallelism_config splits a model in other ways; leave "
    "it out",
}
"""What else a launch may ask for, by the variable that it sets, and what to do instead."""


def sharding_asked() -> bool:
    """Return whether the launch of these processes asks for FSDP2.

    Raises:
        ConfigError: if it asks for FSDP1, or for what sharding a hypernetwork does not do.
    """
    if not parse_flag_from_env(ASKED):
        return False
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise ConfigError(
            f"the launch asks for FSDP version {version}; set fsdp_version to 2 in its file, as "
            "experiments/full_size/fsdp2.yaml has it"
        )
    for name, way_out in REFUSED.items():
        if parse_flag_from_env(name):
            raise ConfigError(f"in the launch file, {way_out}")
    return True


def check_precision(precision: str) -> None:
    """Refuse arithmetic that weights in slices do not go with.

    Raises:
        ConfigError: for fp16, whose gradient scaler would skip steps in one process only.
    """
    if precision == "fp16":
        raise ConfigError(
            "optim.mixed_precision 'fp16' with FSDP2, whose processes would skip a step one "
            "without another; set it to 'bf16' or 'no', or launch with DDP "
            "(experiments/full_size/ddp.yaml)"
        )


def shard(hypernet: Hypernet, device: str, processes: int) -> None:
    """Split a hypernetwork's weights over the processes, in place: each keeps its slice.

    Blocks and cross-attention modules are gathered one by one, the rest (norms, head, velocity
    fields) together and for a whole step, since fields act outside of the hypernetwork's forward.

    Args:
        hypernet: with the same whole weights in every process.
        device: kind of device that the processes are on, such as `cuda`.
        processes: how many there are.

    With `fsdp_reshard_after_forward: false` in the launch file, gathered weights of blocks stay
    until the backward pass has used them.
    """
    mesh = init_device_mesh(device, (processes,))
    again = parse_flag_from_env("FSDP_RESHARD_AFTER_FORWARD", default=True)
    for part in (*trunk_blocks(hypernet.trunk), *hypernet.cross):
        fully_shard(part, mesh=mesh, reshard_after_forward=again)
    hypernet.register_forward_hook(_copied)  # before FSDP's own, which wants no views
    fully_shard(hypernet, mesh=mesh)
    if device == "cpu":  # gloo adds up, but takes no means
        for module in hypernet.modules():
            if isinstance(module, FSDPModule):
                module.set_force_sum_reduction_for_comms(True)


def _copied(
    _module: nn.Module, _args: object, output: list[dict[str, Tensor]]
) -> list[dict[str, Tensor]]:
    """Return parameters that are no views of what the head wrote."""
    return [{name: value.clone() for name, value in one.items()} for one in output]


def whole(tensor: Any) -> Tensor:
    """Return a tensor with all its slices; the processes meet where it is split."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Return whole tensors on the CPU, gathered one after the other; the processes meet.

    Args:
        tensors: split or not.
        keep: whether this process wants them; otherwise it helps the others, and gets none.
    """
    found = {}
    for name, tensor in tensors.items():
        complete = whole(tensor.detach())
        if keep:
            found[name] = complete.cpu()
    return found


def split_as(value: Tensor, like: Tensor) -> Tensor:
    """Return this process's slice of a whole tensor; the processes do not meet.

    Args:
        value: the whole tensor.
        like: a tensor of its shape that is split, or another one, for which there is no slice.
    """
    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    parts, number = value.chunk(like.device_mesh.size()), like.device_mesh.get_local_rank()
    own = parts[number] if number < len(parts) else value[:0]
    return DTensor.from_local(
        own.to(like.device),
        like.device_mesh,
        like.placements,
        run_check=False,
        shape=value.shape,
        stride=value.stride(),
    )
