"""Answers side by side, notices, and what to run next, as several commands print them."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hypersteer.conditions.rules import Check, Decisions, Rules
from hypersteer.edits.control_vector import SUFFIX
from hypersteer.edits.edit import Edit
from hypersteer.edits.edit_set import EditSet
from hypersteer.lm.chat import Prompt
from hypersteer.lm.messages import prompted
from hypersteer.steering import Steer, Steerer


class ShownPrompt(NamedTuple):
    """A prompt, what steers the answer, how strongly, and edits and rules that act besides."""

    prompt: Prompt
    steer: Steer
    strength: float = 1.0
    edits: tuple[tuple[Edit | EditSet | Rules, float], ...] = ()

    @property
    def everything(self) -> list[Any]:
        """All that steers the answer, in the order in which it acts."""
        return [*([] if self.steer is None else [self.steer]), *self.edits]

    @property
    def text(self) -> str:
        """The prompt; of a conversation its last turn."""
        return self.prompt if isinstance(self.prompt, str) else self.prompt[-1]["content"]

    @property
    def steering_prompt(self) -> str | None:
        """The words that steer; of an edit those that it was made from, of rules their text."""
        steer = self.steer
        return steer if steer is None or isinstance(steer, str) else steer.steering_prompt


SHOWN = ("unsteered", "prompted", "steered", "shipped")
"""The answers, in the order of their columns."""


class Answers(NamedTuple):
    """Answers to one question.

    Attributes:
        unsteered: by the base LM as it is.
        prompted: with the steering prompt in the user turn; None where there are no words.
        steered: under the edit.
        shipped: by the package's own checkpoint, where asked.
        checks: what rules decided on the steered row.
    """

    unsteered: str
    prompted: str | None
    steered: str
    shipped: str | None = None
    checks: Sequence[Check] = ()


def compare(
    steerer: Steerer, questions: Sequence[ShownPrompt], decoding: dict[str, Any]
) -> list[Answers]:
    """Answer every question unsteered, prompted and steered, all in one batch.

    An edit from a file has no words to prompt with, so there the prompted answer is None.

    Args:
        steerer: the steered model.
        questions: what to answer; each is steered by something.
        decoding: keyword arguments of `Steerer.generate`; the seed counts up by question.
    """
    rows: list[tuple[Prompt, list[Any], float, int]] = []
    for number, question in enumerate(questions):
        seed = decoding["seed"] + number
        rows.append((question.prompt, [], 0.0, seed))
        if isinstance(question.steer, str):
            rows.append((prompted(question.prompt, question.steer), [], 0.0, seed))
        rows.append((question.prompt, question.everything, question.strength, seed))
    prompts, steers, strengths, seeds = zip(*rows, strict=True)
    options: dict[str, Any] = {**decoding, "seed": tuple(seeds)}
    log = Decisions()
    texts = steerer.generate(
        list(prompts), steer=list(steers), strength=list(strengths), decisions=log, **options
    )
    rest = iter(zip(texts, log.rows, strict=True))
    found = []
    for question in questions:
        unsteered, _ = next(rest)
        words = next(rest)[0] if isinstance(question.steer, str) else None
        steered, checks = next(rest)
        found.append(Answers(unsteered, words, steered, checks=checks))
    return found


def print_answers(question: ShownPrompt, answers: Answers, note: str = "") -> None:
    """Print the answers to one question in columns.

    Args:
        question: what was asked.
        answers: its answers.
        note: a remark on the steering prompt.
    """
    steering = f"steering prompt: {question.steering_prompt or '(an edit)'}"
    strength = "" if question.strength == 1 else f", strength {question.strength:g}"
    title = Text.assemble(
        (question.text, "bold"), "\n", (steering, "cyan"), strength, (f" {note}" if note else "")
    )
    table = Table(title=title, title_justify="left", title_style="", expand=True)
    found = {name: getattr(answers, name) for name in SHOWN}
    shown = {name: text for name, text in found.items() if text is not None}
    for name in shown:
        table.add_column(name, ratio=1)
    table.add_row(*(Text(text.strip()) for text in shown.values()))
    console = Console()
    console.print(table)
    console.print()


def save_edit(edit: Edit | EditSet | list[Edit | EditSet], path: str) -> None:
    """Save an edit, and say so; one steering prompt gives no list of them."""
    assert not isinstance(edit, list)
    size = ""
    if isinstance(edit, EditSet):
        size = f" of {len(edit)} blocks"
    elif "vector" in edit.params:
        size = f" (norm {edit.norm:.3g} at strength 1)"
    written = edit.save(path)
    notice(f"wrote the edit{size} to {written}")
    if written.suffix.lower() == SUFFIX:
        notice(f"llama.cpp takes it as --control-vector {written}, and steers the chat prefix too")


def notice(text: str) -> None:
    """Print a line that is no answer, to stderr."""
    print(text, file=sys.stderr, flush=True)


def print_next(folder: str | Path, steering_prompt: str) -> None:
    """Print what can be done with a checkpoint."""
    quoted = shlex.quote(str(folder))
    print(
        "next:\n"
        f'  hypersteer generate {quoted} "Tell me about your day." '
        f"--steer {shlex.quote(steering_prompt)} --compare\n"
        f"  hypersteer chat {quoted}\n"
        f"  hypersteer concepts {quoted}"
    )
