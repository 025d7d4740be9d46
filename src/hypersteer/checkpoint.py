"""Checkpoint folders: save, load, and the model card.

A checkpoint holds the hypernetwork only, never the base LM: `config.json` (what it is and for
which base LM), `model.safetensors` (float32 weights), `README.md` (model card), and, for resuming
only, `trainer/` (see `hypersteer.training.state`). Beside these may lie the head that writes
conditions from words for the same base LM (see `hypersteer.conditions.head`).
"""

import dataclasses
import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from huggingface_hub import HfApi, snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hypersteer.errors import CheckpointError, SteeringError, one_line
from hypersteer.files import (
    CONDITION_HEAD,
    exists,
    holds_checkpoint,
    is_file,
    is_folder,
    output_folder,
    package_data,
    path_of,
    reason,
    replacing,
    share_as_folder,
)
from hypersteer.hypernet.card import Card, model_card, read_card, write_card
from hypersteer.hypernet.network import Hypernet
from hypersteer.lm.base import BaseLM

FILES = ("config.json", "model.safetensors", "README.md")
GIVEN_AWAY = (*FILES, CONDITION_HEAD)
"""What a checkpoint's folder may hold for others."""
BUNDLED = "bundled"
"""Names the checkpoint that ships with the package, for SmolLM2-135M-Instruct."""


def write_folder(folder: Path, weights: Mapping[str, Tensor], card: Card) -> None:
    """Write a checkpoint into an existing folder (the caller makes the step atomic).

    Args:
        folder: where to.
        weights: the hypernetwork's `state_dict`.
        card: what the checkpoint says about itself.

    Raises:
        OSError: if the disk is full or the folder cannot be written.
    """
    write_card(folder, card)
    save_tensors(weights, folder / "model.safetensors")


def save_tensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write tensors, turning safetensors' own errors into OSError.

    Raises:
        OSError: if they cannot be written.
    """
    held = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    try:
        save_file(held, path, metadata)
        share_as_folder(path)
    except SafetensorError as error:
        raise OSError(one_line(error)) from error


def publish(source: Path, target: Path) -> None:
    """Make `target` loadable as the checkpoint `source`, file by file, each whole or not at all."""
    for name in _present(source):
        with replacing(target / name) as temporary:
            try:
                os.link(source / name, temporary)
            except OSError:
                shutil.copyfile(source / name, temporary)


def _present(folder: Path) -> tuple[str, ...]:
    """Return which files of a checkpoint there are to give away."""
    return GIVEN_AWAY if is_file(folder / CONDITION_HEAD) else FILES


def export(source: Path, target: Path, about: str = "", *, strength: float = 1.0) -> Path:
    """Write a checkpoint as it is given away: weights in bfloat16, and nothing for resuming.

    Half the size; an edit differs from the float32 one by some 0.3 % of its length.

    Args:
        source: a checkpoint.
        target: folder to make, or to replace file by file.
        about: Markdown that the model card has before its list of concepts.
        strength: what shall be strength 1: it is multiplied into the unit of the vectors.

    Raises:
        CheckpointError: if the source is none.
        OSError: if the target cannot be written.
    """
    card = read_card(find_checkpoint(source))
    weights = _read_weights(source / "model.safetensors")
    if strength != 1 and card.hypernet.edit != "vector":
        raise CheckpointError(
            f"'{source}' writes edits of the kind '{card.hypernet.edit}', which have no unit to "
            "multiply; export it at strength 1"
        )
    with tempfile.TemporaryDirectory(dir=target.parent) as made:
        folder = Path(made)
        folder.chmod(target.parent.stat().st_mode & 0o777)
        shutil.copyfile(source / "config.json", folder / "config.json")
        (folder / "README.md").write_text(model_card(card, about), encoding="utf-8")
        small = {name: value.to(torch.bfloat16) for name, value in weights.items()}
        small["scale"] = weights["scale"] * strength
        save_tensors(small, folder / "model.safetensors")
        target.mkdir(exist_ok=True)
        if is_file(source / CONDITION_HEAD):
            shutil.copyfile(source / CONDITION_HEAD, folder / CONDITION_HEAD)
        for name in _present(folder):
            (folder / name).replace(target / name)
    return target


def save(source: Path, folder: str | Path) -> Path:
    """Copy a checkpoint to another folder, file by file, each whole or not at all.

    Args:
        source: folder of a checkpoint.
        folder: where to; made if it is not there. What it holds of an earlier one is replaced.

    Raises:
        SteeringError: if the folder cannot be written.
    """
    target = output_folder(folder, "the checkpoint")
    try:
        target.mkdir(parents=True, exist_ok=True)
        publish(source, target)
    except OSError as error:
        raise SteeringError(
            f"cannot write the checkpoint to '{target}': {reason(error)}"
        ) from error
    return target


def push(
    source: Path, repo: str, *, private: bool | None = None, revision: str | None = None
) -> str:
    """Upload a checkpoint to the Hugging Face Hub, whose token and address are taken as usual.

    Args:
        source: folder of a checkpoint.
        repo: `owner/name`; made if it is not there.
        private: whether a new repository is private; by default as the account has it.
        revision: branch to write to, made if it is not there; by default the main one.

    Returns:
        Address of the commit.

    Raises:
        SteeringError: if the Hub does not take it.
    """
    if not isinstance(repo, str) or repo.count("/") != 1:
        raise SteeringError(f"{repo!r} is no Hub id; give one such as 'owner/name'")
    try:
        api = HfApi()
        api.create_repo(repo, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        done = api.upload_folder(
            repo_id=repo,
            folder_path=source,
            allow_patterns=list(GIVEN_AWAY),
            revision=revision,
            commit_message="Upload a HyperSteer checkpoint",
        )
    except Exception as error:  # the Hub client raises many kinds; each means it was not taken
        raise SteeringError(f"cannot push the checkpoint to '{repo}': {one_line(error)}") from error
    return str(done.commit_url)


def find_checkpoint(name: str | Path, revision: str | None = None) -> Path:
    """Folder of a checkpoint given as a local folder or a Hub id, or of the bundled one.

    Args:
        name: folder, Hub id, or `bundled`.
        revision: branch, tag or commit on the Hub.

    Raises:
        CheckpointError: if there is none.
    """
    if isinstance(name, str) and name == BUNDLED:
        return package_data("data", "pretrained")
    path = path_of(name, "the checkpoint", CheckpointError)
    if is_folder(path):
        if revision is not None:
            raise CheckpointError(f"'{name}' is a folder, which has no revision '{revision}'")
        if holds_checkpoint(path):
            return path
        raise CheckpointError(
            f"the folder '{name}' is no checkpoint: it lacks config.json or model.safetensors; "
            "give the folder that 'hypersteer train' wrote to"
        )
    text = str(name)
    if exists(path) or text.count("/") != 1 or text.startswith((".", "/", "~")):
        raise CheckpointError(f"no checkpoint folder at '{name}'; train one with 'hypersteer demo'")
    try:
        return Path(snapshot_download(text, revision=revision, allow_patterns=list(GIVEN_AWAY)))
    except Exception as error:  # the Hub client raises many kinds; each means it is not to be had
        raise CheckpointError(
            f"'{name}' is neither a folder nor to be had from the Hub: {one_line(error)}"
        ) from error


def read_hypernet(folder: Path, card: Card, lm: BaseLM) -> Hypernet:
    """Return the checkpoint's hypernetwork, in eval mode on the base LM's device.

    Raises:
        CheckpointError: if the base LM is another one, or the weights are corrupt or do not fit.
    """
    lm.check_made_for(
        card.identity or card.fingerprint,
        f"'{folder}'",
        f"load {card.base_lm}, or train a hypernetwork for this one",
        "trained",
    )
    with torch.random.fork_rng():
        # Every weight is overwritten, and a quantised base LM has none to copy.
        blank = dataclasses.replace(card.hypernet, init="random")
        hypernet = Hypernet(lm, blank, card.site)
    hypernet.config = card.hypernet
    load_weights(hypernet, folder / "model.safetensors")
    return hypernet.eval().requires_grad_(False)


def load_weights(hypernet: Hypernet, path: Path) -> None:
    """Fill a hypernetwork from a weights file; all names and shapes must agree.

    Raises:
        CheckpointError: if the file is missing, corrupt, or does not fit.
    """
    weights = _read_weights(path)
    # Earlier versions read all dimensions as they are.
    weights.setdefault("excess", torch.ones_like(hypernet.excess))
    try:
        hypernet.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"the weights '{path}' are damaged or foreign: {one_line(error)}"
        ) from error


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"the weights '{path}' are damaged or foreign: {one_line(error)}"
        ) from error
    for name, value in weights.items():
        if not bool(value.isfinite().all()):
            raise CheckpointError(
                f"the weights '{path}' hold NaN or infinite values in {name}; take an earlier "
                "checkpoint, or train it anew"
            )
    return weights


def generator_hash(folder: Path) -> str:
    """Short hash of a checkpoint's weights, which its edits carry."""
    with (folder / "model.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
