"""What `conditions fit` and `conditions test` share: their prompts, and a progress bar."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import Positional, arg

from hypersteer.cli.options import OptionalText
from hypersteer.errors import ConfigError

if TYPE_CHECKING:
    from hypersteer.conditions.contrasts import Sides
    from hypersteer.lm.base import BaseLM

Labelled = Annotated[
    str | None, Positional, tyro.conf.DisallowNone, arg(metavar="[PROMPTS]", help_behavior_hint="")
]
"""A file whose lines say which side they are on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """Prompts in and off the topic."""

    positives: Annotated[OptionalText, arg(name="in", metavar="FILE", help_behavior_hint="")] = None
    """Prompts in the topic, one a line, or a .jsonl file of lines {"prompt": TEXT}."""
    negatives: Annotated[OptionalText, arg(name="off", metavar="FILE", help_behavior_hint="")] = (
        None
    )
    """Prompts off the topic, likewise; in the same order where they make pairs."""
    split: OptionalText = None
    """Only lines of PROMPTS that have this split, such as train."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """The base LM whose states are read."""

    lm: str = "smollm2-135m-instruct"
    """Alias, Hugging Face id, local folder, or .gguf file."""
    device: OptionalText = None
    """cpu, cuda, cuda:1 or mps; by default the best there is."""
    dtype: OptionalText = None
    """float32, bfloat16 or float16; by default float32 on a CPU, else bfloat16."""

    def load(self) -> "BaseLM":
        """The base LM.

        Raises:
            ModelError: if it cannot be loaded.
        """
        from hypersteer.lm.load import load_lm

        return load_lm(self.lm, device=self.device, dtype=self.dtype)


def read_sides(labelled: str | None, topic: Topic) -> "Sides":
    """The prompts of both sides.

    Raises:
        ConfigError: unless there is one labelled file, or a file for each side.
        DataError: if a file cannot be read, is malformed, or holds no prompts.
    """
    from hypersteer.conditions.contrasts import Sides, read_labelled, read_prompts

    two = (topic.positives, topic.negatives)
    if labelled is not None and two == (None, None):
        return read_labelled(labelled, topic.split)
    if labelled is not None or None in two:
        raise ConfigError(
            "give one .jsonl file of prompts with a label, or two files with --in and --off"
        )
    if topic.split is not None:
        raise ConfigError("--split picks lines of a labelled file; --in and --off have no splits")
    assert topic.positives is not None
    assert topic.negatives is not None
    return Sides([*read_prompts(topic.positives)], [*read_prompts(topic.negatives)])


@contextmanager
def watching(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr, gone when it is full; nothing where nobody watches."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
