"""A harness's texts as tokens: contexts, chats that it rendered, and words that they are to say."""

import logging
from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from hypersteer.errors import ConfigError
from hypersteer.harnesses.steered import Steered
from hypersteer.lm.chat import PromptIds, common
from hypersteer.lm.control import QUIETLY
from hypersteer.lm.messages import Messages, as_messages, prompted

log = logging.getLogger(__name__)


class Texts:
    """Turns texts into tokens for one base LM.

    A harness renders a chat first and asks with its text later, so chats are remembered by it.

    Args:
        steered: who answers.
    """

    def __init__(self, steered: Steered) -> None:
        self._steered, self._tokenizer = steered, steered.lm.tokenizer
        self._chats: dict[str, tuple[Messages, bool]] = {}

    @property
    def first(self) -> int:
        """The token that begins a text."""
        bos = self._tokenizer.bos_token_id
        return self._tokenizer.eos_token_id if bos is None else bos

    def ids(self, text: str, *, special: bool = True) -> list[int]:
        """Return the tokens of a text, with the tokenizer's own around it unless it has them."""
        own = special and not text.startswith(str(self._tokenizer.decode([self.first])))
        return list(self._tokenizer(text, add_special_tokens=own, **QUIETLY)["input_ids"])

    def prompt(self, ids: Sequence[int]) -> PromptIds:
        """Return tokens as a prompt; what they share with the chat prefix is not edited."""
        return PromptIds(list(ids), min(common(ids, self._prefix), len(ids) - 1))

    def rendered(self, history: Messages, *, begins: bool) -> str:
        """Return the text of a chat, and remember it.

        Args:
            history: its messages.
            begins: whether an answer is to begin; else the last message goes on.
        """
        text = self._render(history, begins)
        self._chats[text] = history, begins
        return text

    def said(self, context: str, steer: Any) -> str:
        """Return a context that says the steering prompt, where the checkpoint wants that.

        Raises:
            ConfigError: for a chat that was not rendered here.
        """
        if not self._steered.says(steer):
            return context
        if context in self._chats:
            history, begins = self._chats[context]
            return self._render(as_messages(prompted(history, steer)), begins)
        if common(self.ids(context), self._prefix) > len(self._steered.lm.chat.lead):
            raise ConfigError(
                "a steering prompt has to be said in a chat that was rendered elsewhere; leave out "
                "--cache_requests, or give prompted=False"
            )
        return prompted(context, steer)

    @property
    def _prefix(self) -> list[int]:
        return self._steered.lm.chat.prefix

    def _render(self, history: Messages, begins: bool) -> str:
        """Return the text of a chat, without its system message if the template takes none."""
        try:
            return self._templated(history, begins)
        except TemplateError:
            rest = [one for one in history if one["role"] != "system"]
            if len(rest) == len(history):
                raise
            log.warning("the chat template refuses the system message, which is left out")
            return self._templated(rest, begins)

    def _templated(self, history: Messages, begins: bool) -> str:
        return str(
            self._tokenizer.apply_chat_template(
                history,
                tokenize=False,
                add_generation_prompt=begins,
                continue_final_message=not begins,
            )
        )
