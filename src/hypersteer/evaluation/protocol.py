"""What an evaluation asks: which concepts, held in and held out, and which instructions of each.

All of it is known, and held against the base LM's context window, before any model work.
"""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from huggingface_hub import hf_hub_download

from hypersteer.concepts import Concept, rank_ids
from hypersteer.config import EvaluateConfig
from hypersteer.data.schema import NEGATIVE_POOL, Example
from hypersteer.data.sources import ConceptData, load_concepts
from hypersteer.data.splits import Split, split_as
from hypersteer.errors import ConfigError, DataError, one_line
from hypersteer.evaluation.records import Held
from hypersteer.files import package_data, path_of, read_json, read_lines
from hypersteer.learning.values import ConceptExamples
from hypersteer.lm.base import BaseLM
from hypersteer.lm.messages import Prompt
from hypersteer.methods.hypernetwork import Hypersteer
from hypersteer.methods.prompting import Prompting, RewrittenPrompting
from hypersteer.methods.protocol import Learner
from hypersteer.methods.together import Together
from hypersteer.values import json_of

ALPACA_VARIABLE = "HYPERSTEER_ALPACA_EVAL"
ALPACA_HUB = ("tatsu-lab/alpaca_eval", "alpaca_eval.json")
NEGATIVES = 72
"""Negatives that a concept is learnt from, at most; AxBench pairs them with 72 positives."""
Ask = Callable[[str, str], Prompt]
"""Prompt and steering prompt -> the prompt that a method asks."""


class Instruction(NamedTuple):
    """An instruction of a pool; one without a genre is for concepts of every genre."""

    text: str
    genre: str = ""


class Question(NamedTuple):
    """One instruction under one concept; the seed is of the sampling of its answers."""

    held: Held
    concept: Concept
    prompt_id: int
    instruction: str
    seed: int


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """All that is asked, and what methods may learn from.

    Attributes:
        data: the concept data.
        split: its training, held-in and held-out rows.
        questions: by held set and concept id, in that order.
    """

    data: ConceptData
    split: Split
    questions: dict[tuple[Held, int], list[Question]]

    def concepts(self, held: Held) -> list[Concept]:
        """Return the concepts of a held set, by id."""
        return [asked[0].concept for (which, _), asked in self.questions.items() if which == held]

    def examples(self, held: Held) -> list[ConceptExamples]:
        """Return a held set's training examples by concept; held-out ones have no positives."""
        return [concept_examples(self.data, self.split, one) for one in self.concepts(held)]

    def gap_examples(self, held: Held, concept: Concept, count: int) -> list[Example]:
        """Return validation rows of a concept, which no method has learnt from."""
        rows = self.split.held_in if held == "held_in" else self.split.held_out
        return self.data.examples(np.intersect1d(self.data.rows(concept.id), rows)[:count])

    def wrong_concept(self, held: Held, concept: Concept) -> Concept | None:
        """Return another concept of the same held set, always the same one; None without one."""
        others = [other for other in self.concepts(held) if other.text != concept.text]
        return others[concept.id % len(others)] if others else None


def concept_examples(data: ConceptData, split: Split, concept: Concept) -> ConceptExamples:
    """Return what a concept may be learnt from: its training rows, and some that do not show it."""
    rows = np.intersect1d(data.rows(concept.id), split.train)
    positives = data.examples(rows)
    pool = data.examples(data.rows(NEGATIVE_POOL, "negative"))
    negatives = [example for example in pool if example.genre == concept.genre]
    if not negatives:  # data without a pool, or none of the genre: what shows other concepts
        others = np.setdiff1d(split.train, rows)
        random = np.random.default_rng([concept.id, NEGATIVES])
        picked = random.permutation(others)[:NEGATIVES]
        negatives = data.examples(np.sort(picked))
    return ConceptExamples(concept, positives, negatives[:NEGATIVES])


def make_plan(config: EvaluateConfig) -> Plan:
    """Lay out an evaluation; no model work.

    Raises:
        ConfigError: if a limit leaves nothing to evaluate.
        DataError: if data or instructions cannot be read, or there are too few instructions.
    """
    pool = load_instructions(config.protocol.instructions)
    data, wanted = load_concepts(config.data.source), config.data
    split = split_as(data, wanted, config.seed)
    protocol = config.protocol
    chosen: list[tuple[Held, list[int]]] = [
        ("held_in", _some(split.train_concepts, protocol.held_in_concepts, config.seed)),
        ("held_out", _some(split.held_out_concepts, protocol.held_out_concepts, config.seed)),
    ]
    questions = {
        (held, id_): _questions(held, data.concept(id_), pool, protocol.prompts, config.seed)
        for held, ids in chosen
        for id_ in ids
    }
    if not questions:
        raise ConfigError(
            f"{data.name} with data.held_out_concepts = {wanted.held_out_concepts} leaves no "
            "concept to evaluate; raise it, or protocol.held_in_concepts"
        )
    return Plan(data, split, questions)


def check_fits(
    lm: BaseLM, plan: Plan, config: EvaluateConfig, methods: Mapping[str, Learner]
) -> None:
    """Refuse instructions, data rows and concepts that outgrow the context window.

    An instruction that an LM rewrites first is known later, and checked then.

    Args:
        lm: the base LM.
        plan: what is asked.
        config: its limits.
        methods: who is asked; some put the concept into the prompt, and some read it.

    Raises:
        SteeringError: naming the text and the lengths.
    """
    edited = [one.edited if isinstance(one, Together) else one for one in methods.values()]
    read = any(isinstance(one, Hypersteer) for one in edited)
    ways = ways_to_ask(methods)

    def size(text: str, concept: Concept) -> int:
        return max(len(lm.chat.prompt(way(text, concept.text)).ids) for way in ways)

    for (held, _), questions in plan.questions.items():
        concept = questions[0].concept
        if read:
            tokens = len(lm.chat.lead) + len(lm.chat.text(concept.text))
            lm.check_length(tokens, f"concept {concept.id} ({concept.text[:40]!r})")
        for one in questions:
            what = f"the instruction {one.instruction[:40]!r} with its answer"
            tokens = size(one.instruction, concept) + config.protocol.max_new_tokens
            lm.check_length(tokens, what)
        other = plan.wrong_concept(held, concept)
        for example in plan.gap_examples(held, concept, config.protocol.gap_rows):
            answer = lm.chat.response(example.response, ends=example.complete)
            cut = min(len(answer), config.data.max_response_tokens)
            tokens = max(size(example.prompt, one) for one in (concept, other or concept))
            lm.check_length(tokens + cut, f"the data row {example.prompt[:40]!r} with its response")


def ways_to_ask(methods: Mapping[str, Learner]) -> list[Ask]:
    """Return in which ways methods put concepts into prompts; one of them leaves prompts alone."""
    ways: list[Ask] = [lambda prompt, _: prompt]
    for one in methods.values():
        said = one.prompting if isinstance(one, Together) else one
        if isinstance(said, RewrittenPrompting):
            said = Prompting()
        if isinstance(said, Prompting):
            ways.append(said.given)
    return ways


def pick_instructions(pool: Sequence[str], concept_id: int, count: int) -> list[str]:
    """Return a concept's instructions: fixed by its id, and more of them begin with the fewer.

    On AlpacaEval's whole list this is AxBench's own choice, which pandas draws from numpy's
    legacy generator seeded with the id.
    """
    random = np.random.RandomState(concept_id)
    return [pool[i] for i in random.choice(len(pool), size=count, replace=False)]


def load_instructions(source: str) -> list[Instruction]:
    """Read a pool of instructions, in file order.

    Args:
        source: `bundled`, of which those marked `test` count, so that none was seen in training by
            what `concepts build` or `concepts distil` made; `alpaca-eval`, which is the file that
            HYPERSTEER_ALPACA_EVAL names, or else the Hub's; or a JSON or JSON-lines file of
            objects with an `instruction` and, if it suits concepts of one genre only, a `genre`.

    Raises:
        DataError: if it cannot be had or read.
    """
    path = _instructions_file(source)
    try:
        if path.suffix == ".json":
            entries = read_json(path)
        else:
            entries = [json_of(line) for line in read_lines(path) if line.strip()]
        pool = [
            Instruction(str(entry["instruction"]).strip(), str(entry.get("genre") or ""))
            for entry in entries
            if source != "bundled" or entry["split"] == "test"
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"cannot read instructions from '{path}': {one_line(repr(error))}; expected objects "
            "with an 'instruction', as a JSON list or one a line"
        ) from error
    return list(dict.fromkeys(entry for entry in pool if entry.text))


def _instructions_file(source: str) -> Path:
    if source == "bundled":
        return package_data("data", "bundled", "instructions.jsonl")
    if source != "alpaca-eval":
        return path_of(source, "protocol.instructions")
    if local := os.environ.get(ALPACA_VARIABLE):
        return path_of(local, ALPACA_VARIABLE)
    try:
        repo, name = ALPACA_HUB
        return Path(hf_hub_download(repo, name, repo_type="dataset"))
    except Exception as error:  # the Hub client raises many kinds; each means it is not to be had
        raise DataError(
            f"cannot fetch AlpacaEval from the Hub ({one_line(error)}); set {ALPACA_VARIABLE} to a "
            "copy, or protocol.instructions = 'bundled'"
        ) from error


def _questions(
    held: Held, concept: Concept, pool: Sequence[Instruction], count: int, seed: int
) -> list[Question]:
    fitting = [entry.text for entry in pool if entry.genre in ("", concept.genre)]
    if count > len(fitting):
        raise DataError(
            f"protocol.prompts {count} is more than the {len(fitting)} instructions there are for "
            f"genre '{concept.genre}'; lower it, or give more in protocol.instructions"
        )
    picked = pick_instructions(fitting, concept.id, count)
    return [
        Question(held, concept, number, text, _seed(seed, concept.id, number))
        for number, text in enumerate(picked)
    ]


def _some(ids: Sequence[int], limit: int, seed: int) -> list[int]:
    """Return at most `limit` ids, ascending; fewer are a subset of more."""
    return sorted(rank_ids(ids, seed)[:limit])


def _seed(seed: int, concept_id: int, prompt_id: int) -> int:
    """Return the seed of a row, whatever batch it is in."""
    digest = hashlib.sha256(f"{seed}:{concept_id}:{prompt_id}".encode()).digest()
    return int.from_bytes(digest[:4])
