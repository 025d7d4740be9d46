"""Load all weights of a model, GGUF files too: what would be filled at random is an error."""

import tempfile
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging as hf_logging

from hypersteer.errors import ModelError, SteeringError, one_line
from hypersteer.lm.blocks import find_blocks
from hypersteer.lm.stored import UNFINISHED, converted_folder
from hypersteer.progress import ProgressBar

MOST_BLOCKS = 10_000
SHOWN = 3
"""Names that a message shows."""

BUFFERS = ("inv_freq", "bias", "masked_bias", "position_ids")
"""Last parts of names that old files hold for what is computed today (rotary embeddings, masks)."""


def load_weights(
    source: str | Path,
    *,
    dtype: torch.dtype,
    gguf_file: str | None = None,
    options: dict[str, Any] | None = None,
) -> PreTrainedModel:
    """Load a causal LM whose files hold all of its weights, and none for blocks that it lacks.

    Args:
        source: folder or Hugging Face id.
        dtype: what the weights become.
        gguf_file: name of the GGUF file in the folder, if it is one.
        options: further arguments of `from_pretrained`: revision, device map, quantization.

    Raises:
        ModelError: naming weights that are missing, or that have no place in the model.
        Exception: whatever transformers raises for files that it cannot read.
    """
    given: dict[str, Any] = {"dtype": dtype, **(options or {})}
    if gguf_file is not None:
        given["gguf_file"] = gguf_file
    else:
        given["config"] = _checked_config(source, given.get("revision"))
    with _quiet():
        model, report = AutoModelForCausalLM.from_pretrained(
            source, output_loading_info=True, **given
        )
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            f"the files of '{source}' lack {_listed(missing)}, which {type(model).__name__} needs; "
            "they are damaged, or their config.json describes another model"
        )
    if unknown := sorted(set(report["unexpected_keys"]) & _of_blocks(model, report)):
        raise ModelError(
            f"the files of '{source}' hold {_listed(unknown)}, which {type(model).__name__} has no "
            "place for; their config.json describes another model"
        )
    return model


def _checked_config(source: str | Path, revision: str | None) -> PretrainedConfig:
    """Return the configuration, unless it has so many blocks that making them takes hours.

    Raises:
        ModelError: naming the number.
    """
    at = {} if revision is None else {"revision": revision}
    config = AutoConfig.from_pretrained(source, **at)
    depth = getattr(config.get_text_config(decoder=True), "num_hidden_layers", 0)
    if isinstance(depth, int) and depth > MOST_BLOCKS:
        raise ModelError(
            f"config.json of '{source}' says {depth} decoder blocks, more than any model has "
            f"({MOST_BLOCKS} at most); it is damaged"
        )
    return config


def _of_blocks(model: PreTrainedModel, report: dict[str, Any]) -> set[str]:
    """Unexpected names of decoder blocks; of other parts, a vision tower say, nobody misses any."""
    try:
        blocks = find_blocks(model)
    except ModelError:  # told later, by whoever needs the blocks
        return set()
    path = next(name for name, module in model.named_modules() if module is blocks)
    last = path.rpartition(".")[2]
    found = set()
    for name in report["unexpected_keys"]:
        parts = name.split(".")
        numbered = any(a == last and b.isdigit() for a, b in pairwise(parts))
        if numbered and parts[-1] not in BUFFERS:
            found.add(name)
    return found


def _listed(names: list[str]) -> str:
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{rest}"


@contextmanager
def _quiet() -> Generator[None]:
    """Keep transformers from printing its own report; what matters of it is an error here."""
    level = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)


def converted(path: Path) -> str:
    """Folder with the float32 safetensors form of a GGUF file, made on first use.

    De-quantising takes half a minute and more; the result is kept in the user's cache folder
    (`HYPERSTEER_CACHE` overrides it), where `hypersteer.lm.stored.converted_folder` says.

    Raises:
        ModelError: if the file is damaged or the cache cannot be written.
    """
    folder = converted_folder(path)
    if not (folder / "config.json").is_file():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            unfinished = f"{folder.name}{UNFINISHED}"
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=unfinished) as scratch:
                _convert(path, Path(scratch) / "model")
                _move(Path(scratch) / "model", folder)
        except SteeringError:
            raise
        except Exception as error:  # readers of damaged files raise all kinds
            raise ModelError(f"cannot convert '{path}': {one_line(error)}") from error
    return str(folder)


def _move(source: Path, target: Path) -> None:
    """Rename a folder, unless another process has put the same one there meanwhile."""
    try:
        source.rename(target)
    except OSError:
        if not (target / "config.json").is_file():
            raise


def _convert(path: Path, folder: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    with _own_bar(f"converting {path.name}"):
        loaded = load_weights(path.parent, dtype=torch.float32, gguf_file=path.name)
    config: Any = loaded.config
    # transformers refuses to save what it calls quantised, though all weights are float32 by now.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):  # the weights are there once already
        plain = type(loaded)(config)
    plain.load_state_dict(loaded.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config = loaded.generation_config
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextmanager
def _own_bar(text: str) -> Generator[None]:
    """Show the progress of de-quantising in our own way; transformers prints a bar of its own.

    Its reader takes the bar by name from its module, and offers no way to leave it out.
    """
    from transformers import modeling_gguf_pytorch_utils

    bar = ProgressBar(text, None, note=lambda: "tensors", transient=True)

    def counted(tensors: Iterable[Any], **_: object) -> Iterator[Any]:
        items = list(tensors)
        bar.update(0, len(items))
        for number, item in enumerate(items, start=1):
            yield item
            bar.update(number)

    reader: Any = modeling_gguf_pytorch_utils
    theirs, reader.tqdm = reader.tqdm, counted
    try:
        with bar:
            yield
    finally:
        reader.tqdm = theirs
