"""Whom a conversation is with: a model in this process, or one behind a server's address."""

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from hypersteer.cli.show import Answers, ShownPrompt, compare, notice, save_edit
from hypersteer.conditions.grammar import parse_rules
from hypersteer.conditions.rules import Check, Decisions, rules
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


class Steering(NamedTuple):
    """What steers the answers of a conversation.

    Attributes:
        steer: a steering prompt or an edit, which always acts; None for none.
        strength: multiplies it, and the edits of the rules.
        rules: lines that say what acts besides, and when.
    """

    steer: Steered = None
    strength: float = 1.0
    rules: tuple[str, ...] = ()

    @property
    def told(self) -> str:
        """The steering prompt; where there is none, the rules."""
        if self.steer is None:
            return "; ".join(self.rules)
        return self.steer if isinstance(self.steer, str) else self.steer.steering_prompt


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
        self, messages: Messages, steering: Steering, decoding: dict[str, Any], log: Decisions
    ) -> Generator[str]:
        """Yield an answer piece by piece; what rules decide is in the log when it has ended."""
        ...

    def compare(self, messages: Messages, steering: Steering, decoding: dict[str, Any]) -> Answers:
        """Return the unsteered, the prompted and the steered answer."""
        ...

    def check_edit(self, edit: Edit | EditSet) -> None:
        """Refuse an edit that is not for this model."""
        ...

    def check_rules(self, lines: Sequence[str]) -> None:
        """Refuse rules that cannot be read."""
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
        self, messages: Messages, steering: Steering, decoding: dict[str, Any], log: Decisions
    ) -> Generator[str]:
        """Yield an answer piece by piece."""
        steer, strength, lines = steering
        besides = (rules(lines),) if lines else ()
        options: dict[str, Any] = {"edits": besides, "decisions": log, **decoding}
        return self._steerer.stream(messages, steer=steer, strength=strength, **options)

    def compare(self, messages: Messages, steering: Steering, decoding: dict[str, Any]) -> Answers:
        """Return the unsteered, the prompted and the steered answer."""
        steer, strength, lines = steering
        gated = rules(lines) if lines else None
        besides = () if gated is None or steer is None else ((gated, 1.0),)
        question = ShownPrompt(messages, gated if steer is None else steer, strength, besides)
        return compare(self._steerer, [question], decoding)[0]

    def check_edit(self, edit: Edit | EditSet) -> None:
        """Refuse an edit that is not for this model."""
        sites_of(self._steerer.lm, edit)

    def check_rules(self, lines: Sequence[str]) -> None:
        """Refuse rules that cannot be read, or name what only a file could hold.

        Raises:
            SteeringError: pointing to the place.
        """
        rules(lines)

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
        self, messages: Messages, steering: Steering, decoding: dict[str, Any], log: Decisions
    ) -> Generator[str]:
        """Yield an answer piece by piece."""
        parts = self._parts(steering)
        log.restart(1)
        return self._streamed(messages, parts, decoding, log)

    def compare(self, messages: Messages, steering: Steering, decoding: dict[str, Any]) -> Answers:
        """Return the unsteered, the prompted and the steered answer."""
        parts, steer = self._parts(steering), steering.steer
        unsteered = "".join(self._server.stream(messages, None, decoding))
        said = None
        if isinstance(steer, str):
            told: Any = prompted(messages, steer)
            said = "".join(self._server.stream(told, None, decoding))
        log = Decisions([[]])
        steered = "".join(self._streamed(messages, parts, decoding, log))
        return Answers(unsteered, said, steered, checks=log.rows[0])

    def _streamed(
        self, messages: Messages, parts: Any, decoding: dict[str, Any], log: Decisions
    ) -> Generator[str]:
        told: list[Any] = []
        yield from self._server.stream(messages, parts, decoding, told=told.append)
        for one in told:
            log.rows[0] += [as_check(check) for check in one["answers"][0].get("decisions", [])]

    def _parts(self, steering: Steering) -> list[dict[str, Any]] | None:
        """Return what steers, as requests have it."""
        steer, strength, lines = steering
        self._check(steer)
        parts: list[dict[str, Any]] = (
            [] if steer is None else [{"text": steer, "strength": strength}]
        )
        if lines:
            parts.append({"rules": "\n".join(lines), "strength": strength})
        return parts or None

    def check_edit(self, edit: Edit | EditSet) -> None:
        """Refuse an edit of a file, which the server does not have.

        Raises:
            SteeringError: saying so.
        """
        self._check(edit)

    def check_rules(self, lines: Sequence[str]) -> None:
        """Refuse rules that cannot be read; the server knows the names in them.

        Raises:
            SteeringError: pointing to the place.
        """
        parse_rules("\n".join(lines))

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


def as_check(told: Mapping[str, Any]) -> Check:
    """Return a check of rules from its JSON values; see `Check.as_dict`."""
    conditions, edits = tuple(told["conditions"]), tuple(told["edits"])
    return Check(told["token"], told["scores"], conditions, edits, told.get("probabilities"))
