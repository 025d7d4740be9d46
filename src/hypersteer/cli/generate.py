"""`hypersteer generate`: prompts in, steered answers out."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, UseAppendAction, arg

from hypersteer.cli.inputs import read_beside, read_prompts
from hypersteer.cli.options import (
    BUNDLED,
    Flag,
    Loading,
    Named,
    OptionalText,
    Sampling,
    names_checkpoint,
    open_steerer,
    parse,
)
from hypersteer.cli.rules import Gating, describe, read_rules
from hypersteer.concepts import validate_steering_prompt
from hypersteer.errors import ConfigError, SteeringError
from hypersteer.files import output_file

if TYPE_CHECKING:
    from hypersteer.cli.show import ShownPrompt
    from hypersteer.conditions.rules import Check
    from hypersteer.steering import Steerer


@dataclass(frozen=True, slots=True, kw_only=True)
class Generate:
    r"""Answer prompts, steered by words. One answer streams; several are made in batches.

    Examples:
      hypersteer generate "Tell me about your day." --steer "talk like a pirate"
      hypersteer generate "Why is it blue?" --checkpoint runs/demo --steer "be gloomy" --compare
      hypersteer generate "Hi." "Bye." --steer "be gloomy" --strength 0.5 --strength 2
      hypersteer generate --prompts-file prompts.txt --steer "be gloomy" --json
      hypersteer generate "Why does my knee hurt?" --rule "if health then deflect" \
        --condition health=health.safetensors --steer "deflect=refer to a doctor"
    """

    checkpoint: Named = None
    """Folder that 'hypersteer train' wrote to, or a Hub id; by default the one of the package.
    Without this option the first word may be the checkpoint: the folder of one, a word that
    begins with ./ ../ / or ~/, or, before a prompt, a word with a slash and no space."""
    prompts: Annotated[
        tuple[str, ...], Positional, arg(metavar="[PROMPT ...]", help_behavior_hint="")
    ] = ()
    """What to answer."""
    steer: Annotated[
        UseAppendAction[tuple[str, ...]], arg(metavar="TEXT", help_behavior_hint="")
    ] = ()
    """Steering prompt; unsteered without one. Repeat the option to give one per prompt."""
    strength: Annotated[
        UseAppendAction[tuple[float, ...]], arg(metavar="X", help_behavior_hint="(default: 1.0)")
    ] = ()
    """Multiplies the edit: 0 is unsteered, negative steers away. Repeat it for one per prompt."""
    edit: Annotated[
        UseAppendAction[tuple[str, ...]], arg(metavar="FILE", help_behavior_hint="")
    ] = ()
    """Steer by the edit in this .safetensors, .gguf or .svec file instead. Repeat likewise."""
    also: Annotated[
        UseAppendAction[tuple[str, ...]], arg(metavar="FILE[=X]", help_behavior_hint="")
    ] = ()
    """An edit that acts on every prompt besides, at X times its strength; may be repeated."""
    gating: Annotated[Gating, arg(name="")] = field(default_factory=Gating)
    save_edit: OptionalText = None
    """Write the edit for the one prompt to this .safetensors file, or to .gguf for llama.cpp."""
    prompts_file: OptionalText = None
    """File with one more prompt per line; - is the standard input."""
    prompted: Flag = False
    """Put the steering prompt into the prompt as well, as it is anyway if trained so."""
    alone: Flag = False
    """Do not put it into the prompt, however the checkpoint was trained."""
    compare: Flag = False
    """Show the unsteered, the prompted and the steered answer side by side."""
    json: Flag = False
    """Print one JSON object per prompt: prompt, steer, strength, text."""
    batch_size: int = 16
    """Prompts answered at once."""
    sampling: Annotated[Sampling, arg(name="")] = field(default_factory=Sampling)
    loading: Annotated[Loading, arg(name="")] = field(default_factory=Loading)


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    args = parse(Generate, argv, "generate")
    checkpoint, args = _checkpoint(args)
    questions = _questions(args)
    decoding = args.sampling.settings()
    steerer = open_steerer(checkpoint, args.loading)
    said = decoding["prompted"] = args.prompted or (steerer.card.prompted and not args.alone)
    if args.save_edit is not None:
        from hypersteer.cli.show import save_edit
        from hypersteer.lm.messages import prompted

        (question,) = questions
        prompt = prompted(question.prompt, args.steer[0]) if said else question.prompt
        save_edit(steerer.edit(args.steer[0], prompt=prompt), args.save_edit)
    if args.compare:
        _compare(steerer, questions, decoding, args)
    elif len(questions) == 1 and not args.json:
        _stream(steerer, questions[0], decoding)
    else:
        _answer(steerer, questions, decoding, args)


def _checkpoint(args: Generate) -> tuple[str, Generate]:
    """Return which checkpoint answers, and the arguments with only prompts among the prompts."""
    if args.checkpoint is not None:
        return args.checkpoint, args
    if not args.prompts:
        return BUNDLED, args
    first, *rest = args.prompts
    if not names_checkpoint(first, more=bool(rest or args.prompts_file is not None)):
        return BUNDLED, args
    return first, replace(args, prompts=tuple(rest))


def _questions(args: Generate) -> list["ShownPrompt"]:
    """Return what is asked, one per prompt, all that can be checked without a model checked.

    Raises:
        SteeringError: for options that do not go together, lists of different lengths, or values
            that cannot steer.
    """
    if not args.gating.rule:
        _check_without_rules(args)
    if args.compare and not args.steer and not args.edit and not args.also:
        raise ConfigError("--compare needs something to compare with: give --steer or --edit")
    if args.prompted and (args.gating.rule or not args.steer):
        raise ConfigError("--prompted says steering prompts; give --steer, without a --rule")
    if args.prompted and args.alone:
        raise ConfigError("--prompted and --alone exclude each other; give one of them")
    if args.batch_size < 1:
        raise ConfigError(f"--batch-size {args.batch_size} is below 1")
    prompts = [*args.prompts, *_from_file(args.prompts_file)]
    if not prompts:
        raise SteeringError(
            "there is no prompt; give one in quotes, or a --prompts-file; with --checkpoint NAME "
            "every word is a prompt"
        )
    if any(not prompt.strip() for prompt in prompts):
        raise SteeringError("a prompt is empty; give some text")
    if args.save_edit is not None:
        _check_saving(args, args.save_edit, len(prompts))
    texts = [validate_steering_prompt(text) for text in args.steer]

    from hypersteer.cli.show import ShownPrompt
    from hypersteer.edits.edit_set import load_edit
    from hypersteer.edits.sites import check_strength

    if args.gating.rule:
        steers: list[Any] = [read_rules(args.gating, args.edit, args.steer)]
    else:
        steers = texts or [load_edit(path) for path in args.edit] or [None]
    steers = _each(steers, len(prompts), "--steer" if texts else "--edit")
    strengths = [check_strength(strength) for strength in args.strength or (1.0,)]
    strengths = _each(strengths, len(prompts), "--strength")
    besides = tuple(read_beside(given) for given in args.also)
    rows = zip(prompts, steers, strengths, strict=True)
    return [ShownPrompt(prompt, steer, strength, besides) for prompt, steer, strength in rows]


def _check_saving(args: Generate, path: str, count: int) -> None:
    """Refuse to save what is not the edit of one steering prompt for one prompt.

    Raises:
        ConfigError: naming what there is more of, or a file that cannot be written.
    """
    if args.gating.rule:
        raise ConfigError("--save-edit writes one edit, and a --rule may switch several; leave one")
    if count != 1 or not args.steer:
        raise ConfigError(
            f"--save-edit writes the edit of one --steer for one prompt, not for {count} "
            f"prompts and {len(args.steer)} steering prompts"
        )
    output_file(path, "--save-edit")


def _check_without_rules(args: Generate) -> None:
    """Refuse options that only rules have a use for.

    Raises:
        ConfigError: naming the option.
    """
    if args.steer and args.edit:
        raise ConfigError("--steer and --edit exclude each other; give one of them")
    args.gating.check_unused()


def _from_file(name: str | None) -> list[str]:
    return [] if name is None else read_prompts(name)


def _each(values: list[Any], count: int, option: str) -> list[Any]:
    """Return one value for each of `count` prompts."""
    if len(values) not in (1, count):
        raise SteeringError(
            f"{option} has {len(values)} values for {count} prompts; give one, or one per prompt"
        )
    return values if len(values) == count else values * count


def _stream(steerer: "Steerer", question: "ShownPrompt", decoding: dict[str, Any]) -> None:
    from hypersteer.cli.show import notice
    from hypersteer.conditions.rules import Decisions

    log = Decisions()
    options: dict[str, Any] = {"strength": question.strength, "decisions": log, **decoding}
    for piece in steerer.stream(question.prompt, edits=question.everything, **options):
        print(piece, end="", flush=True)
    print()
    if log.rows[0]:
        notice(describe(log.rows[0]))


def _answer(
    steerer: "Steerer", questions: Sequence["ShownPrompt"], decoding: dict[str, Any], args: Generate
) -> None:
    """Print the steered answers, batch by batch."""
    from hypersteer.cli.show import notice
    from hypersteer.conditions.rules import Decisions

    for batch, options in _batches(questions, decoding, args.batch_size):
        log = Decisions()
        texts = steerer.generate(
            [question.prompt for question in batch],
            steer=[question.everything for question in batch],
            strength=[question.strength for question in batch],
            decisions=log,
            **options,
        )
        for question, text, checks in zip(batch, texts, log.rows, strict=True):
            if args.json:
                _print_json(question, text, _decided(checks))
                continue
            print(f"> {question.text}\n{text.strip()}\n", flush=True)
            if checks:
                notice(describe(checks))


def _compare(
    steerer: "Steerer", questions: Sequence["ShownPrompt"], decoding: dict[str, Any], args: Generate
) -> None:
    """Print the answers in three ways, batch by batch."""
    from hypersteer.cli.show import compare, notice, print_answers

    for batch, options in _batches(questions, decoding, max(1, args.batch_size // 3)):
        for question, answers in zip(batch, compare(steerer, batch, options), strict=True):
            if args.json:
                others = {"unsteered": answers.unsteered, "prompted": answers.prompted}
                _print_json(question, answers.steered, others | _decided(answers.checks))
                continue
            print_answers(question, answers)
            if answers.checks:
                notice(describe(answers.checks))


def _decided(checks: Sequence["Check"]) -> dict[str, Any]:
    """Return what was decided on a row, where there are rules, for a line of JSON."""
    return {"decisions": [check.as_dict() for check in checks]} if checks else {}


def _batches(
    questions: Sequence["ShownPrompt"], decoding: dict[str, Any], size: int
) -> Iterator[tuple[Sequence["ShownPrompt"], dict[str, Any]]]:
    """Yield the questions of each batch, and decoding settings with its first seed."""
    for start in range(0, len(questions), size):
        options = {**decoding, "seed": decoding["seed"] + start}
        yield questions[start : start + size], options


def _print_json(question: "ShownPrompt", text: str, more: dict[str, Any]) -> None:
    line = {
        "prompt": question.prompt,
        "steer": question.steering_prompt,
        "strength": question.strength,
        "text": text,
    }
    print(json.dumps(line | more, ensure_ascii=False), flush=True)
