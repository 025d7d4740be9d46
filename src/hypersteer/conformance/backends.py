"""Back ends that come with the package: its engine, its server, and plain Hugging Face hooks."""

import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hypersteer.checkpoint import BUNDLED
from hypersteer.conformance.adapter import Ask
from hypersteer.edits.edit import Edit, VectorEdit
from hypersteer.edits.edit_set import load_edit
from hypersteer.edits.sites import Site
from hypersteer.endpoint.steered import SteeredServer
from hypersteer.errors import SteeringError
from hypersteer.lm.base import BaseLM
from hypersteer.steering import Steerer, load


def edit_of(lm: BaseLM, ask: Ask) -> Edit | None:
    """Return a request's vector as an edit of this package."""
    if ask.vector is None or ask.layer is None:
        return None
    site = Site(ask.layer)
    return VectorEdit(vector=ask.vector, site=site, scope=ask.scope, base_lm=str(lm.identity))


def _read_back(ask: Ask, file: Path) -> Ask:
    """Return a request with the vector, the place and the scope of an edit's file."""
    back: Any = load_edit(file)
    return replace(ask, vector=back.vector, layer=back.site.layer, scope=back.scope)


class Engine:
    """The engine of this package, as `BaseLM.generate` and `Steerer.generate` use it.

    Args:
        lm: the base LM.
        steerer: makes edits of words; by default the shipped one, where it is for this base LM.
    """

    name = "hypersteer's engine"

    def __init__(self, lm: BaseLM, steerer: Steerer | None = None) -> None:
        self.lm = lm
        self._steerer = steerer

    @cached_property
    def steerer(self) -> Steerer | None:
        """What makes edits of words."""
        try:
            return self._steerer or load(BUNDLED, lm=self.lm)
        except SteeringError:
            return None

    @property
    def abilities(self) -> frozenset[str]:
        """All, but words only where a checkpoint is for this base LM."""
        made = {"words"} if self.steerer is not None else set()
        return frozenset({"mixed", "stream", "threads", "scopes", "files", "refuses"} | made)

    def answer(self, asks: Sequence[Ask], tokens: int) -> list[str]:
        """Return greedy answers, in one batch."""
        steer = [ask.words or edit_of(self.lm, ask) for ask in asks]
        strengths = [ask.strength for ask in asks]
        how: dict[str, Any] = {"strength": strengths, "max_new_tokens": tokens}
        prompts = [ask.prompt for ask in asks]
        if any(ask.words for ask in asks):
            assert self.steerer is not None
            return list(self.steerer.generate(prompts, steer=steer, **how))
        return list(self.lm.generate(prompts, edit=steer, **how))

    def stream(self, ask: Ask, tokens: int) -> Iterator[str]:
        """Yield an answer piece by piece."""
        edit = edit_of(self.lm, ask)
        yield from self.lm.stream(
            ask.prompt, edit=edit, strength=ask.strength, max_new_tokens=tokens
        )

    def reloaded(self, ask: Ask) -> Ask:
        """Return the request with its vector out of a file."""
        edit = edit_of(self.lm, ask)
        assert edit is not None
        with tempfile.TemporaryDirectory() as folder:
            return _read_back(ask, edit.save(Path(folder) / "edit.safetensors"))


class Hooks:
    """Transformers' own `generate` under one forward hook: how most people steer.

    A batch has one edit, since a hook does not know rows; it is padded on the left.

    Args:
        lm: the base LM.
    """

    name = "plain Hugging Face hooks"
    abilities = frozenset({"refuses"})

    def __init__(self, lm: BaseLM) -> None:
        self.lm = lm

    def answer(self, asks: Sequence[Ask], tokens: int) -> list[str]:
        """Return greedy answers; all rows are steered as the first is."""
        first = asks[0]
        if first.vector is None or first.layer is None:
            return greedy(self.lm, asks, tokens)
        delta = first.strength * first.vector

        def add(_block: Any, _args: Any, output: Any) -> Any:
            if isinstance(output, Tensor):
                return output + delta
            return (output[0] + delta, *output[1:])

        handle = self.lm.blocks[first.layer].register_forward_hook(add)
        try:
            return greedy(self.lm, asks, tokens)
        finally:
            handle.remove()


def greedy(
    lm: BaseLM, asks: Sequence[Ask], tokens: int, generate: Callable[..., Tensor] | None = None
) -> list[str]:
    """Answer prompts with transformers' own `generate`, in a batch that is padded on the left.

    Args:
        lm: the base LM, steered by whatever is placed in its model meanwhile.
        asks: requests, of which the prompts are read.
        tokens: most new tokens.
        generate: called in place of the model's own `generate`, by tools that wrap it.
    """
    prompts = [lm.chat.prompt(ask.prompt).ids for ask in asks]
    longest = max(map(len, prompts))
    ids = torch.tensor([[lm.chat.pad_id] * (longest - len(row)) + row for row in prompts])
    real = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in prompts])
    model: Any = lm.model
    with torch.no_grad():
        whole = (generate or model.generate)(
            input_ids=ids, attention_mask=real, max_new_tokens=tokens, do_sample=False
        )
    ends = lm.chat.end_of_turn
    return [
        lm.chat.decode(list(itertools.takewhile(lambda token: token not in ends, row)))
        for row in whole[:, longest:].tolist()
    ]


class Server:
    """A running `hypersteer serve`, over HTTP; the requests of a call are sent at once.

    Args:
        lm: the base LM that it serves, in float32.
        url: its address.
    """

    name = "hypersteer's server"
    abilities = frozenset({"mixed", "stream", "threads", "scopes", "words", "files", "refuses"})

    def __init__(self, lm: BaseLM, url: str) -> None:
        self.lm = lm
        self.server = SteeredServer(url)
        self._names: dict[tuple, str] = {}

    def answer(self, asks: Sequence[Ask], tokens: int) -> list[str]:
        """Return greedy answers of requests that are sent at once."""
        with ThreadPoolExecutor(len(asks)) as pool:
            return list(pool.map(lambda ask: "".join(self.stream(ask, tokens)), asks))

    def stream(self, ask: Ask, tokens: int) -> Iterator[str]:
        """Yield an answer piece by piece."""
        steering: dict[str, Any] | None = None
        if ask.words is not None:
            steering = {"text": ask.words, "strength": ask.strength}
        elif ask.vector is not None:
            steering = {"edit": self._stored(ask), "strength": ask.strength}
        messages = [{"role": "user", "content": ask.prompt}]
        how = {"max_new_tokens": tokens, "temperature": 0, "repetition_penalty": 1.0}
        yield from self.server.stream(messages, steering, how)

    def reloaded(self, ask: Ask) -> Ask:
        """Return the request with its vector as the server gives it back."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "edit.safetensors"
            file.write_bytes(self.server.stored_file(self._stored(ask)))
            return _read_back(ask, file)

    def _stored(self, ask: Ask) -> str:
        """Return the name under which the server keeps a request's vector."""
        if ask.edit not in self._names:
            name = f"conform-{len(self._names)}"
            edit = edit_of(self.lm, ask)
            assert edit is not None
            with tempfile.TemporaryDirectory() as folder:
                file = edit.save(Path(folder) / "edit.safetensors")
                self.server.store(name, file.read_bytes())
            self._names[ask.edit] = name
        return self._names[ask.edit]

    def close(self) -> None:
        """Delete what the server keeps, and close the connection."""
        for name in self._names.values():
            self.server.delete(name)
        self.server.close()
