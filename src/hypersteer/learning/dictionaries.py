"""Dictionaries of sparse autoencoders (SAEs), read from GemmaScope files and SAELens folders.

A dictionary writes a state as a sparse sum of features, `h ~ z @ W_dec + b_dec` with
`z = act(h @ W_enc + b_enc)`. Shapes: F features, D width, K some of the features.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from hypersteer.edits.sites import Site
from hypersteer.errors import ConfigError, DataError
from hypersteer.files import is_file
from hypersteer.identity import described
from hypersteer.learning.dictionary_files import TRAIN, find_dictionary, read_weights
from hypersteer.lm.base import BaseLM

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
        """Return the activations z of all features, float32."""
        raw = hidden.float() @ self.encoder.T + self.bias
        latents = raw.relu() * (raw > self.threshold)
        if not self.top_k:
            return latents
        top = latents.topk(min(self.top_k, self.size), dim=-1)
        return torch.zeros_like(latents).scatter(-1, top.indices, top.values)

    def decode(self, latents: Float[Tensor, "... F"]) -> Float[Tensor, "... D"]:
        """Rebuild states from activations."""
        return latents @ self.decoder + self.offset

    def reader(self, features: Sequence[int], device: torch.device) -> Callable[[Tensor], Tensor]:
        """Return a function that encodes states on a device by these K features alone."""
        rows = torch.tensor(features, dtype=torch.long)
        if self.top_k:  # what is among the top k depends on all features
            whole, columns = self.to(device), rows.to(device)
            return lambda hidden: whole.latents(hidden)[..., columns]
        names = ("encoder", "bias", "threshold", "decoder")
        return (
            replace(self, **{name: getattr(self, name)[rows] for name in names}).to(device).latents
        )

    def to(self, device: torch.device) -> "Dictionary":
        """Return the same features on another device."""
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
        if inside and not self.base_lm:  # `train_sae.py` trains at the site itself
            raise ConfigError(
                f"the dictionary reads {site} behind a norm, as TransformerLens has it, but sites "
                f"of {lm.name} lie before it; give a dictionary of a residual site"
            )


def read_dictionary(path: str) -> Dictionary:
    """Read a dictionary; the one read last is kept in memory.

    Args:
        path: see `find_dictionary`.

    Raises:
        ConfigError: it is missing or of a kind that is not supported.
        DataError: its files are damaged.
    """
    found = find_dictionary(path)
    files = [file for file in (found.weights, found.settings) if is_file(file)]
    return _read(path, tuple(file.stat().st_mtime_ns for file in files))


@lru_cache(maxsize=1)
def _read(path: str, changed: tuple[int, ...]) -> Dictionary:
    """Read the weights; `changed` is part of the key, so that new files are read anew."""
    del changed
    found = find_dictionary(path)
    weights = read_weights(found.weights)
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
