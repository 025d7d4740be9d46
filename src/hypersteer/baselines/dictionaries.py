"""Dictionaries of sparse autoencoders (SAEs), read from GemmaScope files and SAELens folders.

A dictionary writes a state as a sparse sum of features, `h ~ z @ W_dec + b_dec` with
`z = act(h @ W_enc + b_enc)`. Shapes: F features, D width, K some of the features.
"""

import re
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hypersteer.edits import Site
from hypersteer.errors import ConfigError, DataError, nearest, one_line
from hypersteer.files import is_file, path_of, read_json
from hypersteer.identity import described
from hypersteer.lm.base import BaseLM

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
POST_NORM = "post_feedforward_layernorm"
"""Blocks that have this norm what a sub-layer puts out before they add it."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Dictionary:
    """The features of an SAE, one row each, with whatever its training scaled folded in.

    Attributes:
        encoder: `W_enc`, transposed.
        bias: `b_enc`.
        threshold: of JumpReLU, `z = pre * (pre > threshold)`; 0 is ReLU.
        decoder: `W_dec`.
        offset: `b_dec`.
        top_k: only so many features of a token are kept, the largest; 0 keeps all.
        site: where it reads, if the files say so.
        neuronpedia: its name there, such as `gemma-2-2b/10-gemmascope-res-16k`, or empty.
        base_lm: identity of the base LM it was trained on, or empty.
    """

    encoder: Float[Tensor, "F D"]
    bias: Float[Tensor, " F"]
    threshold: Float[Tensor, " F"]
    decoder: Float[Tensor, "F D"]
    offset: Float[Tensor, " D"]
    top_k: int = 0
    site: Site | None = None
    neuronpedia: str = ""
    base_lm: str = ""

    @property
    def size(self) -> int:
        """Number F of features."""
        return len(self.bias)

    def latents(self, hidden: Float[Tensor, "... D"]) -> Float[Tensor, "... F"]:
        """Activations z of all features, float32."""
        raw = hidden.float() @ self.encoder.T + self.bias
        latents = raw.relu() * (raw > self.threshold)
        if not self.top_k:
            return latents
        top = latents.topk(min(self.top_k, self.size), dim=-1)
        return torch.zeros_like(latents).scatter(-1, top.indices, top.values)

    def decode(self, latents: Float[Tensor, "... F"]) -> Float[Tensor, "... D"]:
        """States rebuilt from activations."""
        return latents @ self.decoder + self.offset

    def reader(self, features: Sequence[int], device: torch.device) -> Callable[[Tensor], Tensor]:
        """What gives the activations [..., K] of these features alone, for states on a device."""
        rows = torch.tensor(features, dtype=torch.long)
        if self.top_k:  # what is among the top k depends on all features
            whole, columns = self.to(device), rows.to(device)
            return lambda hidden: whole.latents(hidden)[..., columns]
        names = ("encoder", "bias", "threshold", "decoder")
        return (
            replace(self, **{name: getattr(self, name)[rows] for name in names}).to(device).latents
        )

    def to(self, device: torch.device) -> "Dictionary":
        """The same features on another device."""
        names = ("encoder", "bias", "threshold", "decoder", "offset")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def check(self, lm: BaseLM, site: Site) -> None:
        """Refuse to read another base LM's states, or another site's.

        Raises:
            ConfigError: naming both and the setting to change.
        """
        if (width := self.decoder.shape[1]) != lm.width:
            raise ConfigError(
                f"the dictionary is for states of width {width}, but those of {lm.name} have "
                f"{lm.width}; give one made for this base LM, or train it: {TRAIN}"
            )
        if self.base_lm and (difference := lm.difference(self.base_lm, "the dictionary")):
            raise ConfigError(
                f"the dictionary was trained on base LM {described(self.base_lm)}, not {lm.name} "
                f"({lm.fingerprint}): {difference}; train one for it: {TRAIN} --lm {lm.name}"
            )
        if self.site is not None and self.site != site:
            raise ConfigError(
                f"the dictionary reads {self.site}, but the site is {site}; set site.layer = "
                f"{self.site.layer} and site.kind = '{self.site.kind}', or give another dictionary"
            )
        inside = site.kind != "residual" and hasattr(lm.blocks[site.layer], POST_NORM)
        if inside and not self.base_lm:  # ours are trained at the site itself
            raise ConfigError(
                f"the dictionary reads {site} behind a norm, as TransformerLens has it, but sites "
                f"of {lm.name} lie before it; give a dictionary of a residual site"
            )


class Found(NamedTuple):
    """Where a dictionary's weights are, and what its files say about them.

    Attributes:
        weights: the file.
        config: of `cfg.json`, with its `metadata` brought to the top; empty where there is none.
    """

    weights: Path
    config: dict[str, Any]

    @property
    def activation(self) -> str | None:
        """Name of the activation function, where the files tell it."""
        return self.config.get("activation_fn", self.config.get("activation_fn_str"))

    @property
    def top_k(self) -> int:
        """Features that a token keeps, 0 if there is no such limit."""
        if "topk" not in (self.config.get("architecture"), self.activation):
            return 0
        return self.config.get("k") or (self.config.get("activation_fn_kwargs") or {}).get("k", 0)

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


def read_dictionary(path: str) -> Dictionary:
    """Read a dictionary; the one read last is kept in memory.

    Args:
        path: see `find_dictionary`.

    Raises:
        ConfigError: it is missing or of a kind that is not supported.
        DataError: its files are damaged.
    """
    found = find_dictionary(path)
    return _read(path, found.weights.stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _read(path: str, changed: int) -> Dictionary:
    """Read the weights; `changed` is part of the key, so that a new file is read anew."""
    del changed
    found = find_dictionary(path)
    weights = _weights(found.weights)
    encoder, bias = weights["w_enc"].T, weights["b_enc"]
    decoder, offset = weights["w_dec"], weights["b_dec"]
    if found.config.get("apply_b_dec_to_input", bool(found.config)):  # SAELens's default
        bias = bias - encoder @ offset
    if found.config.get("rescale_acts_by_decoder_norm"):
        norms = decoder.norm(dim=-1).clamp(min=1e-12)
        encoder, bias, decoder = encoder * norms[:, None], bias * norms, decoder / norms[:, None]
    if found.config.get("architecture") == "jumprelu" and "threshold" not in weights:
        raise DataError(f"'{found.weights}' lacks the threshold of a jumprelu dictionary")
    return Dictionary(
        encoder=encoder.contiguous(),
        bias=bias,
        threshold=weights.get("threshold", torch.zeros_like(bias)),
        decoder=decoder.contiguous(),
        offset=offset,
        top_k=found.top_k,
        site=found.site,
        neuronpedia=found.config.get("neuronpedia_id") or "",
        base_lm=found.config.get("base_lm") or "",
    )


def _config(path: Path) -> dict[str, Any]:
    """What `cfg.json` says; empty where there is none."""
    if not is_file(path):
        return {}
    try:
        config = read_json(path)
        return {**config, **(config.get("metadata") or {})}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise DataError(f"cannot read '{path}': {one_line(error)}; expected SAELens's") from error


def _check_config(found: Found) -> None:
    """Refuse what would be read wrongly."""
    config, where = found.config, found.weights.parent / "cfg.json"
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
    kept = found.top_k
    if not isinstance(kept, int) or kept < 0 or (architecture == "topk" and kept == 0):
        raise ConfigError(f"{where}: a topk dictionary needs a number k above 0, not {kept!r}")


def _weights(path: Path) -> dict[str, Tensor]:
    """The float32 tensors of a file by lower-case name, their shapes checked."""
    try:
        if path.suffix == ".npz":
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                raw = {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}
        else:
            raw = dict(load_file(path))
    except (OSError, ValueError, TypeError, zipfile.BadZipFile, SafetensorError) as error:
        raise DataError(f"cannot read '{path}': {one_line(error)}") from error
    weights = {name.lower(): tensor.float() for name, tensor in raw.items()}
    missing = {"w_enc", "b_enc", "w_dec", "b_dec"} - weights.keys()
    if missing:
        raise DataError(
            f"'{path}' is no SAE: it lacks {', '.join(sorted(missing))} and has "
            f"{', '.join(sorted(raw)) or 'nothing'}"
        )
    size, width = weights["w_dec"].shape if weights["w_dec"].ndim == 2 else (0, 0)
    wanted = {"w_enc": (width, size), "w_dec": (size, width)}
    wanted |= {"b_enc": (size,), "b_dec": (width,), "threshold": (size,)}
    for name, shape in wanted.items():
        if name in weights and tuple(weights[name].shape) != shape:
            raise DataError(
                f"'{path}': {name} has shape {list(weights[name].shape)}, expected {list(shape)} "
                f"beside w_dec {list(weights['w_dec'].shape)}"
            )
    return weights
