"""A base LM without its weights: all that its configuration says, on torch's meta device.

Shapes, parameters and operations are those of the model; nothing can be computed with it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from hypersteer.config import LMConfig
from hypersteer.edits.sites import Site
from hypersteer.errors import ModelError, one_line
from hypersteer.files import is_file, is_folder
from hypersteer.lm.base import BaseLM
from hypersteer.lm.blocks import find_blocks
from hypersteer.lm.chat import Chat
from hypersteer.lm.control import end_of_turn
from hypersteer.lm.load import locate
from hypersteer.lm.shape import site_in, window_of

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")
"""Files of which a folder has one if it has a tokenizer."""


@dataclass(frozen=True, slots=True, eq=False)
class Skeleton:
    """A base LM on the meta device.

    Attributes:
        name: what it was opened as.
        model: the Hugging Face model, frozen; its weights have shapes only.
        blocks: its decoder blocks.
        chat: prompts and responses as token ids; None where the tokenizer is not on this disk.
    """

    name: str
    model: PreTrainedModel
    blocks: nn.ModuleList
    chat: Chat | None

    @property
    def width(self) -> int:
        """Width D of the hidden states."""
        return self.model.config.get_text_config().hidden_size

    @property
    def depth(self) -> int:
        """Number of decoder blocks L."""
        return len(self.blocks)

    @property
    def vocab(self) -> int:
        """Number V of token ids that the model knows; see `BaseLM.vocab`."""
        return cast(nn.Embedding, self.model.get_input_embeddings()).num_embeddings

    @property
    def device(self) -> torch.device:
        """The meta device."""
        return torch.device("meta")

    @property
    def context_window(self) -> int:
        """Most tokens that prompt and response may have together."""
        return window_of(self.model)

    def site(self, layer: int | None = None, kind: str = "residual") -> Site:
        """Return a site of this model, checked; see `BaseLM.site`."""
        return site_in(self.depth, layer, kind)


Shaped = BaseLM | Skeleton
"""What says everything about a base LM's shape."""


def open_skeleton(config: LMConfig, dtype: torch.dtype) -> Skeleton:
    """Return a base LM without its weights; of a model on the Hub the configuration is fetched.

    Args:
        config: which base LM.
        dtype: of the weights.

    Raises:
        ModelError: if its configuration cannot be had, or makes no causal LM.
    """
    folder, gguf_file = locate(config.name, config.revision, fetching=False)
    at: dict[str, Any] = {} if config.revision is None else {"revision": config.revision}
    if gguf_file:
        at["gguf_file"] = gguf_file
    attention = {"attn_implementation": config.attn_implementation}
    given = attention if config.attn_implementation else {}
    try:
        found = AutoConfig.from_pretrained(folder, **at)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(found, dtype=dtype, **given)
    except Exception as error:  # what configurations hold raises all kinds
        raise ModelError(
            f"config.json of '{config.name}' describes no base LM: {one_line(error)}"
        ) from error
    model.eval().requires_grad_(False)
    chat = None if gguf_file else _chat(folder, model, at)
    return Skeleton(config.name, model, find_blocks(model), chat)


def _chat(folder: str, model: PreTrainedModel, at: dict[str, Any]) -> Chat | None:
    """Return the chat templates of a tokenizer that is on this disk."""
    path = Path(folder)
    if is_folder(path) and not any(is_file(path / name) for name in TOKENIZERS):
        return None
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, **at)
    except (OSError, ValueError):  # not in the Hub's cache
        return None
    ends = end_of_turn(tokenizer, getattr(model.generation_config, "eos_token_id", None))
    table = cast(nn.Embedding, model.get_input_embeddings())
    return Chat(tokenizer, ends, table.num_embeddings)
