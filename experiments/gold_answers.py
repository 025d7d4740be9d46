"""Writes answers for readers to label: of many methods, at several strengths, in one mixed file.

    python experiments/gold_answers.py --lm smollm2-135m-instruct --layer 12 --out answers.jsonl \
        unsteered:12 prompting:20 bundled:20@0.8,1,1.4 reft-r1:18@0.5,1,1.5 runs/mine:18@0.7,1,1.5

A target is a method of `hypersteer evaluate` or a checkpoint, with how many answers it gives and at
which strengths, in turn. The concepts are the 40 held-out ones of the bundled data, taken in turn
by all targets, each with a bundled instruction. Methods that learn do so from the concept's bundled
answers; the target `written` is these answers themselves.

One JSON object a line: id, concept, kind, instruction, response, plain (what the unsteered model
answers to the same instruction), and what readers do not see: lm, method, strength.
"""

import argparse
import hashlib
import json
import random
from pathlib import Path
from typing import NamedTuple

import hypersteer as hs
from hypersteer.concepts import Concept
from hypersteer.config import EvaluateConfig, ProtocolConfig
from hypersteer.data.sources import ConceptData, load_concepts
from hypersteer.edits.sites import Site
from hypersteer.evaluation.answers import Prepared, answer
from hypersteer.evaluation.protocol import Question, load_instructions
from hypersteer.learning.values import ConceptExamples
from hypersteer.lm.base import BaseLM
from hypersteer.methods.registry import UNSTEERED, make_methods

NEGATIVES = 12
WRITTEN, WORDS = "written", 44


class Target(NamedTuple):
    """Who answers how often, and how strongly."""

    name: str
    count: int
    strengths: list[float]


def target(text: str) -> Target:
    """Read `NAME:COUNT` or `NAME:COUNT@STRENGTH,STRENGTH`."""
    name, _, rest = text.rpartition(":")
    count, _, strengths = rest.partition("@")
    return Target(
        name, int(count), [float(one) for one in strengths.split(",")] if strengths else []
    )


def held_out(data: ConceptData) -> list[Concept]:
    """The held-out concepts in a fixed order without order."""
    concepts = [concept for concept in data.concepts if concept.held_out]
    random.Random(13).shuffle(concepts)
    return concepts


def examples(data: ConceptData, concept: Concept) -> ConceptExamples:
    """What a method may learn of a concept: its answers, and some of other concepts."""
    others = [
        one.id for one in data.concepts if one.id != concept.id and one.genre == concept.genre
    ]
    drawn = random.Random(concept.id).sample(others, NEGATIVES)
    negatives = data.examples(int(data.rows(id_)[0]) for id_ in drawn)
    return ConceptExamples(concept, data.examples(data.rows(concept.id)), negatives)


def questions(concepts: list[Concept], first: int, count: int) -> list[Question]:
    """The next questions of the round that all targets take their turns in."""
    pool = [one.text for one in load_instructions("bundled") if one.genre == "text"]
    random.Random(7).shuffle(pool)
    found = []
    for number in range(first, first + count):
        concept = concepts[number % len(concepts)]
        found.append(Question("held_out", concept, number, pool[number % len(pool)], number))
    return found


def written(data: ConceptData, concepts: list[Concept], first: int, count: int) -> list[dict]:
    """The bundled data's own answers, cut like the others: what a good answer looks like."""
    rows = []
    for number in range(first, first + count):
        concept = concepts[number % len(concepts)]
        (example,) = data.examples([int(data.rows(concept.id)[number % 3])])
        rows.append(
            {
                "concept": concept.text,
                "kind": concept.kind,
                "instruction": example.prompt,
                "response": " ".join(example.response.split(" ")[:WORDS]),
                "lm": "written",
                "method": WRITTEN,
                "strength": None,
            }
        )
    return rows


def answers_of(
    one: Target, lm: BaseLM, site: Site, data: ConceptData, asked: list[Question], tokens: int
) -> list[dict]:
    """A target's answers, each at one strength."""
    named = [] if one.name == UNSTEERED else [one.name]
    methods = make_methods(EvaluateConfig(methods=tuple(dict.fromkeys(["prompting", *named]))))
    label = list(methods)[-1] if named else UNSTEERED  # the order is that of the settings
    method = methods[label]
    known = [examples(data, concept) for concept in dict.fromkeys(q.concept for q in asked)]
    learned = method.fit(lm, site, known)
    prepared = Prepared(label, method, learned, lm, site)
    turns = [
        one.strengths[i % len(one.strengths)] if one.strengths else 1.0 for i in range(len(asked))
    ]
    rows: dict[int, dict] = {}
    for strength in dict.fromkeys(turns):
        places = [place for place, turn in enumerate(turns) if turn == strength]
        protocol = ProtocolConfig(
            strengths=(strength,), max_new_tokens=tokens, temperature=0.7, prompts=2
        )
        for place, row in zip(
            places, answer(prepared, [asked[i] for i in places], protocol), strict=True
        ):
            rows[place] = {
                "concept": asked[place].concept.text,
                "kind": asked[place].concept.kind,
                "instruction": row.instruction,
                "response": row.response,
                "lm": lm.name,
                "method": label,
                "strength": row.strength,
            }
    return [rows[place] for place in range(len(asked))]


def main() -> None:
    """Answer, and write what was answered so far after each target."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="+", type=target)
    parser.add_argument("--lm", required=True)
    parser.add_argument("--layer", type=int, required=True)
    parser.add_argument("--dtype", default=None)
    parser.add_argument("--first", type=int, default=0, help="place in the round of concepts")
    parser.add_argument("--tokens", type=int, default=56)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    lm = hs.load_lm(given.lm, dtype=given.dtype)
    site, data = lm.site(given.layer), load_concepts("bundled")
    concepts, first = held_out(data), given.first
    with given.out.open("w", encoding="utf-8") as file:
        for one in given.targets:
            asked = questions(concepts, first, one.count)
            if one.name == WRITTEN:
                rows = written(data, concepts, first, one.count)
                texts = [row["instruction"] for row in rows]
                asked = [q._replace(instruction=t) for q, t in zip(asked, texts, strict=True)]
            else:
                rows = answers_of(one, lm, site, data, asked, given.tokens)
            first += one.count
            plain = answers_of(Target(UNSTEERED, 0, []), lm, site, data, asked, given.tokens)
            for row, usual in zip(rows, plain, strict=True):
                row["plain"] = usual["response"]
                key = json.dumps(
                    [row[name] for name in ("lm", "method", "strength", "concept", "instruction")]
                )
                entry = {"id": hashlib.sha256(key.encode()).hexdigest()[:8], **row}
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")
            file.flush()
            print(f"{one.name}: {len(rows)} answers", flush=True)


if __name__ == "__main__":
    main()
