"""Whom a conversation is with: a model in this process, or one behind a server's address."""

from collections.abc import Generator
from pathlib import Path
from typing import Any, Protocol

from hypersteer.cli.show import Answers, ShownPrompt, compare, notice, save_edit
from hypersteer.edits.edit import Edit
from hypersteer.edits.edit_set import EditSet
from hypersteer.endpoint.steered import SteeredServer
from hypersteer.errors import SteeringError
from hypersteer.files import output_file, replacing
from hypersteer.lm.edited import sites_of
from hypersteer.lm.messages import Prompt, prompted
from hypersteer.steering import Steerer

Messages = list[dict[str, str]]
Steered = str | Edit | EditSet | None


class Model(Protocol):
    """A steered model that answers.

    Attributes:
        name: what it is, for the first line.
    """

    name: str

    def check_room(self, messages: Prompt, tokens: int, way_out: str) -> None:
        """Refuse messages that leave no room for an answer of so many tokens."""
        ...

    def stream(
        self, messages: Messages, steer: Steered, strength: float, decoding: dict[str, Any]
    ) -> Generator[str]:
        """Yield an answer piece by piece."""
        ...

    def compare(self, question: ShownPrompt, decoding: dict[str, Any]) -> Answers:
        """Return the unsteered, the prompted and the steered answer."""
        ...

    def check_edit(self, edit: Edit | EditSet) -> None:
        """Refuse an edit that is not for this model."""
        ...

    def save(self, steer: str | Edit | EditSet, messages: Messages, path: str) -> None:
        """Write the edit for the last of some messages to a file."""
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...


class LocalModel:
    """A model in this process; see `Model`."""

    def __init__(self, steerer: Steerer) -> None:
        self._steerer = steerer
        self.name = steerer.lm.name

    def check_room(self, messages: Prompt, tokens: int, way_out: str) -> None:
        """Refuse messages that outgrow the context window.

        Raises:
            SteeringError: saying how to go on.
        """
        lm = self._steerer.lm
        taken = len(lm.chat.prompt(messages).ids)
        if taken + tokens > lm.context_window:
            raise SteeringError(
                f"the conversation has {taken} tokens, and with an answer of up to {tokens} it "
                f"outgrows the context window of {lm.context_window}; {way_out}, or start with a "
                "smaller --max-new-tokens"
            )

    def stream(
        self, messages: Messages, steer: Steered, strength: float, decoding: dict[str, Any]
    ) -> Generator[str]:
        """Yield an answer piece by piece."""
        return self._steerer.stream(messages, steer=steer, strength=strength, **decoding)

    def compare(self, question: ShownPrompt, decoding: dict[str, Any]) -> Answers:
        """Return the unsteered, the prompted and the steered answer."""
        return compare(self._steerer, [question], decoding)[0]

    def check_edit(self, edit: Edit | EditSet) -> None:
        """Refuse an edit that is not for this model."""
        sites_of(self._steerer.lm, edit)

    def save(self, steer: str | Edit | EditSet, messages: Messages, path: str) -> None:
        """Write the edit for the last of some messages to a file."""
        edit = self._steerer.edit(steer, prompt=messages) if isinstance(steer, str) else steer
        save_edit(edit, path)

    def close(self) -> None:
        """Hold on to nothing."""


class ServedModel:
    """A model behind the address of `hypersteer serve`; see `Model`.

    Args:
        url: the address.
        checkpoint: which of those that it serves; by default the first.
    """

    def __init__(self, url: str, checkpoint: str | None) -> None:
        self._server = SteeredServer(url, checkpoint)
        self.name = f"{self._server.model} at {self._server.url}"

    def check_room(self, messages: Prompt, tokens: int, way_out: str) -> None:
        """Leave that to the server, which says so itself."""

    def stream(
        self, messages: Messages, steer: Steered, strength: float, decoding: dict[str, Any]
    ) -> Generator[str]:
        """Yield an answer piece by piece."""
        self._check(steer)
        steering = None if steer is None else {"text": steer, "strength": strength}
        return self._server.stream(messages, steering, decoding)

    def compare(self, question: ShownPrompt, decoding: dict[str, Any]) -> Answers:
        """Return the unsteered, the prompted and the steered answer."""
        assert isinstance(question.steer, str)
        messages = question.prompt
        assert not isinstance(messages, str)
        told: Any = prompted(messages, question.steer)
        steering = {"text": question.steer, "strength": question.strength}
        asked = ((messages, None), (told, None), (messages, steering))
        unsteered, said, steered = ("".join(self._server.stream(*one, decoding)) for one in asked)
        return Answers(unsteered, said, steered)

    def check_edit(self, edit: Edit | EditSet) -> None:
        """Refuse an edit of a file, which the server does not have.

        Raises:
            SteeringError: saying so.
        """
        self._check(edit)

    def save(self, steer: str | Edit | EditSet, messages: Messages, path: str) -> None:
        """Write the edit to a file of this machine."""
        del messages  # the server makes edits of steering prompts alone
        self._check(steer)
        assert isinstance(steer, str)
        target: Path = output_file(path, "the file of the edit")
        content = self._server.edit_file(steer)
        with replacing(target) as temporary:
            temporary.write_bytes(content)
        notice(f"wrote the edit to {target}")

    def close(self) -> None:
        """Close the connection."""
        self._server.close()

    def _check(self, steer: Steered) -> None:
        if isinstance(steer, (Edit, EditSet)):
            raise SteeringError(
                "the edit is in a file of this machine; store it on the server (PUT "
                "/v1/edits/NAME/file), or talk to a local model"
            )
