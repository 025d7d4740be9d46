"""Skill kept and refusals: what steering does to answers that have nothing to do with a concept.

Every method answers the same probes, steered towards the concepts that it was evaluated on, each at
its chosen strength: probe i towards concept i mod n. Answers are greedy and kept as rows.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from hypersteer.concepts import Concept
from hypersteer.engine.decoding import Decoding
from hypersteer.engine.generate import generate_ids
from hypersteer.evaluation.answers import Prepared, rewritten, steerings
from hypersteer.evaluation.probes import NEW_TOKENS, Measure, Probe
from hypersteer.evaluation.protocol import Plan, Question
from hypersteer.evaluation.records import HELD, Held, Probed
from hypersteer.evaluation.selection import Key, Strengths
from hypersteer.evaluation.store import ResultsFolder
from hypersteer.methods.protocol import Adapts
from hypersteer.methods.registry import UNSTEERED
from hypersteer.stats import Interval, bootstrap, bootstrap_ratio


class Target(NamedTuple):
    """A concept, its held set, and the strength that was chosen for it."""

    held: Held
    concept: Concept
    strength: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """How many answers of a method to the probes of a measure count.

    Attributes:
        share: of probes whose answer counts: solved items, or refused requests.
        kinds: the same by kind of probe, in the order of the set.
        kept: the share over that of the unsteered model on the same probes, resampled in pairs;
            None for `unsteered`, and where that has no share or one of 0.
    """

    share: Interval
    kinds: Mapping[str, Interval]
    kept: Interval | None

    def described(self) -> dict[str, Any]:
        """Return them as they are stored, of JSON types."""
        kinds = {kind: interval._asdict() for kind, interval in self.kinds.items()}
        kept = self.kept and self.kept._asdict()
        return {"share": self.share._asdict(), "kept": kept, "kinds": kinds}


def targets(plan: Plan, chosen: Strengths, method: str) -> list[Target]:
    """Return the concepts that a method was asked and has a strength for, held in before held out.

    Args:
        plan: the concepts.
        chosen: strengths of all methods.
        method: its name.
    """
    asked = [(held, concept) for held in reversed(HELD) for concept in plan.concepts(held)]
    keys = [(Key(method, held, concept.id), held, concept) for held, concept in asked]
    return [Target(held, concept, chosen[key]) for key, held, concept in keys if key in chosen]


def answer_probes(
    prepared: Prepared,
    towards: Sequence[Target],
    measure: Measure,
    probes: Sequence[Probe],
    folder: ResultsFolder,
    batch_size: int,
    done: Callable[[int], object],
) -> list[Probed]:
    """Return the answers of a method to all probes, in their order; those kept are not made again.

    What counts is worked out anew, so that a folder of an earlier version is counted as this one.

    Args:
        prepared: who answers.
        towards: what it is steered towards, at least one.
        measure: the set's name.
        probes: what is asked.
        folder: keeps the answers, after every batch.
        batch_size: most answers generated together.
        done: told after every batch how many more are there.
    """
    wanted = [(probe, towards[i % len(towards)]) for i, probe in enumerate(probes)]
    kept = {_key_of(row): row for row in folder.probed(measure, prepared.name)}
    found = {i: kept[key] for i, pair in enumerate(wanted) if (key := _key(*pair)) in kept}
    rows = {i: replace(row, counted=wanted[i][0].counts(row.response)) for i, row in found.items()}
    if rows != found:  # kept by a version that counted in another way
        folder.keep_probed(measure, [rows[i] for i in sorted(rows)])
    done(len(rows))
    missing = [i for i in range(len(wanted)) if i not in rows]
    decoding = Decoding(max_new_tokens=NEW_TOKENS[measure])
    for places in _groups(prepared, missing, wanted):
        for part in _answer(prepared, {i: wanted[i] for i in places}, decoding, batch_size):
            rows |= part
            folder.keep_probed(measure, [rows[i] for i in sorted(rows)])
            done(len(part))
    return [rows[i] for i in range(len(wanted))]


def _groups(
    prepared: Prepared, places: Sequence[int], wanted: Sequence[tuple[Probe, Target]]
) -> list[list[int]]:
    """Return places whose answers may be generated together: of one strength, or of one model."""
    by_concept = isinstance(prepared.method, Adapts)
    groups: dict[Any, list[int]] = {}
    for place in places:
        held, concept, strength = wanted[place][1]
        key = (held, concept.id) if by_concept else None
        groups.setdefault((strength, key), []).append(place)
    return list(groups.values())


def _answer(
    prepared: Prepared,
    pairs: Mapping[int, tuple[Probe, Target]],
    decoding: Decoding,
    batch_size: int,
) -> Iterator[dict[int, Probed]]:
    """Yield the rows of pairs of one strength in parts, by the numbers of the pairs."""
    questions = [
        Question(target.held, target.concept, number, probe.prompt, seed=0)
        for number, (probe, target) in pairs.items()
    ]
    (strength,) = {target.strength for _, target in pairs.values()}
    strengths = None if strength is None else [strength]
    for part, steering in steerings(prepared, questions, batch_size):
        prompts = [steering.lm.chat.prompt(prompt) for prompt in steering.prompts]
        ids = generate_ids(steering.lm, prompts, steering.writers, decoding, strengths)
        texts = map(prepared.lm.chat.decode, ids)
        yield {
            question.prompt_id: _row(prepared.name, *pairs[question.prompt_id], given, text)
            for question, given, text in zip(part, steering.prompts, texts, strict=True)
        }


def _row(method: str, probe: Probe, target: Target, given: object, response: str) -> Probed:
    return Probed(
        method=method,
        held=target.held,
        concept_id=target.concept.id,
        concept=target.concept.text,
        strength=target.strength,
        probe_id=probe.id,
        kind=probe.kind,
        prompt=probe.prompt,
        given=rewritten(given, probe.prompt),
        response=response,
        counted=probe.counts(response),
    )


def _key(probe: Probe, target: Target) -> tuple[Any, ...]:
    concept = (target.held, target.concept.id, target.strength)
    return probe.id, probe.prompt, *concept


def _key_of(row: Probed) -> tuple[Any, ...]:
    return row.probe_id, row.prompt, row.held, row.concept_id, row.strength


def shares(rows: Mapping[str, Sequence[Probed]]) -> dict[str, Shares]:
    """Return the shares of all methods on the probes of a measure.

    Args:
        rows: of each method, of the same probes in the same order.
    """
    return {name: _shares(own, _plain(rows, name)) for name, own in rows.items()}


def _plain(rows: Mapping[str, Sequence[Probed]], name: str) -> Sequence[Probed] | None:
    return None if name == UNSTEERED else rows.get(UNSTEERED)


def _shares(rows: Sequence[Probed], plain: Sequence[Probed] | None) -> Shares:
    counted = [float(row.counted) for row in rows]
    kinds: dict[str, list[float]] = {}
    for row in rows:
        kinds.setdefault(row.kind, []).append(float(row.counted))
    before = None if plain is None else [float(row.counted) for row in plain]
    return Shares(
        share=bootstrap(counted),
        kinds={kind: bootstrap(values) for kind, values in kinds.items()},
        kept=None if before is None else bootstrap_ratio(counted, before),
    )


def measure_all(
    folder: ResultsFolder,
    plan: Plan,
    prepared: Mapping[str, Prepared],
    chosen: Strengths,
    probes: Mapping[Measure, Sequence[Probe]],
    batch_size: int,
    done: Callable[[int], object],
) -> dict[Measure, dict[str, Shares]]:
    """Have all methods answer all probes, and return what counts; what is kept is not redone.

    A method without a concept that it has a strength for is not in the result.

    Args:
        folder: keeps rows, and the shares beside them.
        plan: the concepts.
        prepared: methods that steer.
        chosen: strengths, by method and concept.
        probes: by measure.
        batch_size: most answers generated together.
        done: told how many more answers are there.
    """
    found: dict[Measure, dict[str, Shares]] = {}
    for measure, some in probes.items():
        rows: dict[str, list[Probed]] = {}
        for name, method in prepared.items():
            if towards := targets(plan, chosen, name):
                rows[name] = answer_probes(method, towards, measure, some, folder, batch_size, done)
        found[measure] = shares(rows)
        for name, values in found[measure].items():
            folder.keep_metrics(measure, name, values.described())
    return found
