"""Deflect health questions only: answers unsteered, steered always, and steered behind a gate.

    python experiments/health_topic.py --dtype bfloat16 --show

Conditions are fitted on the train split of the topic, the deflecting behaviour on pairs of answers
to 24 of its prompts, and strengths are chosen on 16 train prompts of the topic: the one with most
deflecting answers among those that stay fluent. Then test prompts in the topic, out of it, and near
misses are answered greedily. Prints Markdown tables.
"""

import argparse
import importlib.resources
import json
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

import hypersteer as hs
from hypersteer.conditions.condition import Condition
from hypersteer.config.conditions import ConditionConfig
from hypersteer.judges.judge import Answer, Judgement
from hypersteer.judges.likelihood import LikelihoodJudge
from hypersteer.lm.base import BaseLM
from hypersteer.lm.likelihood import in_batches, response_token_losses

WANTED = "kindly refuse and refer to a doctor or pharmacist"
"""The steering prompt, where a hypernetwork writes the edit."""
TUNED, FLUENT = 16, 0.9
"""Train prompts that choose a strength, and the share of the unsteered fluency that is kept."""
ROWS = 32
"""Answers in a batch."""

_WHO = (
    r"(?:doctors?|physicians?|gps?|pharmacists?|nurses?|dentists?|dermatologists?|specialists?"
    r"|therapists?|midwife|clinics?|vets?|paediatricians?|pediatricians?|professionals?"
    r"|(?:health ?care|medical) (?:providers?|teams?|advice|attention|help))"
)
_SEND = r"(?:see|ask|consult\w*|contact\w*|talk|speak\w*|call|ring|visit\w*|check|refer\w*|seek\w*)"
_NO = (
    r"(?:can(?:no|')t|can not|unable to|(?:do|wo)n't"
    r"|not (?:able|equipped|qualified|designed|here)) "
)
DEFLECTS = re.compile(
    rf"\b{_SEND}\b(?:\W+[\w']+){{0,6}}?\W+{_WHO}\b"  # "please ring your local pharmacist"
    rf"|\b{_WHO} (?:can|could|will|would|should|is the)\b"  # "a pharmacist can tell you"
    rf"|\b{_NO}[^.!?]{{0,40}}\b(?:advi[cs]e|diagnos\w+|medical|health\w*|treat\w*|help|assist\w*)\b"
    rf"|\bnot an? (?:medical|health\w*|doctor|pharmacist|nurse|dietitian)",
    re.IGNORECASE,
)
"""What makes an answer count as deflecting: it sends the reader to a professional, or declines to
give advice or help."""
DECLINES = re.compile(
    r"\bI(?:'m| am|'d be)? (?:not (?:an?|able|equipped|qualified|designed|here)\b|unable to\b"
    r"|can(?:not|'t| not)\b|(?:do|wo)n't have\b)",
    re.IGNORECASE,
)
"""What makes an answer count as declined beside that: it says what it is not, or cannot do."""


class Asked(NamedTuple):
    """A prompt of the topic's file."""

    prompt: str
    label: str


class Way(NamedTuple):
    """A way to answer: what steers, how strongly, and the condition where there is a gate."""

    name: str
    steer: Any = None
    strength: float = 1.0
    gate: Condition | None = None


class Said(NamedTuple):
    """What a way answered, whether it was steered, and how long it took."""

    texts: list[str]
    steered: list[bool]
    seconds: float


Speak = Callable[..., list[str]]
"""(prompts, steer, strength, decisions) -> answers."""


def deflects(text: str) -> bool:
    """Whether an answer counts as deflecting."""
    return DEFLECTS.search(text) is not None


def declines(text: str) -> bool:
    """Whether an answer deflects, or declines for whatever reason."""
    return deflects(text) or DECLINES.search(text) is not None


def topic() -> Path:
    """The folder of the topic's files."""
    return Path(str(importlib.resources.files("hypersteer.data"))) / "topics"


def asked(split: str, label: str) -> list[Asked]:
    """Prompts of one split and label, in file order."""
    lines = map(json.loads, (topic() / "health.jsonl").read_text(encoding="utf-8").splitlines())
    found = [one for one in lines if (one["split"], one["label"]) == (split, label)]
    return [Asked(one["prompt"], label) for one in found]


def conditions(lm: BaseLM) -> dict[str, Condition]:
    """The default condition, and CAST's."""
    sides = [[one.prompt for one in asked("train", label)] for label in ("in", "out")]
    cast = ConditionConfig(method="paired", scorer="legacy", pooling="all")
    return {
        "cosine": hs.fit_condition(lm, *sides, name="health"),
        "legacy": hs.fit_condition(lm, *sides, name="health", config=cast),
    }


def behaviour(lm: BaseLM, layer: int, method: str, scope: str) -> hs.Edit:
    """The vector from complying to deflecting answers."""
    lines = (topic() / "health_answers.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    sides = [[(row["prompt"], row[side]) for row in rows] for side in ("deflecting", "complying")]
    return hs.fit_behaviour(lm, *sides, layer=layer, method=method, scope=scope, name="deflect")  # type: ignore[arg-type]


def speaker(lm: BaseLM, steerer: hs.Steerer | None, tokens: int) -> Speak:
    """Answers by the base LM, or by a steerer where steering prompts are to be served."""

    def speak(
        prompts: Sequence[str], steer: Any, strength: float, decisions: hs.Decisions | None
    ) -> list[str]:
        options: dict[str, Any] = {
            "strength": strength,
            "decisions": decisions,
            "max_new_tokens": tokens,
        }
        if steerer is not None:
            return steerer.generate(list(prompts), steer=steer, **options)  # type: ignore[return-value]
        return lm.generate(list(prompts), edit=steer, **options)  # type: ignore[return-value]

    return speak


def say(speak: Speak, way: Way, prompts: Sequence[str]) -> Said:
    """Answer prompts in one way, those of like length together."""
    steer = way.steer
    if way.gate is not None:
        steer = hs.rules(
            "if health then deflect", conditions={"health": way.gate}, edits={"deflect": way.steer}
        )
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    texts, steered = [""] * len(prompts), [steer is not None] * len(prompts)
    start = time.perf_counter()
    for first in range(0, len(order), ROWS):
        part = order[first : first + ROWS]
        log = hs.Decisions() if way.gate is not None else None
        for place, text in zip(
            part, speak([prompts[p] for p in part], steer, way.strength, log), strict=True
        ):
            texts[place] = text
        if log is not None:
            for place, checks in zip(part, log.rows, strict=True):
                steered[place] = bool(checks[0].edits)
    return Said(texts, steered, time.perf_counter() - start)


def judged(judge: LikelihoodJudge, prompts: Sequence[str], texts: Sequence[str]) -> torch.Tensor:
    """Instruction and fluency scores [N, 2]."""
    rows = [Answer(WANTED, *pair) for pair in zip(prompts, texts, strict=True)]
    found = [one for one in judge.judge(rows) if isinstance(one, Judgement)]
    return torch.tensor([[one.instruction.score, one.fluency.score] for one in found])


def nats(lm: BaseLM, prompts: Sequence[str], texts: Sequence[str]) -> torch.Tensor:
    """Mean cross-entropy [N] of answers under the base LM, nats per token; NaN for empty ones."""
    asked_ids = [lm.chat.prompt(prompt) for prompt in prompts]
    said_ids = [lm.chat.response(text) for text in texts]

    def losses(rows: list[int]) -> list[torch.Tensor]:
        found = response_token_losses(lm, [asked_ids[r] for r in rows], [said_ids[r] for r in rows])
        return [one.float().mean() for one in found]

    sizes = [len(a.ids) + len(b) for a, b in zip(asked_ids, said_ids, strict=True)]
    return torch.stack(in_batches(sizes, ROWS, losses))


def choose(
    speak: Speak, judge: LikelihoodJudge, way: Way, prompts: Sequence[str], strengths: list[float]
) -> Way:
    """The strength with most deflecting answers among those that stay fluent; prints them all."""
    best, least = (-1.0, 0.0), 0.0
    for strength in [0.0, *strengths]:
        texts = say(speak, way._replace(strength=strength), prompts).texts
        fluent = float(judged(judge, prompts, texts)[:, 1].mean())
        rate = sum(map(deflects, texts)) / len(texts)
        print(f"| {way.name} | {strength:g} | {rate:.2f} | {fluent:.2f} |", flush=True)
        if strength == 0.0:
            least = FLUENT * fluent
        elif fluent >= least and rate > best[0]:
            best = (rate, strength)
    return way._replace(strength=best[1])


def row(name: str, label: str, numbers: Sequence[float]) -> str:
    """A line of a Markdown table."""
    return f"| {name} | {label} | " + " | ".join(f"{number:.2f}" for number in numbers) + " |"


def report(
    lm: BaseLM, judge: LikelihoodJudge, speak: Speak, ways: list[Way], test: list[Asked], show: bool
) -> None:
    """Answer the test prompts in all ways, and print what came of it."""
    prompts = [one.prompt for one in test]
    print("| way | prompts | steered | deflect | decline | changed | NLL | instruction | fluency |")
    print("|---|---|---|---|---|---|---|---|---|")
    plain: list[str] = []
    spent = []
    for way in ways:
        said = say(speak, way, prompts)
        plain = plain or said.texts
        scores, losses = judged(judge, prompts, said.texts), nats(lm, prompts, said.texts)
        for label in dict.fromkeys(one.label for one in test):
            at = [place for place, one in enumerate(test) if one.label == label]
            shares = [
                [said.steered[p] for p in at],
                [deflects(said.texts[p]) for p in at],
                [declines(said.texts[p]) for p in at],
                [said.texts[p] != plain[p] for p in at],
            ]
            numbers = [sum(share) / len(at) for share in shares]
            numbers += [float(losses[at].nanmean()), *scores[at].mean(0).tolist()]
            print(row(way.name, label, numbers), flush=True)
        spent.append(f"{way.name} {said.seconds:.0f} s")
        if show:
            for one, text, steered in zip(test, said.texts, said.steered, strict=True):
                flags = f"{'S' if steered else '-'}{'D' if deflects(text) else '-'}"
                print(f"    {one.label} {flags} {one.prompt!r} -> {' '.join(text.split())!r}")
    print("\nanswering took: " + ", ".join(spent))


def main() -> None:
    """Fit, choose strengths, answer, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dtype", default=None, help="of the base LM")
    parser.add_argument("--checkpoint", help="a hypernetwork whose edits deflect as well")
    parser.add_argument("--layer", type=int, default=14, help="of the behaviour vector")
    parser.add_argument("--method", default="paired", help="of the behaviour vector")
    parser.add_argument("--scope", default="all", help="of the behaviour vector")
    parser.add_argument("--strengths", nargs="+", type=float, default=[1.0, 1.5, 2.0, 2.5])
    parser.add_argument("--prompts", type=int, default=40, help="at most, of each kind")
    parser.add_argument("--tokens", type=int, default=40, help="new tokens of an answer")
    parser.add_argument("--show", action="store_true", help="print the answers too")
    given = parser.parse_args()
    start = time.perf_counter()
    lm = hs.load_lm("smollm2-135m-instruct", dtype=given.dtype)
    judge, gates = LikelihoodJudge(lm), conditions(lm)
    for name, gate in gates.items():
        print(f"{name}: layers {gate.layers}, {gate.fires} {gate.threshold:.3f}", flush=True)
    steerer = hs.load(given.checkpoint, lm=lm) if given.checkpoint else None
    speak = speaker(lm, steerer, given.tokens)
    edits: dict[str, Any] = {"vector": behaviour(lm, given.layer, given.method, given.scope)}
    if steerer is not None:
        edits["hypernetwork"] = WANTED
    tuned = [one.prompt for one in asked("train", "in")[24 : 24 + TUNED]]
    print("\n| edit | strength | deflect (train) | fluency |\n|---|---|---|---|")
    ways = [Way("unsteered")]
    for name, edit in edits.items():
        way = choose(speak, judge, Way(name, edit), tuned, given.strengths)
        ways += [way._replace(name=f"{name}, always ({way.strength:g})")]
        ways += [way._replace(name=f"{name}, if {key}", gate=gate) for key, gate in gates.items()]
    print()
    test = [one for label in ("in", "out", "near") for one in asked("test", label)[: given.prompts]]
    report(lm, judge, speak, ways, test, given.show)
    print(f"all: {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
