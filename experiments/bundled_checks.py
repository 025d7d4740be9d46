"""The checks of the bundled concept data that need no model; each tells what it found.

`check_bundled.py` runs them all.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from bundled_rules import RULES

from hypersteer.concepts import Concept
from hypersteer.data.schema import read_metadata
from hypersteer.synthesis.filters import Shingles, jaccard, shingles, stems, words

CONCEPTS, HELD_OUT = 240, 40
ROWS = {"train": 6, "test": 2}
SHORTEST, LONGEST = 25, 70
BRIEF = {"be blunt and extremely brief": "to be short is what it asks for"}
"""Concepts whose responses may be shorter, and why."""
SPREAD = 20
"""Concepts under which an instruction is answered, at least."""
NEAR = 0.2
"""Jaccard similarity of three-word shingles from which two responses say the same."""
ALIKE = 0.5
"""Jaccard similarity of word stems from which two concepts are listed as near."""
SHOWN = 5
_KINDS = "topic persona tone register format language domain constraint feature"
KINDS = frozenset(_KINDS.split())


class Row(NamedTuple):
    """A response of the set; `split` is `train` or `test`."""

    split: str
    concept_id: int
    instruction: str
    response: str
    fields: dict[str, Any]


class Bundle(NamedTuple):
    """The files of the set."""

    concepts: dict[int, Concept]
    rows: list[Row]
    instructions: list[str]
    readme: str


class Check(NamedTuple):
    """What a check found; it fails if there are faults, and notes are for the reader."""

    name: str
    found: str
    faults: list[str]
    notes: Sequence[str] = ()


class Pair(NamedTuple):
    """Two texts by number, and how much they share."""

    similarity: float
    one: int
    other: int


def read(folder: Path) -> Bundle:
    """Read the files of a set.

    Raises:
        DataError: if the metadata are malformed.
    """

    def records(name: str) -> list[dict[str, Any]]:
        lines = (folder / name).read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.strip()]

    rows = [
        Row(split, one["concept_id"], one["input"], one["output"], one)
        for split, stem in (("train", "train_data"), ("test", "latent_eval_data"))
        for one in records(f"{stem}.jsonl")
    ]
    return Bundle(
        concepts={concept.id: concept for concept in read_metadata(folder / "metadata.jsonl")},
        rows=rows,
        instructions=[one["instruction"] for one in records("instructions.jsonl")],
        readme=(folder / "README.md").read_text(encoding="utf-8"),
    )


def near_pairs(texts: Sequence[Shingles], at_least: float) -> list[Pair]:
    """Pairs that share shingles, most similar first; only texts with one in common are met."""
    places: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, text in enumerate(texts):
        for shingle in text:
            places[shingle].append(number)
    shared = Counter(pair for found in places.values() for pair in combinations(found, 2))
    pairs = [
        Pair(count / (len(texts[one]) + len(texts[other]) - count), one, other)
        for (one, other), count in shared.items()
    ]
    return sorted((pair for pair in pairs if pair.similarity >= at_least), reverse=True)


def plain(text: str) -> str:
    """A text's words alone, so that case and punctuation make no difference."""
    return " ".join(words(text))


def concepts(bundle: Bundle) -> Check:
    """Enough concepts, numbered from 0, none twice, of every kind."""
    found = list(bundle.concepts.values())
    faults = [f"{len(found)} concepts, fewer than {CONCEPTS}"] if len(found) < CONCEPTS else []
    if [concept.id for concept in found] != list(range(len(found))):
        faults.append("ids do not run from 0")
    faults += [f"twice: {text}" for text in _twice(plain(concept.text) for concept in found)]
    kinds = Counter(concept.kind for concept in found)
    faults += [f"no concept of kind {kind}" for kind in sorted(KINDS) if not kinds[kind]]
    faults += [f"unknown kind {kind!r}" for kind in kinds if kind not in KINDS]
    return Check("concepts", f"{len(found)} of {len(kinds)} kinds", faults)


def rows(bundle: Bundle) -> Check:
    """Enough rows of each concept, each with the labels of its concept."""
    faults = []
    counts = Counter((row.split, row.concept_id) for row in bundle.rows)
    for (split, least), concept in ((s, c) for s in ROWS.items() for c in bundle.concepts.values()):
        if counts[split, concept.id] < least:
            faults.append(f"{concept.text}: {counts[split, concept.id]} {split} rows")
    for row in bundle.rows:
        concept = bundle.concepts.get(row.concept_id)
        wanted = {
            "output_concept": concept and concept.text,
            "concept_genre": concept and concept.genre,
            "category": "positive",
            "dataset_category": "instruction",
        }
        wrong = [name for name, value in wanted.items() if row.fields.get(name) != value]
        if any(text != text.strip() for text in (row.instruction, row.response)):
            wrong.append("white space at an end")
        faults += [f"concept {row.concept_id}, {row.instruction}: {name}" for name in wrong]
    sizes = Counter(row.split for row in bundle.rows)
    return Check("rows", f"{sizes['train']:,} training, {sizes['test']:,} evaluation", faults)


def lengths(bundle: Bundle) -> Check:
    """Words of a response, but where the concept itself asks for fewer."""
    faults, excused, counts = [], Counter[str](), []
    for row in bundle.rows:
        text, count = bundle.concepts[row.concept_id].text, len(words(row.response))
        counts.append(count)
        if text in BRIEF and count < SHORTEST:
            excused[text] += 1
        elif not SHORTEST <= count <= LONGEST:
            faults.append(f"{text}: {count} words for {row.instruction}")
    notes = [f"{n} rows of `{text}` are shorter: {BRIEF[text]}" for text, n in excused.items()]
    mean = sum(counts) / len(counts)
    return Check("lengths", f"{min(counts)} to {max(counts)} words, mean {mean:.0f}", faults, notes)


def duplicates(bundle: Bundle) -> Check:
    """Responses that say the same, within a concept or across, in either split."""
    texts = [plain(row.response) for row in bundle.rows]
    faults = [f"twice: {text}" for text in _twice(texts)]
    pairs = near_pairs([shingles(row.response) for row in bundle.rows], 0.0)
    told = [
        f"{pair.similarity:.2f} `{bundle.concepts[bundle.rows[pair.one].concept_id].text}` and "
        f"`{bundle.concepts[bundle.rows[pair.other].concept_id].text}`: "
        f"{bundle.rows[pair.other].instruction}"
        for pair in pairs[: max(SHOWN, sum(pair.similarity >= NEAR for pair in pairs))]
    ]
    faults += told[: sum(pair.similarity >= NEAR for pair in pairs)]
    openings = {" ".join(words(row.response)[:3]) for row in bundle.rows}
    found = (
        f"nearest pair {pairs[0].similarity if pairs else 0:.2f} (limit {NEAR}); "
        f"{len(openings):,} different openings of three words"
    )
    return Check("duplicates", found, faults, [f"near: {one}" for one in told[:SHOWN]])


def splits(bundle: Bundle) -> Check:
    """No evaluation row repeats the instruction that its concept is trained on."""
    asked = Counter((row.concept_id, plain(row.instruction)) for row in bundle.rows)
    faults = [
        f"{bundle.concepts[id_].text}: {instruction}, {count} times"
        for (id_, instruction), count in asked.items()
        if count > 1
    ]
    return Check("instruction once per concept", f"{len(asked):,} pairs", faults)


def spread(bundle: Bundle) -> Check:
    """Each instruction is answered under many concepts, so that the concept is what differs."""
    under = defaultdict(set)
    for row in bundle.rows:
        under[row.instruction].add(row.concept_id)
    faults = [f"{text}: {len(ids)} concepts" for text, ids in under.items() if len(ids) < SPREAD]
    sizes = [len(ids) for ids in under.values()]
    found = f"{len(under)} instructions, each under {min(sizes)} to {max(sizes)} concepts"
    return Check("spread", found, faults)


def pool(bundle: Bundle) -> Check:
    """The pool of other instructions: none twice, none that the rows answer."""
    used = {plain(row.instruction) for row in bundle.rows}
    mine = [plain(text) for text in bundle.instructions]
    faults = [f"twice: {text}" for text in _twice(mine)]
    faults += [f"answered in the rows: {text}" for text in mine if text in used]
    both = [shingles(text) for text in [*sorted(used), *mine]]
    pairs = [p for p in near_pairs(both, 0.3) if p.one < len(used) <= p.other]
    names = [*sorted(used), *mine]
    notes = [f"near: {names[p.one]} / {names[p.other]} ({p.similarity:.2f})" for p in pairs]
    return Check("instruction pool", f"{len(mine)} others", faults, notes)


def held_out(bundle: Bundle) -> Check:
    """The marked concepts, none of which is a training concept in other words."""
    marked = [concept for concept in bundle.concepts.values() if concept.held_out]
    training = [concept for concept in bundle.concepts.values() if not concept.held_out]
    faults = [] if len(marked) == HELD_OUT else [f"{len(marked)} marked, not {HELD_OUT}"]
    near, far = [], 0
    for concept in marked:
        mine = set(stems(concept.text))
        by_words = [(jaccard(mine, set(stems(other.text))), other.text) for other in training]
        similarity, text = max(by_words)
        if similarity == 1:
            faults.append(f"{concept.text} is {text}, which is trained on")
        if similarity >= ALIKE:
            near.append(f"near: `{concept.text}` to `{text}` ({similarity:.2f})")
        far += similarity == 0
    found = f"{len(marked)}; {len(near)} near a training concept in words, {far} share none"
    return Check("held out", found, faults, near)


def forms(bundle: Bundle) -> Check:
    """Responses keep to the formats, constraints and languages that a rule can tell."""
    ruled = [row for row in bundle.rows if bundle.concepts[row.concept_id].text in RULES]
    names = {row.concept_id: bundle.concepts[row.concept_id].text for row in ruled}
    faults = [
        f"{names[row.concept_id]}: {row.instruction}"
        for row in ruled
        if not RULES[names[row.concept_id]](row.response)
    ]
    faults += [f"no concept {text}" for text in RULES if text not in names.values()]
    return Check("forms, by rule", f"{len(ruled)} rows of {len(names)} concepts", faults)


def papers(bundle: Bundle) -> Check:
    """The README names the licence and the right figures."""
    used = len({row.instruction for row in bundle.rows})
    said = {"licence": "Apache-2.0", "concepts": f"{len(bundle.concepts)} concepts"}
    said |= {"held out": f"{sum(c.held_out for c in bundle.concepts.values())} are marked"}
    said |= {"pool": f"{len(bundle.instructions)} instructions", "used": f"{used} instructions"}
    flat = " ".join(bundle.readme.split())
    faults = [f"{name}: no {text!r}" for name, text in said.items() if text not in flat]
    return Check("README and licence", said["licence"], faults)


CHECKS: tuple[Callable[[Bundle], Check], ...] = (
    *(concepts, rows, lengths, duplicates, splits, spread, pool, held_out, forms, papers),
)


def _twice(texts: Iterable[str]) -> list[str]:
    return [text for text, count in Counter(texts).items() if count > 1]
