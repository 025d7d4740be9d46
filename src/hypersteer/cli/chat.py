"""`hypersteer chat`: talk to a steered model in the terminal."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from tyro.conf import arg

from hypersteer.cli.options import (
    BUNDLED,
    Checkpoint,
    Loading,
    OptionalText,
    Sampling,
    open_steerer,
    parse,
)
from hypersteer.concepts import validate_steering_prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """Talk to a steered model in the terminal; /help there lists what can be changed on the way.

    Answers go to the standard output and all else to stderr, so that a script can pipe questions
    in and answers out. Ctrl-C stops an answer.

    Examples:
      hypersteer chat runs/demo --steer "talk like a pirate"
      hypersteer chat runs/demo --strength 1.5 --temperature 0.7
    """

    checkpoint: Checkpoint = BUNDLED
    """Folder that 'hypersteer train' wrote to, or a Hub id; without one, that of the package."""
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

    from hypersteer.cli.conversation import Conversation
    from hypersteer.edits import check_strength

    strength, decoding = check_strength(args.strength), args.sampling.settings()
    conversation = Conversation(
        open_steerer(args.checkpoint, args.loading),
        decoding,
        steer=args.steer,
        strength=strength,
        system=args.system or "",
    )
    for line in _lines():
        if line == "/quit":
            return
        conversation.take(line)


def _lines() -> Iterator[str]:
    """What the user types or pipes in, without empty lines."""
    typed = sys.stdin.isatty()
    if typed:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (gives `input` line editing and history)
    while True:
        try:
            line = (input("you> ") if typed else input()).strip()
        except EOFError:
            return
        if line:
            yield line
