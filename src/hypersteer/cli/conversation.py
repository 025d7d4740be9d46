"""A steered conversation: the turns so far, the commands that change it, and its answers."""

import contextlib
from typing import Any

from hypersteer.cli.rules import describe
from hypersteer.cli.show import ShownPrompt, notice, print_answers
from hypersteer.cli.talking import Messages, Model, Steering
from hypersteer.conditions.rules import Decisions
from hypersteer.edits.edit import Edit
from hypersteer.edits.edit_set import EditSet, load_edit
from hypersteer.edits.sites import check_strength
from hypersteer.errors import SteeringError, nearest, one_line
from hypersteer.lm.messages import Prompt, prompted
from hypersteer.values import check_text


class Conversation:
    """Answers questions, follows commands, and remembers the turns.

    Args:
        model: whom it is with.
        decoding: keyword arguments of `Steerer.generate`.
        steering: what steers the next answer.
        system: system message; empty for none.
    """

    def __init__(
        self,
        model: Model,
        decoding: dict[str, Any],
        *,
        steering: Steering | None = None,
        system: str = "",
    ) -> None:
        self._model = model
        self._decoding = decoding
        self._steering = steering or Steering()
        self._system = system
        self._turns: Messages = []
        self._compare_next = False
        # Name: method, argument, help. `hypersteer chat` itself takes /quit.
        self._commands = {
            "/steer": (self._set_steer, "[TEXT]", "steer by a steering prompt; by none: unsteered"),
            "/rule": (self._add_rule, "[RULE]", "steer when a rule fires, too; by none: no rules"),
            "/strength": (self._set_strength, "X", "multiply the edit by X; 0 is unsteered"),
            "/edit": (self._set_edit, "FILE", "steer by the edit in a .safetensors file"),
            "/save": (self._save, "FILE", "write the edit for the last question to a file"),
            "/compare": (self._compare, "[TEXT]", "answer TEXT or the last question three ways"),
            "/system": (self._set_system, "[TEXT]", "set the system message; by none: clear it"),
            "/reset": (self._reset, "", "forget the turns, keep the settings"),
            "/help": (self._help, "", "show this list"),
            "/quit": (self._help, "", "leave, as the end of the input does"),
        }
        notice(f"{model.name}; /help lists commands, /quit leaves")
        self._tell_steering()

    def take(self, line: str) -> None:
        """Answer a question or follow a command; an error is one line and changes nothing."""
        word, _, rest = line.partition(" ")
        try:
            check_text(line, "the line")
            if not line.startswith("/"):
                self._ask(line, three_ways=self._compare_next)
                self._compare_next = False
            elif word in self._commands:
                self._commands[word][0](rest.strip())
            else:
                raise SteeringError(f"unknown command '{word}'{nearest(word, self._commands)}")
        except (SteeringError, RuntimeError, MemoryError) as error:
            notice(f"error: {one_line(error)}")
        except KeyboardInterrupt:
            notice("\nstopped")

    def _ask(self, text: str, *, three_ways: bool) -> None:
        """Answer a question and remember both."""
        user = {"role": "user", "content": text}
        messages = [*self._before(), *self._turns, user]
        answer = self._in_three_ways(messages) if three_ways else self._streamed(messages)
        self._turns += [user, {"role": "assistant", "content": answer}]

    def _streamed(self, messages: Messages) -> str:
        """Print an answer while it is made; if it is stopped, what there is of it counts."""
        self._check_room(messages)
        pieces: list[str] = []
        log = Decisions([[]])
        stream = self._model.stream(messages, self._steering, self._decoding, log)
        with contextlib.closing(stream), contextlib.suppress(KeyboardInterrupt):
            for piece in stream:
                pieces.append(piece)
                print(piece, end="", flush=True)
        print(flush=True)
        if log.rows[0]:
            notice(describe(log.rows[0]))
        return "".join(pieces)

    def _in_three_ways(self, messages: Messages) -> str:
        """Print the unsteered, the prompted and the steered answer; return the last."""
        steer = self._steering.steer
        self._check_room(prompted(messages, steer) if isinstance(steer, str) else messages)
        answers = self._model.compare(messages, self._steering, self._decoding)
        told, strength = self._steering.told, self._steering.strength
        print_answers(ShownPrompt(messages, told, strength), answers)
        if answers.checks:
            notice(describe(answers.checks))
        return answers.steered

    def _before(self) -> Messages:
        return [{"role": "system", "content": self._system}] if self._system else []

    def _last(self) -> Messages:
        """Return the conversation up to the last question.

        Raises:
            SteeringError: before the first question.
        """
        if not self._turns:
            raise SteeringError("an edit is made for a question; ask one first")
        return [*self._before(), *self._turns[:-1]]

    def _needed(self) -> str | Edit | EditSet:
        """Return what always steers.

        Raises:
            SteeringError: if nothing does.
        """
        if self._steering.steer is None:
            raise SteeringError("nothing steers yet; give a steering prompt with /steer TEXT")
        return self._steering.steer

    def _check_room(self, prompt: Prompt) -> None:
        """Refuse what outgrows the context window.

        Raises:
            SteeringError: saying how to continue.
        """
        way_out = "/reset starts a new one" if self._turns else "ask a shorter question"
        self._model.check_room(prompt, self._decoding["max_new_tokens"], way_out)

    def _set_steer(self, text: str) -> None:
        self._steering = self._steering._replace(steer=text or None)
        self._tell_steering()

    def _add_rule(self, text: str) -> None:
        lines = (*self._steering.rules, text) if text else ()
        if lines:
            self._model.check_rules(lines)
        self._steering = self._steering._replace(rules=lines)
        self._tell_steering()

    def _set_strength(self, text: str) -> None:
        try:
            strength = float(text)
        except ValueError:
            raise SteeringError(f"/strength '{text}' is not a number; try /strength 1.5") from None
        self._steering = self._steering._replace(strength=check_strength(strength))
        self._tell_steering()

    def _set_edit(self, path: str) -> None:
        edit = load_edit(_file(path, "/edit"))
        self._model.check_edit(edit)
        self._steering = self._steering._replace(steer=edit)
        self._tell_steering()

    def _save(self, path: str) -> None:
        path, steer = _file(path, "/save"), self._needed()
        messages = self._last() if isinstance(steer, str) else []
        self._model.save(steer, messages, path)

    def _compare(self, text: str) -> None:
        if not self._steering.rules:
            self._needed()
        if text:
            self._ask(text, three_ways=True)
        elif self._turns:
            self._in_three_ways(self._last())
        else:
            self._compare_next = True
            notice("the next question is answered unsteered, prompted and steered")

    def _set_system(self, text: str) -> None:
        self._system = text
        notice(f"system message: {text or 'none of yours'}")

    def _reset(self, _: str) -> None:
        self._turns = []
        notice("a new conversation, with the same settings")

    def _help(self, _: str) -> None:
        for name, (_method, argument, text) in self._commands.items():
            notice(f"  {f'{name} {argument}':<15} {text}")

    def _tell_steering(self) -> None:
        steer, strength, lines = self._steering
        if steer is None and not lines:
            notice("unsteered; /steer TEXT changes that")
        if steer is not None:
            plain = isinstance(steer, str)
            named = steer if plain else f"{steer.steering_prompt or 'unnamed'} (edit)"
            notice(f"steering prompt: {named}, strength {strength:g}")
        for line in lines:
            notice(f"rule: {line}, strength {strength:g}")


def _file(path: str, command: str) -> str:
    """Return a file's name.

    Raises:
        SteeringError: if none was given.
    """
    if not path:
        raise SteeringError(f"{command} needs a file; try {command} pirate.safetensors")
    return path
