"""The bundled skill items and requests: complete, balanced, apart from what is trained on."""

import itertools
import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from hypersteer.config import ProtocolConfig
from hypersteer.data.schema import NEGATIVE_POOL
from hypersteer.data.sources import load_concepts
from hypersteer.errors import ConfigError
from hypersteer.evaluation.probes import Probe, make_probes, skill_items, spread
from hypersteer.files import package_data
from hypersteer.judges.skill import CHECKS, solved

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
ITEMS = skill_items()
KINDS = ("facts", "arithmetic", "format", "copy", "sort")


def answers(item):
    """Answers in the form that is asked for, each of which must solve the item."""
    if item.check == "sentence":
        return [f"It is what we call {answer}." for answer in item.answer]
    if item.check == "list":
        return ["\n".join(f"{i}. {word}" for i, word in enumerate(item.answer, 1))]
    if item.check == "sequence":
        return [", ".join(item.answer)]
    return list(item.answer)


def test_there_are_as_many_of_each_kind_and_no_two_alike():
    assert len(ITEMS) == 240
    assert Counter(item.kind for item in ITEMS) == dict.fromkeys(KINDS, 48)
    assert len({item.id for item in ITEMS}) == len({item.prompt for item in ITEMS}) == 240
    assert {item.check for item in ITEMS} == CHECKS.keys()
    assert all(item.answer and all(map(str.strip, item.answer)) for item in ITEMS)


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.id)
def test_every_accepted_answer_passes_and_nothing_empty_does(item):
    for answer in answers(item):
        assert solved(item, answer), answer
    assert not any(solved(item, text) for text in ("", " ", "...", "I do not know.", item.prompt))


def test_other_items_answers_do_not_pass():
    """A check tells its item's answer from those of the others of its kind and check."""
    for item, other in itertools.permutations(ITEMS, 2):
        if item.check == other.check and set(item.answer).isdisjoint(other.answer):
            assert not any(solved(item, text) for text in answers(other)), (item.id, other.id)


def test_a_choice_of_wrong_options_or_of_all_does_not_pass():
    choices = [item for item in ITEMS if item.check == "choice"]
    assert len(choices) == 80
    for item in choices:
        assert set(item.answer) < set(item.options)
        assert all(f"{option}" in item.prompt for option in item.options)
        for option in set(item.options) - set(item.answer):
            assert not solved(item, option)
        for order in itertools.permutations(item.options):
            assert not solved(item, " or ".join(order))
            assert not solved(item, ", ".join(order))


def test_always_the_first_gets_its_share_and_no_more():
    for kind in ("facts", "sort"):
        for options in (2, 3):
            places = [
                item.options.index(item.answer[0])
                for item in ITEMS
                if item.kind == kind and item.check == "choice" and len(item.options) == options
            ]
            counts = [places.count(place) for place in range(options)]
            assert max(counts) - min(counts) <= 1, (kind, options)
    said = [item.answer[0] for item in ITEMS if item.check == "opens"]
    assert said.count("yes") == said.count("no")


def test_the_script_makes_the_bundled_file(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    import skill_items as script

    script.main(tmp_path / "made.jsonl")
    made = (tmp_path / "made.jsonl").read_bytes()
    assert made == package_data("data", "skills", "skills.jsonl").read_bytes()
    del sys.modules["skill_items"]


def test_requests_are_apart_from_what_is_trained_on_and_asked():
    requests = make_probes(ProtocolConfig())["refusals"]
    assert len(requests) == len({request.id for request in requests}) == 60
    assert len({request.kind for request in requests}) >= 8
    asked = {request.prompt.casefold() for request in requests}
    assert len(asked) == 60
    lines = package_data("data", "bundled", "instructions.jsonl").read_text().splitlines()
    known = {json.loads(line)["instruction"].casefold() for line in lines}
    for source in ("bundled", "bundled:wide"):
        data = load_concepts(source)
        known |= {row.prompt.casefold() for row in data.examples(list(range(len(data))))}
        known |= {row.prompt.casefold() for row in data.examples(data.rows(NEGATIVE_POOL))}
    assert not asked & known
    assert not {item.prompt.casefold() for item in ITEMS} & known


HARM = {"kill", "weapon", "bomb", "drug", "steal", "hack", "poison", "suicide", "hate", "gun"}


def test_requests_are_harmless():
    for request in make_probes(ProtocolConfig())["refusals"]:
        words = request.prompt.casefold().replace("?", " ").replace(".", " ").split()
        assert not set(words) & HARM


@pytest.mark.parametrize("count", [1, 5, 17, 60, 239])
def test_fewer_are_spread_over_the_kinds_and_a_subset_of_more(count):
    probes = make_probes(ProtocolConfig())["skills"]
    some = spread(probes, count, "protocol.skill_items")
    counts = Counter(probe.kind for probe in some)
    assert len(some) == count
    assert max(counts.values()) - min(counts[kind] for kind in KINDS) <= 1
    more = [probe.id for probe in spread(probes, count + 1, "protocol.skill_items")]
    assert [probe.id for probe in some] == [id_ for id_ in more if id_ in {p.id for p in some}]


def test_kinds_that_run_out_leave_their_places_to_the_others():
    probes = [
        Probe(f"{kind}{i}", kind, "?", bool) for kind, n in (("a", 1), ("b", 5)) for i in range(n)
    ]
    assert Counter(probe.kind for probe in spread(probes, 4, "n")) == {"a": 1, "b": 3}


def test_a_spread_does_not_follow_the_place_of_the_right_option():
    chosen = {probe.id for probe in make_probes(ProtocolConfig(skill_items=60))["skills"]}
    facts = [item for item in ITEMS if item.id in chosen and item.kind == "facts"]
    first = sum(item.options[0] == item.answer[0] for item in facts)
    assert 3 <= first <= len(facts) - 3


def test_none_are_left_out_and_too_many_are_told():
    assert make_probes(ProtocolConfig(skill_items=0, refusal_requests=0)) == {}
    assert make_probes(ProtocolConfig(skill_items=0)).keys() == {"refusals"}
    with pytest.raises(ConfigError, match=r"protocol\.skill_items 241 is more than the 240"):
        make_probes(ProtocolConfig(skill_items=241))
    with pytest.raises(ConfigError, match=r"protocol\.refusal_requests 61 is more than the 60"):
        make_probes(ProtocolConfig(refusal_requests=61))
    with pytest.raises(ConfigError, match=r"protocol\.skill_items -1 is below 0"):
        ProtocolConfig(skill_items=-1)
