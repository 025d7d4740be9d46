"""What is asked beside the protocol: small skills, and harmless requests that models refuse.

Both sets ship with the package. They are answered greedily, and what is counted about an answer is
a pure function of it: whether it solves the item, or whether it refuses.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hypersteer.config import ProtocolConfig, from_dict
from hypersteer.errors import ConfigError
from hypersteer.evaluation.protocol import Ask, Plan
from hypersteer.files import package_data, read_lines
from hypersteer.judges.refusal import refused
from hypersteer.judges.skill import SkillItem, solved
from hypersteer.lm.base import BaseLM
from hypersteer.values import json_of

Measure = Literal["skills", "refusals"]
"""A set, and the folder of its answers."""
NEW_TOKENS: dict[Measure, int] = {"skills": 24, "refusals": 48}
"""Most tokens of an answer."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One prompt of a set.

    Attributes:
        id: its name, unique in the set.
        kind: a part of the set, such as `arithmetic`.
        prompt: one user turn.
        counts: whether an answer is one that the measure counts: solved, or refused.
    """

    id: str
    kind: str
    prompt: str
    counts: Callable[[str], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    id: str
    kind: str
    prompt: str


def skill_items() -> list[SkillItem]:
    """Return all bundled skill items, kind by kind."""
    return [from_dict(SkillItem, entry) for entry in _entries("skills", "skills.jsonl")]


def make_probes(protocol: ProtocolConfig) -> dict[Measure, list[Probe]]:
    """Return the probes that settings ask for, by measure; a measure that is left out is not there.

    Raises:
        ConfigError: if more are asked for than there are.
    """
    items = [Probe(i.id, i.kind, i.prompt, _solves(i)) for i in skill_items()]
    requests = [from_dict(_Request, entry) for entry in _entries("refusals", "requests.jsonl")]
    asked = [Probe(r.id, r.kind, r.prompt, refused) for r in requests]
    found: dict[Measure, list[Probe]] = {
        "skills": spread(items, protocol.skill_items, "protocol.skill_items"),
        "refusals": spread(asked, protocol.refusal_requests, "protocol.refusal_requests"),
    }
    return {measure: probes for measure, probes in found.items() if probes}


def spread(probes: Sequence[Probe], count: int, name: str) -> list[Probe]:
    """Return `count` probes, as many of each kind as can be, always the same; in their order.

    Fewer are a subset of more. Within a kind the digests of the ids decide, so that no pattern in
    the order of a set, such as the place of the right option, is met.

    Args:
        probes: a whole set.
        count: how many.
        name: of the setting, for messages.

    Raises:
        ConfigError: if there are not so many.
    """
    if count > len(probes):
        raise ConfigError(f"{name} {count} is more than the {len(probes)} there are; lower it")
    digests = {probe.id: hashlib.sha256(probe.id.encode()).digest() for probe in probes}
    kinds: dict[str, list[Probe]] = {}
    for probe in sorted(probes, key=lambda probe: digests[probe.id]):
        kinds.setdefault(probe.kind, []).append(probe)
    turns = [
        (turn, kind, probe.id) for kind, own in kinds.items() for turn, probe in enumerate(own)
    ]
    chosen = {id_ for _, _, id_ in sorted(turns)[:count]}
    return [probe for probe in probes if probe.id in chosen]


def check_probes_fit(
    lm: BaseLM, plan: Plan, probes: dict[Measure, list[Probe]], ways: Sequence[Ask]
) -> None:
    """Refuse probes that outgrow the context window, with the longest concept where that is read.

    Args:
        lm: the base LM.
        plan: has the concepts.
        probes: by measure.
        ways: in which methods put concepts into prompts; see `ways_to_ask`.

    Raises:
        SteeringError: naming the probe and the lengths.
    """
    concepts = [questions[0].concept.text for questions in plan.questions.values()]
    longest = max(concepts, key=lambda text: len(lm.chat.text(text)))
    for measure, some in probes.items():
        for probe in some:
            asked = [lm.chat.prompt(way(probe.prompt, longest)) for way in ways]
            tokens = max(len(one.ids) for one in asked) + NEW_TOKENS[measure]
            setting = {"skills": "skill_items", "refusals": "refusal_requests"}[measure]
            what = f"{probe.id} with its answer (protocol.{setting} = 0 leaves it out)"
            lm.check_length(tokens, what)


def _solves(item: SkillItem) -> Callable[[str], bool]:
    return lambda response: solved(item, response)


def _entries(folder: str, file: str) -> Iterable[dict[str, Any]]:
    return map(json_of, read_lines(package_data("data", folder, file)))
