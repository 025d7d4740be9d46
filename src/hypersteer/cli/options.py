"""Parsing, and the options that several commands share. Loads no torch."""

import contextlib
import difflib
import inspect
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import tyro
from tyro.conf import UseAppendAction, arg

from hypersteer.errors import ConfigError, SteeringError
from hypersteer.files import holds_checkpoint, path_of

if TYPE_CHECKING:
    from hypersteer.steering import Steerer

T = TypeVar("T")

OptionalText = Annotated[str | None, tyro.conf.DisallowNone, arg(help_behavior_hint="")]
"""An option with a text value, whose help text says what happens without it."""
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff, arg(help_behavior_hint="")]
"""An option that is off unless it is given."""
BUNDLED = "bundled"
PATHS = ("./", "../", "/", "~/")
"""What a word that is meant as a path begins with."""
Named = Annotated[OptionalText, arg(metavar="NAME", help_behavior_hint="")]
"""The option that names a checkpoint; without it, that of the package."""
Checkpoint = Annotated[
    str | None,
    tyro.conf.Positional,
    tyro.conf.DisallowNone,
    arg(metavar="[CHECKPOINT]", help_behavior_hint=""),
]
"""A checkpoint as the first argument, which was the only form once."""


def missing_extra(what: str, extra: str, error: ImportError) -> ConfigError:
    """Return what to tell a user whose installation lacks an extra.

    Args:
        what: what needs it.
        extra: its name.
        error: of the import that failed.
    """
    return ConfigError(f"{what} needs {error.name}; install it: pip install 'hypersteer[{extra}]'")


@dataclass(frozen=True, slots=True, kw_only=True)
class Loading:
    """The base LM; by default the one that the checkpoint was trained for."""

    lm: OptionalText = None
    """Where else to load that base LM from: alias, Hugging Face id, folder, or .gguf file."""
    device: OptionalText = None
    """cpu, cuda, cuda:1 or mps; by default the best there is."""
    dtype: OptionalText = None
    """float32, bfloat16 or float16; by default float32 on a CPU, else bfloat16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How answers are decoded."""

    max_new_tokens: int = 128
    """Most tokens of an answer."""
    temperature: float = 0.0
    """0 takes the likeliest token; higher is more varied."""
    top_p: float = 1.0
    """Sample among the likeliest tokens that add up to this probability."""
    top_k: int = 0
    """Sample among so many of the likeliest tokens; 0 takes all."""
    min_p: float = 0.0
    """Sample among tokens at least this share as likely as the likeliest; 0 takes all."""
    repetition_penalty: float = 1.15
    """Above 1 weakens tokens that the prompt or the answer holds already; 1 is no penalty. Small
    models go round in circles without one."""
    stop: Annotated[
        UseAppendAction[tuple[str, ...]], arg(metavar="TEXT", help_behavior_hint="")
    ] = ()
    """End an answer before this text; repeat the option for several."""
    seed: int = 0
    """Seed of the first prompt; the next one has the next seed."""

    def settings(self) -> dict[str, Any]:
        """Return keyword arguments of `Steerer.generate`, checked before any model is loaded.

        Raises:
            ConfigError: if a value is out of range.
        """
        from hypersteer.engine.decoding import Decoding

        found = {name: getattr(self, name) for name in self.__slots__}
        Decoding(**found)
        return found


def names_checkpoint(word: str, more: bool) -> bool:
    """Return whether the first word of `generate` is a checkpoint, and not the first prompt.

    It is one if it is the folder of one, or a path by its beginning. Where more prompts follow,
    `bundled` and whatever has a slash and no space are taken for one too, as `owner/name`; so
    "TCP/IP" on its own is a prompt.

    Args:
        word: the first word, any text at all.
        more: whether a prompt is given beside it.
    """
    try:
        if holds_checkpoint(path_of(word, "the first word")):
            return True
    except SteeringError:  # what can be no path is a prompt
        return False
    if any(character.isspace() for character in word):
        return False
    return word.startswith(PATHS) or (more and (word == BUNDLED or "/" in word))


def open_steerer(checkpoint: str, loading: Loading) -> "Steerer":
    """Load a checkpoint and its base LM.

    Raises:
        CheckpointError: if it is no checkpoint, or the base LM is another one.
        ModelError: if the base LM cannot be loaded.
    """
    from hypersteer.checkpoint import find_checkpoint
    from hypersteer.lm.load import load_lm
    from hypersteer.steering import load

    folder = find_checkpoint(checkpoint)
    device, dtype = loading.device, loading.dtype
    lm = load_lm(loading.lm, device=device, dtype=dtype) if loading.lm is not None else None
    return load(folder, lm=lm, device=device, dtype=dtype)


def parse(into: type[T], argv: Sequence[str], command: str, default: T | None = None) -> T:
    """Fill a dataclass from a command's arguments; its docstring is the top of `--help`.

    Args:
        into: the dataclass; the string under each field is the option's help.
        argv: what follows the command's name.
        command: its name.
        default: values of the options that are not given; by default the dataclass's own.

    Raises:
        ConfigError: for an unknown option, or a value that is none.
        SystemExit: after `--help`, with code 0.
    """
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            found, unknown = _tyro(into, argv, command, default)
    except SystemExit as ended:
        if not ended.code:
            raise
        raise ConfigError(_unboxed(complaint.getvalue())) from None
    if unknown and unknown[0].startswith("-"):
        raise ConfigError(_unknown_option(into, unknown[0].partition("=")[0], command))
    if unknown:
        raise ConfigError(
            f"unexpected argument '{unknown[0]}'; put a text with spaces in quotes, and keep what "
            "has no option before it together"
        )
    return found


def _tyro(
    into: type[T], argv: Sequence[str], command: str, default: T | None = None
) -> tuple[T, list[str]]:
    return tyro.cli(
        into,
        args=list(argv),
        prog=f"hypersteer {command}",
        description=inspect.getdoc(into),
        default=tyro.MISSING_NONPROP if default is None else default,
        return_unknown_args=True,
    )


def _unboxed(text: str) -> str:
    """Return what a complaint of tyro says, as one line, without the box and the help around it."""
    plain = re.sub(r"\x1b\[[\d;]*m", "", text)
    lines = [line.strip("│ ") for line in plain.splitlines()]
    # The box is drawn in Unicode or in ASCII, as the terminal has it; its title ends in a rule.
    rules = [i for i, line in enumerate(lines) if re.match("[╭╰]|[─-]{3}", line)]
    said = lines[rules[0] + 1 : rules[1]] if len(rules) > 1 else lines
    return " ".join(said).strip().replace("Error parsing", "cannot read")


def _unknown_option(into: type, option: str, command: str) -> str:
    """Say which option was meant, or where all of them are listed."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        _tyro(into, ["--help"], command)
    known = set(re.findall(r"--[a-z][\w.-]*", shown.getvalue()))
    close = difflib.get_close_matches(option.replace("_", "-"), known, n=1)
    tail = f"did you mean '{close[0]}'?" if close else f"see 'hypersteer {command} --help'"
    return f"unknown option '{option}'; {tail}"
