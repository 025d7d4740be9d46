"""The files of dictionaries of sparse autoencoders: found, checked, and read as tensors."""

import re
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hypersteer.edits.sites import Site
from hypersteer.errors import ConfigError, DataError, nearest, one_line
from hypersteer.files import is_file, path_of, read_json
from hypersteer.values import as_whole

WEIGHTS = ("sae_weights.safetensors", "params.safetensors", "params.npz")
"""Names of the file with the weights, looked for in a folder in this order."""

ARCHITECTURES = ("standard", "jumprelu", "topk")
TRAIN = "python experiments/train_sae.py --out runs/sae"
HOOKS = {
    r"blocks\.(\d+)\.hook_resid_post": ("residual", 0),
    r"blocks\.(\d+)\.hook_resid_pre": ("residual", -1),
    r"blocks\.(\d+)\.hook_attn_out": ("attention", 0),
    r"blocks\.(\d+)\.hook_mlp_out": ("mlp", 0),
    r"model\.layers\.(\d+)": ("residual", 0),
}
"""How SAELens names a site: (kind, what to add to the number of the block)."""
UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
    SafetensorError,
)
"""What numpy, zip files and safetensors raise for files that are damaged, or something else."""


class Found(NamedTuple):
    """Where a dictionary's weights are, and what its files say about them.

    Attributes:
        weights: the file.
        config: of `cfg.json`, with its `metadata` brought to the top; empty where there is none.
    """

    weights: Path
    config: dict[str, Any]

    @property
    def settings(self) -> Path:
        """The `cfg.json` beside the weights, which may not be there."""
        return self.weights.with_name("cfg.json")

    @property
    def activation(self) -> Any:
        """Name of the activation function, where the files tell it; not checked."""
        return self.config.get("activation_fn", self.config.get("activation_fn_str"))

    @property
    def top_k(self) -> Any:
        """Features that a token keeps, 0 if there is no such limit; not checked."""
        if "topk" not in (self.config.get("architecture"), self.activation):
            return 0
        kwargs = self.config.get("activation_fn_kwargs")
        return self.config.get("k") or (kwargs.get("k", 0) if isinstance(kwargs, dict) else 0)

    @property
    def site(self) -> Site | None:
        """Where the dictionary reads, as far as the hook's name tells."""
        for pattern, (kind, shift) in HOOKS.items():
            name = self.config.get("hook_name", self.config.get("hook_point", ""))
            match = re.fullmatch(pattern, str(name))
            if match and int(match[1]) + shift >= 0:
                return Site(int(match[1]) + shift, kind)  # type: ignore[arg-type]
        return None


def find_dictionary(path: str) -> Found:
    """Look for a dictionary's files and check that they can be used; no weights are read.

    Args:
        path: a file `.npz` or `.safetensors`, or a folder that holds one of `WEIGHTS`. A `cfg.json`
            beside it is SAELens's.

    Raises:
        ConfigError: nothing is there, or it is of a kind that is not supported.
        DataError: `cfg.json` cannot be read.
    """
    given = path_of(path, "dictionary") if path else Path()
    names = [given] if is_file(given) else [given / name for name in WEIGHTS]
    weights = next((name for name in names if is_file(name)), None)
    if not path or weights is None or weights.suffix not in (".npz", ".safetensors"):
        what = f"no SAE dictionary at '{path}'" if path else "no SAE dictionary is given"
        raise ConfigError(
            f"{what}: set `dictionary` to a GemmaScope params.npz or a SAELens folder, or train "
            f"one: {TRAIN}"
        )
    found = Found(weights, _config(weights.with_name("cfg.json")))
    _check_config(found)
    return found


def _config(path: Path) -> dict[str, Any]:
    """Read what `cfg.json` says; empty where there is none."""
    if not is_file(path):
        return {}
    try:
        config = read_json(path)
        return {**config, **(config.get("metadata") or {})}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise DataError(f"cannot read '{path}': {one_line(error)}; expected SAELens's") from error


def _check_config(found: Found) -> None:
    """Refuse what would be read wrongly."""
    config, where = found.config, found.settings
    architecture = config.get("architecture", "standard")
    if architecture not in ARCHITECTURES:
        known = nearest(str(architecture), ARCHITECTURES)
        raise ConfigError(f"{where}: architecture '{architecture}' is not supported{known}")
    if config.get("normalize_activations") not in (None, False, "none"):
        raise ConfigError(
            f"{where}: normalize_activations '{config['normalize_activations']}' is not supported; "
            "fold it into the weights with SAELens and save the SAE again"
        )
    if found.activation not in (None, "relu", "topk"):
        raise ConfigError(
            f"{where}: activation_fn '{found.activation}' is not supported; relu and topk are"
        )
    if config.get("finetuning_scaling_factor"):
        raise ConfigError(f"{where}: finetuning_scaling_factor is not supported; fold it in")
    for name in ("neuronpedia_id", "base_lm"):
        if not isinstance(config.get(name) or "", str):
            raise ConfigError(f"{where}: {name} is {config[name]!r}, not a text")
    kept = found.top_k
    if as_whole(kept) is None or kept < 0 or (architecture == "topk" and kept == 0):
        raise ConfigError(f"{where}: a topk dictionary needs a number k above 0, not {kept!r}")


def _numbers(name: str, tensor: Tensor) -> Tensor:
    """Return the tensor in float32.

    Raises:
        ValueError: if it holds anything but finite numbers; a threshold may be out of reach.
    """
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise ValueError(f"{name} holds {tensor.dtype}, not numbers")
    found = tensor.float()
    good = ~found.isnan() if name.lower() == "threshold" else found.isfinite()
    if not bool(good.all()):
        raise ValueError(f"{name} is not finite")
    return found


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the float32 tensors of a file by lower-case name, their shapes checked."""
    try:
        if path.suffix == ".npz":
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                raw = {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}
        else:
            raw = dict(load_file(path))
        weights = {name.lower(): _numbers(name, tensor) for name, tensor in raw.items()}
    except UNREADABLE as error:
        raise DataError(f"cannot read '{path}': {one_line(error)}") from error
    missing = {"w_enc", "b_enc", "w_dec", "b_dec"} - weights.keys()
    if missing:
        raise DataError(
            f"'{path}' is no SAE: it lacks {', '.join(sorted(missing))} and has "
            f"{', '.join(sorted(raw)) or 'nothing'}"
        )
    size, width = weights["w_dec"].shape if weights["w_dec"].ndim == 2 else (0, 0)
    if not size or not width:
        raise DataError(f"'{path}': w_dec has shape {list(weights['w_dec'].shape)}, so no features")
    wanted = {
        "w_enc": (width, size),
        "w_dec": (size, width),
        "b_enc": (size,),
        "b_dec": (width,),
        "threshold": (size,),
    }
    for name, shape in wanted.items():
        if name in weights and tuple(weights[name].shape) != shape:
            raise DataError(
                f"'{path}': {name} has shape {list(weights[name].shape)}, expected {list(shape)} "
                f"beside w_dec {list(weights['w_dec'].shape)}"
            )
    return weights
