"""What a run needs before its first step: processes, base LM, site, rows."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors import SafetensorError
from safetensors.torch import load_file

from hypersteer.config import TrainConfig
from hypersteer.data.batches import Tokenised, TrainingBatches, ValidationRow, validation_rows
from hypersteer.data.sources import ConceptData, load_concepts
from hypersteer.data.splits import split_as
from hypersteer.edits.kinds import Params
from hypersteer.edits.registry import edit_kind
from hypersteer.errors import ConfigError, DataError, one_line
from hypersteer.files import is_file, path_of
from hypersteer.lm.base import BaseLM
from hypersteer.lm.load import open_lm, pick_device
from hypersteer.training.processes import share_of


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a run.

    Attributes:
        batches: training batches by step.
        validation: `held_in` and `held_out` rows; a kind without rows is absent.
        targets: parameters [N, ...] of edits by concept id, for the reconstruction objective.
        concepts: steering prompts trained on.
        held_out: steering prompts never trained on.
        summary: one line about all this.
    """

    batches: TrainingBatches
    validation: dict[str, list[ValidationRow]]
    targets: Params | None
    concepts: tuple[str, ...]
    held_out: tuple[str, ...]
    summary: str


def new_accelerator(config: TrainConfig) -> Accelerator:
    """Accelerate's view of devices and processes, with the run's precision."""
    device = pick_device(config.base_lm.device)
    # A second run in one process may want another precision, which Accelerate refuses otherwise.
    AcceleratorState._reset_state()
    return Accelerator(
        mixed_precision=precision(config.optim.mixed_precision, device), cpu=device.type == "cpu"
    )


def precision(wanted: str, device: torch.device) -> str:
    """The wanted arithmetic, or with `auto` bf16 where the device has it natively.

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


def start_lm(config: TrainConfig, accelerator: Accelerator) -> BaseLM:
    """Load the base LM onto this process's device.

    Every process loads for itself, with no barrier between, so that bad input ends all of them
    with the same one line.

    Its weights are frozen, so with bf16 arithmetic they are held in bf16, unless the settings say
    otherwise: that saves casting them anew in every step.
    """
    dtype = config.base_lm.dtype
    if dtype is None and accelerator.mixed_precision == "bf16":
        dtype = "bfloat16"
    return open_lm(replace(config.base_lm, device=str(accelerator.device), dtype=dtype))


def prepare_rows(config: TrainConfig, lm: BaseLM, accelerator: Accelerator) -> Rows:
    """Open the data, split them by concept, and lay out batches.

    Raises:
        DataError: if the data cannot be read or leave nothing to train on.
        ConfigError: if a limit leaves nothing.
        SteeringError: if a limit or a concept is too long for the base LM.
    """
    wanted, seed = config.data, config.seed
    lm.check_length(
        wanted.max_prompt_tokens + wanted.max_response_tokens,
        "data.max_prompt_tokens + data.max_response_tokens",
    )
    data = load_concepts(list(wanted.source))
    split = split_as(data, wanted, seed)
    tokens = _tokenised(config, data, lm)
    for id_ in (*split.train_concepts, *split.held_out_concepts):
        lm.check_length(
            tokens.read_alone(id_), f"concept {id_}, {one_line(tokens.text(id_), 60)!r},"
        )
    size = config.optim.batch_size * accelerator.num_processes
    batches = TrainingBatches(tokens, split.train, split.train_concepts, size, seed)
    batches.batch(0, share_of(accelerator))  # so that rows of which none fits are told here
    held_in, unseen = (
        _spread(rows, wanted.max_validation_rows) for rows in (split.held_in, split.held_out)
    )
    held_out = split.held_out_concepts
    # A single held-out concept has no other of its kind to be wrong with.
    wrong = held_out if len(held_out) > 1 else (*held_out, *split.train_concepts)
    validation = {
        "held_in": validation_rows(tokens, held_in, split.train_concepts, seed),
        "held_out": validation_rows(tokens, unseen, wrong, seed),
    }
    kept_in, kept_out = len(validation["held_in"]), len(validation["held_out"])
    left_out = len(held_in) + len(unseen) - kept_in - kept_out
    return Rows(
        batches=batches,
        validation={name: rows for name, rows in validation.items() if rows},
        targets=_targets(config, data, lm),
        concepts=tuple(data.concept(c).text for c in split.train_concepts),
        held_out=tuple(data.concept(c).text for c in split.held_out_concepts),
        summary=(
            f"{data.summary()}; training on {len(split.train):,} rows of "
            f"{len(split.train_concepts)} concepts, validating on {kept_in:,} held-in "
            f"and {kept_out:,} held-out rows ({len(split.held_out_concepts)} concepts)"
            + (f"; {left_out:,} more that do not fit are left out" if left_out else "")
        ),
    )


def _tokenised(config: TrainConfig, data: ConceptData, lm: BaseLM) -> Tokenised:
    """The rows as token ids, within what the base LM can read."""
    return Tokenised(
        data,
        lm.chat,
        config.data.max_prompt_tokens,
        config.data.max_response_tokens,
        prompting=config.loss.objective == "distillation",
        window=lm.context_window,
        together=config.hypernet.variant == "in-context",
    )


def _spread(rows: np.ndarray, limit: int | None) -> np.ndarray:
    """At most `limit` rows, evenly from all, so that every concept keeps its share."""
    if limit is None or limit >= len(rows):
        return rows
    return rows[np.linspace(0, len(rows) - 1, limit).round().astype(int)]


def _targets(config: TrainConfig, data: ConceptData, lm: BaseLM) -> Params | None:
    """Parameters [N, ...] by concept id, checked against those that the edits have."""
    if config.loss.targets is None:
        return None
    if config.hypernet.more_layers:
        raise ConfigError("loss.targets are of one site; leave out hypernet.more_layers")
    path = path_of(config.loss.targets, "loss.targets")
    if not is_file(path):
        raise DataError(f"no targets at '{path}'; give a safetensors file with 'vectors' [N, D]")
    try:
        held = load_file(path)
    except (SafetensorError, OSError) as error:
        raise DataError(f"'{path}' holds no readable 'vectors': {one_line(error)}") from error
    count = max(concept.id for concept in data.concepts) + 1
    found = {}
    for name, shape in (
        edit_kind(config.hypernet.edit).shapes(lm.width, config.hypernet.rank).items()
    ):
        key = f"{name}s"  # one for each concept
        if key not in held:
            raise DataError(f"'{path}' holds no readable '{key}'; it has {sorted(held)}")
        value = held[key]
        if value.ndim != 1 + len(shape) or len(value) < count or value.shape[1:] != shape:
            raise ConfigError(f"'{path}': {key} {list(value.shape)} are not {[count, *shape]}")
        found[name] = value.float()
    return found
