"""Concept data from answers that are there already: no teacher, no judge, no base LM."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hypersteer.concepts import Concept, text_key
from hypersteer.data.schema import GENRES
from hypersteer.errors import ConfigError, DataError, nearest, one_line, short
from hypersteer.files import is_folder, output_folder, path_of, read_lines, reason, replacing
from hypersteer.synthesis.dataset import Authors, write_dataset
from hypersteer.synthesis.writing import Written
from hypersteer.values import json_of

STAGE = "positives"
TEXTS = ("concept", "prompt", "answer")
KEYS = (*TEXTS, "held_out", "genre")
EXPECTED = 'expected lines {"concept": TEXT, "prompt": TEXT, "answer": TEXT}'
AUTHORS = Authors(teacher="imported", base_lm="", seed=0, template_version=None)


class Imported(NamedTuple):
    """What was written.

    Attributes:
        folder: the data source.
        concepts: those in it, in the order of the file.
        rows: how many answers.
        prompts: how many different ones each concept has.
    """

    folder: Path
    concepts: tuple[Concept, ...]
    rows: int
    prompts: tuple[int, ...]


class Line(NamedTuple):
    """A line of the file, checked."""

    number: int
    concept: str
    prompt: str
    answer: str
    held_out: bool
    genre: str


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of the concepts by their ids, in the form in which a build keeps them."""

    path: Path
    positives: Mapping[object, list[dict[str, Any]]]

    def part(self, stage: str, name: object) -> Any:
        """Return a concept's rows; there are none but positives."""
        return {"rows": self.positives[name]} if stage == STAGE else None


def import_answers(path: str, out: str) -> Imported:
    """Make a dataset in AxBench's format of answers in a file, all of them or none.

    Args:
        path: JSON lines with `concept`, `prompt` and `answer`, and maybe `held_out` (true: the
            concept is kept out of training) and `genre` (of the prompt). Concepts get their ids in
            order of first appearance; those of one text (see `text_key`) are one. Prompts and
            answers are taken as they are, and answers as whole: their end is taught. Blank lines
            are skipped.
        out: the folder to write; it must be missing or empty.

    Returns:
        the folder, and what is in it.

    Raises:
        ConfigError: if the folder cannot be made, or holds something.
        DataError: if the file is missing or empty, or a line is malformed, repeats another, or
            says otherwise than another whether its concept is held out; or if the folder cannot be
            written.
    """
    groups = _by_concept(path, _read(path))
    folder = _unused(out)
    concepts = tuple(
        Concept(id=id_, text=lines[0].concept, genre=lines[0].genre, held_out=lines[0].held_out)
        for id_, lines in enumerate(groups)
    )
    source = Path(path).name
    positives: dict[object, list[dict[str, Any]]] = {
        concept.id: [asdict(_row(concept, line, source)) for line in lines]
        for concept, lines in zip(concepts, groups, strict=True)
    }
    try:
        # A link to a folder stays one; what it leads to is replaced.
        with replacing(folder.resolve()) as temporary:
            temporary.mkdir()
            write_dataset(Rows(temporary, positives), concepts, AUTHORS, splits=("train",))
    except OSError as error:
        raise DataError(
            f"cannot write to '{folder}': {reason(error)}; choose another out"
        ) from error
    return Imported(
        folder,
        concepts,
        rows=sum(map(len, groups)),
        prompts=tuple(len({line.prompt for line in lines}) for lines in groups),
    )


def _unused(out: str) -> Path:
    """Return the folder to write, which nothing is in yet."""
    folder = output_folder(out, "out")
    try:
        used = is_folder(folder) and next(folder.iterdir(), None)
    except OSError as error:
        raise ConfigError(
            f"cannot look into '{folder}': {reason(error)}; choose another out"
        ) from error
    if used:
        raise ConfigError(
            f"'{folder}' holds '{used.name}' already, and an import adds to nothing; choose "
            "another out, or delete that folder"
        )
    return folder


def _read(path: str) -> list[Line]:
    """Return the lines of the file that are not blank."""
    file = path_of(path, "the file of answers", DataError)
    try:
        numbered = enumerate(read_lines(file), start=1)
    except (OSError, ValueError) as error:
        raise DataError(
            f"cannot read the answers '{path}': {one_line(error)}; {EXPECTED}"
        ) from error
    lines = [
        _line(text, number, f"{path}, line {number}") for number, text in numbered if text.strip()
    ]
    if not lines:
        raise DataError(f"'{path}' holds no answers; {EXPECTED}")
    return lines


def _line(text: str, number: int, where: str) -> Line:
    """Return one line, checked by itself."""
    try:
        entry = json_of(text)
    except ValueError as error:
        raise DataError(f"{where} is not JSON: {one_line(error)}; {EXPECTED}") from error
    if not isinstance(entry, dict):
        raise DataError(f"{where} is not a JSON object; {EXPECTED}")
    # Before what is missing, since a key that is misspelt is both.
    for key in entry:
        if key not in KEYS:
            raise DataError(f"{where}: unknown key {short(key)}{nearest(key, KEYS)}")
    for key in TEXTS:
        if key not in entry:
            raise DataError(f"{where} has no {key}; {EXPECTED}")
        value = entry[key]
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"{where}: {key} is {short(value)}; expected some text")
    held_out, genre = entry.get("held_out", False), entry.get("genre", "text")
    if not isinstance(held_out, bool):
        raise DataError(f"{where}: held_out is {short(held_out)}; expected true or false")
    if genre not in GENRES:
        raise DataError(f"{where}: unknown genre {short(genre)}{nearest(str(genre), GENRES)}")
    return Line(number, entry["concept"].strip(), entry["prompt"], entry["answer"], held_out, genre)


def _by_concept(path: str, lines: Sequence[Line]) -> list[list[Line]]:
    """Return the lines of each concept, and see that they agree with each other."""
    groups: dict[str, list[Line]] = defaultdict(list)
    seen: dict[tuple[str, str, str], int] = {}
    for line in lines:
        where, key = f"{path}, line {line.number}", text_key(line.concept)
        earlier = seen.setdefault((key, line.prompt, line.answer), line.number)
        if earlier != line.number:
            raise DataError(
                f"{where} repeats line {earlier}, of the concept {short(line.concept)}; delete one"
            )
        same = groups[key]
        if same and same[0].held_out != line.held_out:
            is_, was = ("is", "is not") if line.held_out else ("is not", "is")
            raise DataError(
                f"{where}: the concept {short(line.concept)} {is_} held out here and {was} on line "
                f"{same[0].number}; say the same on all its lines"
            )
        same.append(line)
    return list(groups.values())


def _row(concept: Concept, line: Line, source: str) -> Written:
    return Written(
        split="train",
        instruction=line.prompt,
        response=line.answer,
        genre=line.genre,
        source=source,
        output_concept=concept.text,
        complete=True,
        sample=0,
    )
