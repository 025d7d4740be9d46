"""`hypersteer chat`: a conversation with a steered model in the terminal."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from hypersteer.cli.options import Checkpoint, Loading, OptionalText, Sampling, open_steerer, parse
from hypersteer.concepts import validate_steering_prompt
from hypersteer.errors import SteeringError, nearest, one_line

if TYPE_CHECKING:
    from hypersteer.cli.show import Question
    from hypersteer.steering import Steer, Steerer

COMMANDS = {
    "/steer": ("[TEXT]", "steer by this steering prompt; without TEXT do not steer"),
    "/strength": ("X", "multiply the edit by X; 0 is unsteered, negative steers away"),
    "/edit": ("FILE", "steer by the edit in a .safetensors file"),
    "/save": ("FILE", "write the edit that steers the last question to a file"),
    "/compare": ("[TEXT]", "answer TEXT, or the last or next question, in three ways"),
    "/system": ("[TEXT]", "set the system message; without TEXT have none"),
    "/reset": ("", "forget the conversation, not the settings"),
    "/help": ("", "show this"),
    "/quit": ("", "leave; so does the end of the input"),
}
Messages = list[dict[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """Talk to a steered model in the terminal; /help there lists what can be changed on the way.

    Answers go to the standard output and all else to stderr, so that a script can pipe questions
    in and answers out. Ctrl-C stops an answer.

    examples:
      hypersteer chat runs/demo --steer "talk like a pirate"
      hypersteer chat runs/demo --strength 1.5 --temperature 0.7
    """

    checkpoint: Checkpoint
    """Folder that 'hypersteer train' wrote to, or the Hub id of a checkpoint."""
    steer: OptionalText = None
    """Steering prompt to start with; unsteered without one."""
    strength: float = 1.0
    """Multiplies the edit: 0 is unsteered, negative steers away."""
    system: OptionalText = None
    """System message; by default what the model's chat template has."""
    sampling: Annotated[Sampling, arg(name="")] = field(default_factory=Sampling)
    loading: Annotated[Loading, arg(name="")] = field(default_factory=Loading)


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    args = parse(Chat, argv, "chat")
    if args.steer is not None:
        validate_steering_prompt(args.steer)

    from hypersteer.edits import check_strength

    check_strength(args.strength)
    args.sampling.settings()
    conversation = Conversation(open_steerer(args.checkpoint, args.loading), args)
    for line in _lines():
        if line in ("/quit", "/exit"):
            return
        conversation.take(line)


def _lines() -> Iterator[str]:
    """What the user types or pipes in, without empty lines."""
    typed = sys.stdin.isatty()
    if typed:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (line editing and history for `input`)
    while True:
        try:
            line = (input("you> ") if typed else input()).strip()
        except EOFError:
            return
        if line:
            yield line


class Conversation:
    """The turns so far, and what steers the next answer.

    Args:
        steerer: the steered model.
        args: the command's options.
    """

    def __init__(self, steerer: "Steerer", args: Chat) -> None:
        from hypersteer.cli.show import notice

        self._steerer = steerer
        self._decoding = args.sampling.settings()
        self._steer: Steer = args.steer
        self._strength = args.strength
        self._system = args.system or ""
        self._turns: Messages = []
        self._compare_next = False
        self._notice = notice
        self._commands: dict[str, Callable[[str], None]] = {
            "/steer": self._set_steer,
            "/strength": self._set_strength,
            "/edit": self._set_edit,
            "/save": self._save,
            "/compare": self._compare,
            "/system": self._set_system,
            "/reset": self._reset,
            "/help": self._help,
        }
        self._notice(f"{steerer.lm.name}; /help lists commands, /quit leaves")
        self._tell_steering()

    def take(self, line: str) -> None:
        """Answer a question or follow a command; an error is one line and changes nothing."""
        word, _, rest = line.partition(" ")
        try:
            if not line.startswith("/"):
                self._ask(line)
            elif word in self._commands:
                self._commands[word](rest.strip())
            else:
                raise SteeringError(f"unknown command '{word}'{nearest(word, COMMANDS)}")
        except (SteeringError, RuntimeError, MemoryError) as error:
            self._notice(f"error: {one_line(error)}")
        except KeyboardInterrupt:
            self._notice("\nstopped")

    def _ask(self, text: str) -> None:
        """Answer a question and remember both."""
        messages = self._with(text)
        if self._compare_next:
            answer = self._in_three_ways(messages)
            self._compare_next = False
        else:
            answer = self._streamed(messages)
        user = {"role": "user", "content": text}
        self._turns += [user, {"role": "assistant", "content": answer}]

    def _streamed(self, messages: Messages) -> str:
        """Print an answer while it is made; if it is stopped, what there is of it counts."""
        self._check_room(messages)
        pieces: list[str] = []
        stream = self._steerer.stream(
            messages, steer=self._steer, strength=self._strength, **self._decoding
        )
        with contextlib.closing(stream), contextlib.suppress(KeyboardInterrupt):
            for piece in stream:
                pieces.append(piece)
                print(piece, end="", flush=True)
        print(flush=True)
        return "".join(pieces)

    def _in_three_ways(self, messages: Messages) -> str:
        """Print unsteered, prompted and steered answers; the last of them."""
        from hypersteer.cli.show import compare, print_answers, with_words

        question = self._question(messages)
        longest = with_words(question) if isinstance(self._steer, str) else messages
        self._check_room(longest)
        (answers,) = compare(self._steerer, [question], self._decoding)
        print_answers(question, answers)
        return answers.steered

    def _question(self, messages: Messages) -> "Question":
        """A steered question.

        Raises:
            SteeringError: if nothing steers.
        """
        from hypersteer.cli.show import Question

        if self._steer is None:
            raise SteeringError("nothing steers yet; give a steering prompt with /steer TEXT")
        return Question(messages, self._steer, self._strength)

    def _check_room(self, messages: "Messages | Sequence[dict[str, str]]") -> None:
        """Refuse what outgrows the context window.

        Raises:
            SteeringError: saying how to go on.
        """
        lm, room = self._steerer.lm, self._decoding["max_new_tokens"]
        taken = len(lm.chat.prompt(messages).ids)
        if taken + room > lm.context_window:
            way_out = "/reset starts a new one" if self._turns else "ask a shorter question"
            raise SteeringError(
                f"the conversation has {taken} tokens, and with an answer of up to {room} it does "
                f"not fit the context window of {lm.context_window}; {way_out}, or run with a "
                "smaller --max-new-tokens"
            )

    def _with(self, text: str) -> Messages:
        """The conversation with one more question."""
        return [*self._before(), *self._turns, {"role": "user", "content": text}]

    def _last(self) -> Messages | None:
        """The conversation up to the last question; None before the first."""
        return [*self._before(), *self._turns[:-1]] if self._turns else None

    def _before(self) -> Messages:
        return [{"role": "system", "content": self._system}] if self._system else []

    def _set_steer(self, text: str) -> None:
        self._steer = text or None
        self._tell_steering()

    def _set_strength(self, text: str) -> None:
        from hypersteer.edits import check_strength

        try:
            strength = float(text)
        except ValueError:
            raise SteeringError(f"/strength {text!r} is not a number; try /strength 1.5") from None
        self._strength = check_strength(strength)
        self._tell_steering()

    def _set_edit(self, path: str) -> None:
        from hypersteer.edits import load_edit
        from hypersteer.lm.requests import check_edit

        edit = load_edit(_file(path, "/edit"))
        check_edit(self._steerer.lm, edit)
        self._steer = edit
        self._tell_steering()

    def _save(self, path: str) -> None:
        path, edit = _file(path, "/save"), self._steer
        if edit is None or isinstance(edit, str):
            messages = self._last()
            if messages is None:
                raise SteeringError("an edit is made for a question; ask one first")
            edit = self._steerer.edit(self._question(messages).steer, prompt=messages)
        self._notice(f"wrote the edit (norm {edit.norm:.3g} at strength 1) to {edit.save(path)}")

    def _compare(self, text: str) -> None:
        messages = self._last()
        if text or messages is None:
            self._question([])  # nothing to compare with, if nothing steers
            self._compare_next = True
            if text:
                self._ask(text)
            else:
                self._notice("the next question is answered in three ways")
        else:
            self._in_three_ways(messages)

    def _set_system(self, text: str) -> None:
        self._system = text
        self._notice(f"system message: {text or 'none'}")

    def _reset(self, _: str) -> None:
        self._turns = []
        self._notice("a new conversation")

    def _help(self, _: str) -> None:
        for name, (argument, text) in COMMANDS.items():
            self._notice(f"  {f'{name} {argument}':<16} {text}")

    def _tell_steering(self) -> None:
        steer, strength = self._steer, f"at strength {self._strength:g}"
        if steer is None:
            self._notice("unsteered; /steer TEXT changes that")
        elif isinstance(steer, str):
            self._notice(f"steering prompt: {steer} ({strength})")
        else:
            self._notice(f"steering by an edit: {steer.steering_prompt or 'no name'} ({strength})")


def _file(path: str, command: str) -> str:
    """A file's name.

    Raises:
        SteeringError: if none was given.
    """
    if not path:
        raise SteeringError(f"{command} needs a file; try {command} pirate.safetensors")
    return path
