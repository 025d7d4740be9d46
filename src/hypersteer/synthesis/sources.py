"""Which concepts a build is about: read from a list, or invented by the teacher for a theme."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from hypersteer.data.schema import GENRES
from hypersteer.errors import ConfigError, DataError, nearest, one_line
from hypersteer.files import path_of, read_text
from hypersteer.synthesis.folder import BuildFolder
from hypersteer.synthesis.prompts import ask_concepts, is_known, read_phrases
from hypersteer.synthesis.teacher import Ask, Bars, Reply, Teacher
from hypersteer.values import json_of, lines_of

SUFFIXES = (".txt", ".jsonl", ".json")
FEATURE = "https://www.neuronpedia.org/{model}/{layer}/{index}"


class ListedConcept(NamedTuple):
    """A concept as a list gives it; the genre may have to be asked for."""

    text: str
    genre: str | None = None
    kind: str = ""
    ref: str = ""


def read_concepts(path: str, *, seed: int = 42, limit: int | None = None) -> list[ListedConcept]:
    """Read a list of concepts.

    Args:
        path: `.txt`: one concept a line, blank lines and those that start with `#` skipped.
            `.jsonl`: objects with `concept`, and maybe `genre`, `kind`, `ref`. `.json`: a list of
            objects with `description`, `modelId`, `layer` and `index`, as Neuronpedia exports the
            features of an SAE; the first description of a feature counts, and the list is shuffled.
        seed: of the shuffle.
        limit: keep this many at most.

    Returns:
        The concepts; of texts that differ in case or spacing only, the first.

    Raises:
        ConfigError: the file's name has another ending.
        DataError: the file is missing, malformed or holds no concepts.
    """
    file = path_of(path, "concepts")
    if file.suffix not in SUFFIXES:
        raise ConfigError(
            f"concepts '{path}' ends in none of {', '.join(SUFFIXES)}; give a list of concepts"
        )
    try:
        text = read_text(file)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the concepts '{path}': {one_line(error)}") from error
    if file.suffix == ".txt":
        lines = (line.strip() for line in lines_of(text))
        found = [ListedConcept(line) for line in lines if line and not line.startswith("#")]
    elif file.suffix == ".jsonl":
        numbered = enumerate(lines_of(text), start=1)
        found = [_from_line(line, f"{path}, line {n}") for n, line in numbered if line.strip()]
    else:
        found = _features(text, path)
        order = np.random.default_rng([seed, 7]).permutation(len(found))
        found = [found[i] for i in order]
    distinct = _distinct(found)[:limit]
    if not distinct:
        raise DataError(f"'{path}' holds no concepts; give at least one")
    return distinct


def _distinct(found: Iterable[ListedConcept]) -> list[ListedConcept]:
    """Return the first of all that read the same."""
    first: dict[str, ListedConcept] = {}
    for wanted in found:
        first.setdefault(" ".join(wanted.text.casefold().split()), wanted)
    return list(first.values())


def _from_line(line: str, where: str) -> ListedConcept:
    """Read one line of JSON."""
    try:
        entry = json_of(line)
    except ValueError as error:
        raise DataError(f"{where} is not JSON: {one_line(error)}") from error
    if not isinstance(entry, dict):
        raise DataError(f"{where} is not a JSON object; expected one with 'concept'")
    for key in ("concept", "kind", "ref"):
        if not isinstance(entry.get(key) or "", str):
            raise DataError(f"{where}: {key} is {entry[key]!r}; expected text")
    text, genre = (entry.get("concept") or "").strip(), entry.get("genre")
    if not text:
        raise DataError(f"{where}: concept is {entry.get('concept')!r}; expected text")
    if genre is not None and genre not in GENRES:
        raise DataError(f"{where}: unknown genre {genre!r}{nearest(str(genre), GENRES)}")
    return ListedConcept(text, genre, entry.get("kind") or "", entry.get("ref") or "")


def _features(text: str, path: str) -> list[ListedConcept]:
    """Return the first description of every feature of an export, in its order."""
    try:
        entries = json_of(text)
    except ValueError as error:
        raise DataError(f"'{path}' is not JSON: {one_line(error)}") from error
    if not isinstance(entries, list):
        raise DataError(f"'{path}' is not a list of features; export one, or give .jsonl or .txt")
    features: dict[tuple[str, ...], ListedConcept] = {}
    for number, entry in enumerate(entries):
        key, description = _feature(entry, f"'{path}', feature {number}")
        if description:
            ref = FEATURE.format(model=key[0], layer=key[1], index=key[2])
            features.setdefault(key, ListedConcept(description, None, "feature", ref))
    return list(features.values())


def _feature(entry: Any, where: str) -> tuple[tuple[str, ...], str]:
    """Return model, layer and index of a feature, and its description."""
    names = ("modelId", "layer", "index")
    if not isinstance(entry, dict) or not {*names, "description"} <= entry.keys():
        raise DataError(f"{where} lacks one of description, {', '.join(names)}")
    values = [str(entry[name]) for name in names]
    description = entry["description"]
    if not isinstance(description, str) or not values[2].isdecimal():
        raise DataError(
            f"{where}: expected a text as description and a number as index, not "
            f"{one_line(repr(description), 60)} and {entry['index']!r}"
        )
    return tuple(values), description.strip()


BATCH = 25
"""Concepts asked for in one request."""
SHOWN = 100
"""Known concepts that a request names, the newest; the rest are compared with afterwards."""
PATIENCE = 3
"""Requests in a row that bring nothing new before the teacher counts as out of ideas."""
INVENTED, LIST = "concepts", "invented"
"""Where the folder keeps them: the stage, and its one part."""


def invent(teacher: Teacher, folder: BuildFolder, bars: Bars, theme: str, count: int) -> None:
    """Ask for concepts until there are enough, or no new ones come; keep them in the folder.

    At most `count` are kept, no two of which say the same in almost the same words.

    Args:
        teacher: who invents them.
        folder: keeps the list once it is whole.
        bars: shows how far it is.
        theme: what they are about.
        count: how many are wanted.

    Raises:
        DataError: if the teacher gives none at all.
        EndpointError: if the teacher can answer nothing.
    """
    known: list[str] = []
    idle = sample = 0
    with bars.stage("inventing concepts", count) as bar:
        while len(known) < count and idle < PATIENCE:
            wanted = min(BATCH, count - len(known))
            # The sample's number keeps a repeated request from being answered by the same reply.
            ask = Ask(ask_concepts(theme, wanted, known[-SHOWN:]), sample)
            (reply,) = teacher.complete([ask], lambda _: None)
            fresh = _fresh(reply.text, known, wanted) if isinstance(reply, Reply) else []
            known += fresh
            bar.advance(len(fresh))
            idle = 0 if fresh else idle + 1
            sample += 1
    if not known:
        raise DataError(
            f"the teacher {teacher.name} invented no concepts for the theme {theme!r}; give a "
            "list of concepts, or take another teacher"
        )
    if len(known) < count:
        bars.say(f"the teacher ran out of ideas after {len(known)} of {count} concepts")
    folder.keep_usage(teacher.usage)
    folder.keep(INVENTED, LIST, known)


def invented(folder: BuildFolder) -> list[ListedConcept] | None:
    """Return the concepts that were invented for a build; None where none are yet."""
    known = folder.part(INVENTED, LIST)
    return [ListedConcept(text) for text in known] if known else None


def _fresh(text: str, known: list[str], limit: int) -> list[str]:
    """Return the first concepts of a reply that are new, among themselves too."""
    fresh: list[str] = []
    for concept in read_phrases(text):
        if not is_known(concept, [*known, *fresh]):
            fresh.append(concept)
    return fresh[:limit]
