"""Texts for conditions in words: a teacher writes them, a judge lets those pass whose label holds.

For each condition the teacher is asked for texts of which it is true, for near misses, and for
texts about something else. The judge is asked of each text whether the condition holds of it, with
Yes or No. What is dropped is asked for again, a few times. All replies are kept on disk, so an
interrupted build asks nothing twice.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from hypersteer.conditions.described import About, Described
from hypersteer.conditions.score import check_words
from hypersteer.conditions.written import split_about
from hypersteer.config import LMConfig, from_dict
from hypersteer.config.conditions import ConditionTextsConfig
from hypersteer.config.synthesis import NO_LM, CountsConfig, SynthesisConfig
from hypersteer.endpoint.replies import Failed, Messages
from hypersteer.errors import DataError, SteeringError, one_line
from hypersteer.files import path_of, read_lines, to_json, write_text
from hypersteer.judges.yes_no import Asker
from hypersteer.synthesis.condition_prompts import (
    ask_condition_texts,
    ask_holds,
    longest_request,
    read_texts,
)
from hypersteer.synthesis.served import check_teacher
from hypersteer.synthesis.teacher import Ask, Bars, Teacher, open_teacher
from hypersteer.values import json_of

Side = Literal["inside", "near", "off"]
LEAST = 4
"""A condition with fewer texts inside, or outside, is left out."""
WRITTEN_TOKENS = 256
"""Of one list of texts, as a model on this machine writes it; a third of what it may."""
SPARE = 2
"""Texts that are asked for at least beyond what is missing, since some are dropped."""
SHOWN = 4
"""Texts inside that are shown as a pattern for those about something else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A condition that wants texts.

    Attributes:
        condition: when it holds, in words.
        also: other wordings of it.
        kind: what sort it is, such as `topic`, which training counts as rarely true.
        about: whether it is about what a user sends, or what an assistant has written so far.
    """

    condition: str
    also: tuple[str, ...] = ()
    kind: str = ""
    about: About = "prompt"

    def __post_init__(self) -> None:
        for words in (self.condition, *self.also):
            check_words(words)


@dataclass(slots=True)
class Texts:
    """What has passed for a condition so far, and how much was written for it."""

    inside: list[str] = field(default_factory=list)
    near: list[str] = field(default_factory=list)
    off: list[str] = field(default_factory=list)
    written: int = 0

    @property
    def passed(self) -> int:
        """How many texts have passed."""
        return len(self.inside) + len(self.near) + len(self.off)

    @property
    def enough(self) -> bool:
        """Whether a head can learn from them."""
        return len(self.inside) >= LEAST and len(self.near) + len(self.off) >= LEAST


def read_wanted(path: str | Path) -> list[Wanted]:
    """Read conditions: lines of words, or a .jsonl file of lines with the fields of `Wanted`.

    In lines of words, those about the answer begin with "the answer".

    Raises:
        DataError: if it cannot be read, is malformed, empty, or says the same condition twice.
    """
    file = path_of(path, "the list of conditions", DataError)
    try:
        lines = [line.strip() for line in read_lines(file)]
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the conditions in '{path}': {one_line(error)}") from error
    found: dict[str, Wanted] = {}
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        where = f"{path}, line {number}"
        try:
            one = _wanted(line) if file.suffix != ".jsonl" else from_dict(
                Wanted, json_of(line), where
            )  # fmt: skip
        except (SteeringError, ValueError, TypeError, AttributeError) as error:
            raise DataError(f"{where}: {one_line(error)}") from error
        if one.condition in found:
            raise DataError(f"{where}: the condition '{one.condition}' is there twice")
        found[one.condition] = one
    if not found:
        raise DataError(f"'{path}' holds no conditions; expected one a line")
    return list(found.values())


def _wanted(line: str) -> Wanted:
    words, about = split_about(line)
    return Wanted(condition=words.strip(), about=about)


def check_writing(config: ConditionTextsConfig) -> None:
    """See that the teacher can be had, as far as that is known without asking or fetching it.

    Raises:
        SteeringError: if it cannot; see `hypersteer.synthesis.served.check_teacher`.
    """
    check_teacher(_as_synthesis(config))


def open_writer(config: ConditionTextsConfig) -> Teacher:
    """Open the teacher that the settings name; nothing is asked yet.

    Raises:
        SteeringError: if it cannot be had.
    """
    return open_teacher(_as_synthesis(config), None, longest_request())


def _as_synthesis(config: ConditionTextsConfig) -> SynthesisConfig:
    """Return what the opening of a teacher reads."""
    return SynthesisConfig(
        seed=config.seed,
        teacher=config.teacher,
        base_lm=LMConfig(name=NO_LM),
        counts=CountsConfig(pool_negatives=0),
        response_tokens=WRITTEN_TOKENS,
    )


def counts_of(config: ConditionTextsConfig) -> dict[Side, int]:
    """Return how many texts a condition is to have on each side."""
    near = config.outside // 2
    return {"inside": config.inside, "near": near, "off": config.outside - near}


def write_condition_texts(
    wanted: Sequence[Wanted],
    config: ConditionTextsConfig,
    teacher: Teacher,
    judge: Asker,
    bars: Bars,
) -> dict[Wanted, Texts]:
    """Have texts written and judged, until every condition has its number or had its attempts.

    Args:
        wanted: conditions.
        config: how many texts, and how often to ask.
        teacher: writes.
        judge: is asked whether a condition holds of a text.
        bars: shows how far it is.

    Raises:
        EndpointError: if teacher or judge cannot be asked.
    """
    found = {one: Texts() for one in wanted}
    seen: set[str] = set()
    for attempt in range(config.attempts):
        for sides in (("inside",), ("near", "off")):  # these are shown what is inside
            missing = list(_missing(found, config, sides))
            asks = [
                Ask(_request(one, side, count, found[one]), sample=attempt)
                for one, side, count in missing
            ]
            named = f"{' and '.join(sides)}, attempt {attempt + 1}"
            with bars.stage(f"writing {named}", len(asks)) as bar:
                replies = teacher.complete(asks, bar.advance)
            fresh: list[tuple[Wanted, Side, str]] = []
            for (one, side, _), reply in zip(missing, replies, strict=True):
                for text in [] if isinstance(reply, Failed) else read_texts(reply.text):
                    if text.casefold() not in seen:
                        seen.add(text.casefold())
                        fresh.append((one, side, text))
            questions: list[Messages] = [
                ask_holds(text, one.condition, one.about) for one, _, text in fresh
            ]
            with bars.stage(f"judging {named}", len(questions)) as bar:
                verdicts = judge.ask(questions, bar.advance)
            for (one, side, text), verdict in zip(fresh, verdicts, strict=True):
                texts = found[one]
                texts.written += 1
                holds = not isinstance(verdict, Failed) and (verdict > 0) == (side == "inside")
                if holds and len(getattr(texts, side)) < counts_of(config)[side]:
                    getattr(texts, side).append(text)
    return found


def _missing(
    found: dict[Wanted, Texts], config: ConditionTextsConfig, sides: Sequence[str]
) -> Iterator[tuple[Wanted, Side, int]]:
    """Yield what is still to write: condition, side, and how many texts, some to spare."""
    counts = counts_of(config)
    for one, texts in found.items():
        for side in get_args(Side):
            left = counts[side] - len(getattr(texts, side))
            if side in sides and left > 0:
                yield one, side, left + max(SPARE, left // 2)


def _request(one: Wanted, side: Side, count: int, texts: Texts) -> Messages:
    """Return the request for texts of one side."""
    shown = texts.inside[:SHOWN] if side == "off" else []
    return ask_condition_texts(
        one.condition, one.about, side, count, like=shown, taken=getattr(texts, side)
    )


def keep_condition_texts(found: dict[Wanted, Texts], path: Path) -> list[Described]:
    """Write the conditions that have enough texts as lines that `conditions teach` reads.

    Raises:
        SteeringError: if the file cannot be written.
    """
    kept = [
        Described(
            condition=one.condition,
            also=one.also,
            kind=one.kind,
            about=one.about,
            inside=tuple(texts.inside),
            near=tuple(texts.near if texts.off else ()),
            off=tuple(texts.off or texts.near),  # there must be some, and no text stands twice
        )
        for one, texts in found.items()
        if texts.enough
    ]
    lines = [
        {
            "condition": one.condition,
            "also": list(one.also),
            "kind": one.kind,
            "about": one.about,
            "in": list(one.inside),
            "near": list(one.near),
            "off": list(one.off),
        }
        for one in kept
    ]
    text = "".join(to_json(line, ensure_ascii=False) + "\n" for line in lines)
    try:
        write_text(path, text)
    except OSError as error:
        raise SteeringError(f"cannot write '{path}': {one_line(error)}") from error
    return kept
