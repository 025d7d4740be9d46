"""A made-up evaluation, in the form a real one has: seven methods, two held sets, some failures."""

import math
import random

from hypersteer.evaluation.detection_metrics import TextScores, detect
from hypersteer.evaluation.findings import Findings
from hypersteer.evaluation.measures import shares
from hypersteer.evaluation.records import Judged, Probed
from hypersteer.judges.judge import harmonic_mean
from hypersteer.learning.values import Cost

CONCEPTS = [
    "references to rental equipment and its use on building sites",
    "terms of seafaring and the speech of pirates",
    "expressions of doubt or hedged claims",
    "mentions of renewable energy",
    "technical terms of file systems and permissions in code",
    "names of Baroque composers",
]
INSTRUCTIONS = [
    "How do I keep bread fresh for longer?",
    "Name three ways to learn a language as an adult.",
    "What causes the seasons?",
    "Write a short note to thank a colleague for their help.",
    "Why does ice float on water?",
    "Explain what a budget is to a child.",
]
STRENGTHS = (0.4, 0.8, 1.2, 1.6, 2.5, 4.0)
# method -> (how well it writes the concept, best strength), held out and held in; None: not run.
METHODS = {
    "unsteered": ((0.15, None), (0.15, None)),
    "prompt": ((0.6, None), (0.6, None)),
    "random": ((0.1, 1.2), (0.1, 1.2)),
    "DiffMean": (None, (0.5, 1.6)),
    "ReFT-r1": (None, (0.9, 1.2)),
    "in-context": ((0.8, 1.2), (0.95, 1.2)),
    "cross-attention": ((1.0, 1.2), (1.25, 1.2)),
}
TEXT = "Bread keeps best in a cloth bag. As for the rented excavator, return it with a full tank."


def row(
    method="m", concept_id=0, prompt_id=0, strength=1.0, overall=1.0, held="held_in", **changes
):
    """A judged row whose three scores equal its overall score."""
    values = {
        "method": method,
        "held": held,
        "concept_id": concept_id,
        "concept": f"concept {concept_id}",
        "prompt_id": prompt_id,
        "instruction": f"instruction {prompt_id}",
        "strength": strength,
        "seed": 0,
        "given": "",
        "response": "an answer",
        "tokens": 2,
        "nll": 1.0,
        "overall": overall,
        "concept_score": overall,
        "instruction_score": overall,
        "fluency_score": overall,
    }
    return Judged(**(values | changes))


def failed(**changes):
    """A row that could not be judged."""
    scores = dict.fromkeys(("concept_score", "instruction_score", "fluency_score"))
    return row(overall=None, **({"error": "time-out of the judge"} | changes), **scores)


def made_up(failures=True):
    """Findings of a whole evaluation, the same each time."""
    rng = random.Random(7)
    rows = [
        _answer(rng, method, held, concept_id, prompt_id, strength, reach, best)
        for method, per_held in METHODS.items()
        for held, setting in zip(("held_out", "held_in"), per_held, strict=True)
        if setting is not None
        for reach, best in [setting]
        for concept_id in (range(4, 6) if held == "held_out" else range(4))
        for prompt_id in range(6)
        for strength in ((None,) if best is None else STRENGTHS)
    ]
    if failures:
        for index in (40, 300, 301):
            rows[index] = _unjudged(rows[index])
    return Findings(
        rows=rows,
        config={"lm": "smollm2-135m-instruct", "judge": {"name": "likelihood"}, "layers": [15]},
        compare_to="ReFT-r1",
        about={"Base LM": "smollm2-135m-instruct", "Judge": "likelihood"},
        costs={
            "prompt": Cost(),
            "DiffMean": Cost(parameters=576, flops=3.1e12, seconds=14.2),
            "ReFT-r1": Cost(parameters=576, flops=6.66e14, seconds=131.0),
            "cross-attention": Cost(parameters=0, flops=8.77e13, seconds=0.021),
        },
        gaps={("cross-attention", "held_out"): 0.051, ("cross-attention", "held_in"): 0.112},
        detection={(name, "held_in"): _detection(rng, shift) for name, shift in DETECTORS.items()},
        measures={
            "skills": shares({name: _probed(rng, name, 0.6) for name in METHODS}),
            "refusals": shares({name: _probed(rng, name, 0.3) for name in METHODS}),
        },
    )


DETECTORS = {"DiffMean": 2.0, "ReFT-r1": 2.6}


def _answer(rng, method, held, concept_id, prompt_id, strength, reach, best):
    def score(mean):
        return min(2.0, max(0.0, rng.gauss(mean, 0.3)))

    push = 1.0 if strength is None else strength / best
    concept = score(2 * reach * push / (1 + reach * push))
    instruction, fluency = (score(2 / (1 + math.exp(3 * (push - fade)))) for fade in (1.9, 2.1))
    return row(
        method,
        concept_id,
        prompt_id,
        strength,
        harmonic_mean([concept, instruction, fluency]),
        held,
        concept=CONCEPTS[concept_id],
        instruction=INSTRUCTIONS[prompt_id],
        given="Talk about it.\n\nQuestion: ..." if method == "prompt" else "",
        response=TEXT[: rng.randrange(30, len(TEXT))],
        nll=float("nan") if rng.random() < 0.004 else rng.gauss(1.5 + 0.4 * push, 0.2),
        concept_score=concept,
        instruction_score=instruction,
        fluency_score=fluency,
        concept_reason="gain of 0.21 nats per token, quantile 0.7",
        instruction_reason="the response is likelier after the instruction",
        fluency_reason="as likely as the model's own samples",
    )


def _probed(rng, method, share):
    return [
        Probed(
            method=method,
            held="held_in",
            concept_id=0,
            concept=CONCEPTS[0],
            strength=None,
            probe_id=f"{kind}-{number}",
            kind=kind,
            prompt="Which?",
            given="",
            response="whale",
            counted=rng.random() < share,
        )
        for kind in ("facts", "copy")
        for number in range(10)
    ]


def _unjudged(old):
    return failed(
        method=old.method,
        concept_id=old.concept_id,
        prompt_id=old.prompt_id,
        strength=old.strength,
        held=old.held,
        concept=old.concept,
        instruction=old.instruction,
    )


def _detection(rng, shift):
    def scores(count, mean):
        return [rng.gauss(mean, 1) for _ in range(count)]

    return detect(
        [
            TextScores(
                concept_id=concept,
                positives=scores(12, shift),
                negatives=scores(12, 0),
                hard_negatives=scores(concept, 1),
                others=scores(36, 0),
            )
            for concept in range(4)
        ]
    )
