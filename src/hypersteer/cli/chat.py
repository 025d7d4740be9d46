"""`hypersteer chat`: talk to a steered model in the terminal."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Annotated

from tyro.conf import UseAppendAction, arg

from hypersteer.cli.inputs import typed_or_piped
from hypersteer.cli.options import (
    BUNDLED,
    Checkpoint,
    Loading,
    Named,
    OptionalText,
    Sampling,
    open_steerer,
    parse,
)
from hypersteer.concepts import validate_steering_prompt
from hypersteer.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """Talk to a steered model in the terminal; /help there lists what can be changed on the way.

    Answers go to the standard output and all else to stderr, so that a script can pipe questions
    in and answers out. Ctrl-C stops an answer.

    Examples:
      hypersteer chat --steer "talk like a pirate"
      hypersteer chat --checkpoint runs/demo --strength 1.5 --temperature 0.7
      hypersteer chat --rule 'if "asks about health" then "send the reader to a doctor"'
      hypersteer chat --server http://127.0.0.1:8000 --steer "talk like a pirate"
    """

    named: Checkpoint = None
    """The same as --checkpoint."""
    checkpoint: Named = None
    """Folder that 'hypersteer train' wrote to, or a Hub id; by default the one of the package."""
    server: OptionalText = None
    """Address of a running 'hypersteer serve' to talk to, instead of loading a checkpoint; its key
    is in HYPERSTEER_API_KEY, and --checkpoint names one that it serves."""
    steer: OptionalText = None
    """Steering prompt to start with; unsteered without one."""
    rule: Annotated[
        UseAppendAction[tuple[str, ...]], arg(metavar="RULE", help_behavior_hint="")
    ] = ()
    """Steer besides when a condition in words fires, as in 'if "asks about health" then "send the
    reader to a doctor"'; may be repeated."""
    strength: float = 1.0
    """Multiplies the edit: 0 is unsteered, negative steers away."""
    system: OptionalText = None
    """System message; by default what the model's chat template has."""
    sampling: Annotated[Sampling, arg(name="")] = field(default_factory=Sampling)
    loading: Annotated[Loading, arg(name="")] = field(default_factory=Loading)


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    args = parse(Chat, argv, "chat")
    given = [one for one in (args.named, args.checkpoint) if one is not None]
    if len(given) > 1:
        raise ConfigError(f"'{args.named}' and --checkpoint {args.checkpoint}: give one checkpoint")
    if args.steer is not None:
        validate_steering_prompt(args.steer)

    from hypersteer.cli.conversation import Conversation
    from hypersteer.cli.talking import LocalModel, ServedModel, Steering
    from hypersteer.conditions.grammar import parse_rules
    from hypersteer.edits.sites import check_strength

    if args.rule:
        parse_rules("\n".join(args.rule))
    steering = Steering(args.steer, check_strength(args.strength), args.rule)
    decoding = args.sampling.settings()
    if args.server is not None:
        model: LocalModel | ServedModel = ServedModel(args.server, (given or [None])[0])
    else:
        model = LocalModel(open_steerer((given or [BUNDLED])[0], args.loading))
    if args.rule:
        model.check_rules(args.rule)
    conversation = Conversation(
        model,
        decoding,
        steering=steering,
        system=args.system or "",
    )
    with closing(model):
        for line in typed_or_piped("you> "):
            if line == "/quit":
                return
            conversation.take(line)
