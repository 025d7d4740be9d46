"""Which base LM is steered, and where."""

from dataclasses import dataclass
from typing import Literal

from hypersteer.config.reading import settle


@dataclass(frozen=True, slots=True, kw_only=True)
class LMConfig:
    """The base LM that is steered."""

    name: str = "smollm2-135m-instruct"
    """Alias, Hugging Face id, local folder, or .gguf file."""
    device: str | None = None
    """cpu, cuda, mps; by default the best there is."""
    dtype: str | None = None
    """float32, bfloat16, float16; by default float32 on a CPU, bfloat16 elsewhere."""
    quantization: str | None = None
    """8bit or 4bit weights through bitsandbytes."""
    revision: str | None = None
    """Branch, tag or commit on the Hugging Face Hub."""
    device_map: str | None = None
    """How to spread the weights over several devices (auto, balanced, ...), instead of device."""
    attn_implementation: str | None = None
    """sdpa, eager, flash_attention_2, ...; by default what transformers chooses."""

    def __post_init__(self) -> None:
        settle(self, "base_lm.")


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteConfig:
    """Where the edit is read and written."""

    layer: int | None = None
    """Decoder block, from 0; by default 40 % of the way up."""
    kind: Literal["residual", "attention", "mlp"] = "residual"
    """Block output, or a sub-layer's output before it joins the residual stream."""
    scope: Literal["all", "everywhere", "prompt", "response", "last_prompt", "prompt_ends"] = "all"
    """Which tokens the edit touches."""

    def __post_init__(self) -> None:
        settle(self, "site.")
