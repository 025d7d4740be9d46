"""What a run would be and cost, worked out without weights: `hypersteer train --dry-run`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import nn

from hypersteer.config import TrainConfig
from hypersteer.hypernet.flops import TRAINED, Flops
from hypersteer.hypernet.network import Hypernet
from hypersteer.hypernet.step_flops import RowLengths, StepShape, step_flops
from hypersteer.lm.flops import width_of
from hypersteer.lm.load import DTYPES
from hypersteer.lm.skeleton import Skeleton, open_skeleton
from hypersteer.training.memory import FLOAT32, MOMENTS, Memory, kept_activations, memory_of
from hypersteer.training.plan_rows import PlannedRows, planned_rows, tokens_of
from hypersteer.training.start import started


class Device(NamedTuple):
    """A GPU, by its maker's data sheet.

    Attributes:
        name: of it.
        peak: of dense bfloat16 products, in operations a second.
        bandwidth: of its memory, in bytes a second.
    """

    name: str
    peak: float
    bandwidth: float


DEVICES = (
    Device("A100 SXM 80 GB", 312e12, 2.039e12),
    Device("H100 SXM 80 GB", 989e12, 3.35e12),
)
UPDATE_BYTES = 98
"""Bytes moved in a step for each trained number: 80 by torch's AdamW, which goes over weights,
gradients and running means again and again, 12 to clip gradients, 6 to make 16-bit copies."""


class Hours(NamedTuple):
    """Hours of a run: of its products, and of updating weights, which memory limits."""

    products: float
    weights: float


KINDS = 2
"""Kinds of validation rows, held in and held out; each row runs under two steering prompts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A run, worked out.

    Attributes:
        config: its settings, those of its start included.
        lm: the base LM, without weights.
        hypernet: the hypernetwork, without weights.
        rows: what lengths it was worked out with.
        step: operations of a step, of one process, on average.
        validation: operations of all validations, of one process.
        memory: of one process that has everything.
        replicated: of each of `plan.processes`, if each has the hypernetwork whole (DDP).
        split: of each of them, if they split it (FSDP2).
        dtype: of the base LM.
        mixed: whether the hypernetwork's products are in 16 bits.
    """

    config: TrainConfig
    lm: Skeleton
    hypernet: Hypernet
    rows: PlannedRows
    step: Flops
    validation: int
    memory: Memory
    replicated: Memory
    split: Memory
    dtype: torch.dtype
    mixed: bool

    @property
    def parameters(self) -> int:
        """Parameters of the base LM."""
        return count(self.lm.model)

    @property
    def trained(self) -> int:
        """Parameters of the hypernetwork, all of which are trained."""
        return count(self.hypernet)

    @property
    def embeddings(self) -> int:
        """Numbers of the base LM's embeddings, which the hypernetwork reads and does not own."""
        return count(self.lm.model.get_input_embeddings())

    @property
    def total(self) -> int:
        """Operations of one process in the whole run."""
        return self.step.total * self.config.optim.steps + self.validation

    @property
    def tokens(self) -> float:
        """Tokens of prompts and responses in the whole run, of all processes."""
        return tokens_of(self.rows.steps) * self.config.optim.steps * self.config.plan.processes

    @property
    def checkpoint(self) -> int:
        """Bytes of a checkpoint with which a run can go on."""
        return FLOAT32 * (1 + MOMENTS) * self.trained

    @property
    def disk(self) -> int:
        """Most bytes of checkpoints at once: those kept, the best one, and one being written."""
        return (self.config.keep + 2) * self.checkpoint

    def hours(self, device: Device) -> Hours:
        """Return the hours that the run takes on a device, or on each of several.

        What several exchange is left out, and so is all that is neither products nor updates.
        """
        products = self.total / (self.config.plan.utilisation * device.peak)
        moved = UPDATE_BYTES * self.trained * self.config.optim.steps
        return Hours(products / 3600, moved / device.bandwidth / 3600)


def count(module: nn.Module) -> int:
    """Return the number of a module's parameters, each once."""
    return sum(weight.numel() for weight in module.parameters())


def make_plan(config: TrainConfig) -> Plan:
    """Check a run's settings and work out what it costs, without loading or fetching any weights.

    Raises:
        ConfigError: for settings that do not fit the base LM.
        ModelError: if the base LM's configuration cannot be had.
        DataError: if data that should be on this disk are not.
        CheckpointError: if the start is no checkpoint.
    """
    config, _ = started(config)
    dtype, mixed = _arithmetic(config)
    lm = open_skeleton(config.base_lm, dtype)
    site = lm.site(config.site.layer, config.site.kind)
    with torch.device("meta"):
        hypernet = Hypernet(lm, config.hypernet, site)
    rows = planned_rows(config, lm)
    shape = StepShape.of(config, lm)
    steps = [step_flops(shape, step) for step in rows.steps]
    mean = sum(steps, Flops()) * (1 / len(steps))
    size = config.optim.batch_size // config.optim.accumulation
    parts = [step[at : at + size] for step in rows.steps for at in range(0, len(step), size)]
    largest = max(parts, key=lambda part: width_of([r.prompt + r.response for r in part]))
    kept = kept_activations(lm, hypernet, config.loss, largest)
    processes = config.plan.processes
    return Plan(
        config=config,
        lm=lm,
        hypernet=hypernet,
        rows=rows,
        step=mean,
        validation=_validations(config, shape, rows.steps[0]),
        memory=memory_of(lm, hypernet, kept, mixed=mixed),
        replicated=memory_of(lm, hypernet, kept, mixed=mixed, processes=processes),
        split=memory_of(lm, hypernet, kept, mixed=mixed, processes=processes, split=True),
        dtype=dtype,
        mixed=mixed,
    )


def _arithmetic(config: TrainConfig) -> tuple[torch.dtype, bool]:
    """Return the base LM's dtype and whether products are mixed, on the GPU that is planned for.

    Where the settings say `cpu`, on a processor without native bfloat16.
    """
    here = config.base_lm.device == "cpu"
    wanted = config.optim.mixed_precision
    mixed = wanted in ("bf16", "fp16") or (wanted == "auto" and not here)
    default = "float32" if here and not mixed else "bfloat16"
    return DTYPES[config.base_lm.dtype or default], mixed


def _validations(config: TrainConfig, shape: StepShape, rows: Sequence[RowLengths]) -> int:
    """Count the operations of all validations of a process: two passes forward of each row.

    As many rows of either kind as `data.max_validation_rows`, which may be more than there are.
    """
    limit = config.data.max_validation_rows or len(rows)
    times = -(-config.optim.steps // config.validate_every)
    loss = replace(config.loss, objective="language-modelling", contrast=1.0, targets=None,
                   guidance=0.0, diversity=0.0, contrast_share=1.0)  # fmt: skip
    step = step_flops(replace(shape, loss=loss, parts=1), rows)
    forward = step.base_lm_below + step.base_lm_above // 2 + step.head // 2
    forward += (step.hypernet + step.edits) // TRAINED + step.prior
    share = KINDS * limit / config.plan.processes / len(rows)
    return round(times * share * forward)
