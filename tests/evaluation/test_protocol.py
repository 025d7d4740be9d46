"""Which concepts and instructions an evaluation asks for."""

import json

import numpy as np
import pytest

from hypersteer.config import DataConfig, EvaluateConfig, ProtocolConfig
from hypersteer.data.sources import load_concepts
from hypersteer.errors import ConfigError, DataError
from hypersteer.evaluation.protocol import (
    Instruction,
    load_instructions,
    make_plan,
    pick_instructions,
)
from hypersteer.synthesis.pools import load_pool
from training.worlds import CONCEPTS, make_data

POOL = [f"Question {number}?" for number in range(30)]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan")
    pool = folder / "pool.jsonl"
    pool.write_text("".join(json.dumps({"instruction": text}) + "\n" for text in POOL))
    return make_data(folder / "data"), pool


def config_of(files, seed=42, held_out=2, **protocol):
    data, pool = files
    return EvaluateConfig(
        seed=seed,
        data=DataConfig(source=(str(data),), held_out_concepts=held_out, held_in_prompts=2),
        protocol=ProtocolConfig(instructions=str(pool), **{"prompts": 4, **protocol}),
    )


def test_held_out_concepts_are_asked_about_and_not_learnt(files):
    plan = make_plan(config_of(files))
    held_in = {concept.id for concept in plan.concepts("held_in")}
    held_out = {concept.id for concept in plan.concepts("held_out")}
    assert len(held_in) == len(CONCEPTS) - 2
    assert len(held_out) == 2
    assert not held_in & held_out
    assert not any(entry.positives for entry in plan.examples("held_out"))
    learnt = plan.examples("held_in")
    assert {entry.concept.id for entry in learnt} == held_in
    for entry in learnt:
        prompts = {example.prompt for example in entry.positives}
        kept_back = plan.data.examples(
            np.intersect1d(plan.data.rows(entry.concept.id), plan.split.held_in)
        )
        assert kept_back
        assert not prompts & {example.prompt for example in kept_back}
        assert {example.concept_id for example in entry.positives} == {entry.concept.id}
        assert entry.negatives
        assert entry.concept.id not in {example.concept_id for example in entry.negatives}
        assert not held_out & {example.concept_id for example in entry.negatives}


def test_fewer_concepts_and_prompts_are_among_more(files):
    whole, part = (
        make_plan(config_of(files)),
        make_plan(config_of(files, held_in_concepts=2, held_out_concepts=1, prompts=2)),
    )
    assert set(part.questions) < set(whole.questions)
    assert [held for held, _ in part.questions] == ["held_in", "held_in", "held_out"]
    for key, questions in part.questions.items():
        assert questions == whole.questions[key][:2]


def test_instructions_are_fixed_by_the_concept_and_seeds_differ(files):
    here, there = make_plan(config_of(files)), make_plan(config_of(files, seed=7, held_out=3))
    for (_, id_), questions in here.questions.items():
        others = next(q for (_, other), q in there.questions.items() if other == id_)
        assert [q.instruction for q in questions] == [q.instruction for q in others]
        assert [q.seed for q in questions] != [q.seed for q in others]
    seeds = [q.seed for questions in here.questions.values() for q in questions]
    assert len(set(seeds)) == len(seeds)


def test_axbench_draws_the_same_instructions():
    """pandas' sample(10, random_state=3) of 805 rows is the start of a legacy permutation."""
    pool = [str(number) for number in range(805)]
    expected = np.random.RandomState(3).permutation(805)[:10]
    assert pick_instructions(pool, 3, 10) == [str(number) for number in expected]


def test_a_json_list_and_lines_read_alike(files, tmp_path):
    listed = tmp_path / "pool.json"
    listed.write_text(json.dumps([{"instruction": f" {text} ", "id": 1} for text in POOL * 2]))
    assert (
        load_instructions(str(listed))
        == load_instructions(str(files[1]))
        == [Instruction(text) for text in POOL]
    )


@pytest.mark.parametrize(
    ("content", "told"),
    [("not json\n", "cannot read instructions"), ('{"question": "a"}\n', "'instruction'")],
)
def test_bad_instructions_are_told(tmp_path, content, told):
    path = tmp_path / "pool.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=told) as caught:
        load_instructions(str(path))
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_too_few_instructions_are_told(files, tmp_path):
    with pytest.raises(DataError, match=r"no\.jsonl"):
        load_instructions(str(tmp_path / "no.jsonl"))
    with pytest.raises(DataError, match="31 is more than the 30"):
        make_plan(config_of(files, prompts=31))


def test_nothing_to_evaluate_is_told(files):
    with pytest.raises(ConfigError, match="leaves no concept to evaluate"):
        make_plan(config_of(files, held_out=0, held_in_concepts=0))


def test_alpaca_eval_is_read_from_where_the_variable_says(files, monkeypatch):
    monkeypatch.setenv("HYPERSTEER_ALPACA_EVAL", str(files[1]))
    assert [entry.text for entry in load_instructions("alpaca-eval")] == POOL


def test_instructions_of_another_genre_are_not_asked(files, tmp_path):
    pool = tmp_path / "pool.jsonl"
    entries = [{"instruction": text, "genre": "code"} for text in POOL]
    entries += [{"instruction": f"{text} Say why.", "genre": "text"} for text in POOL[:4]]
    entries += [{"instruction": "Hello."}]
    pool.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    plan = make_plan(config_of((files[0], pool)))
    asked = {q.instruction for questions in plan.questions.values() for q in questions}
    assert asked <= {"Hello.", *(f"{text} Say why." for text in POOL[:4])}
    with pytest.raises(DataError, match=r"6 is more than the 5 .* genre 'text'"):
        make_plan(config_of((files[0], pool), prompts=6))


def test_the_bundled_pool_has_no_instruction_that_was_trained_on():
    """Neither by the bundled data, nor by what synthesis makes of the bundled instructions."""
    pool = load_instructions("bundled")
    assert len(pool) >= 150
    assert {entry.genre for entry in pool} == {"text", "code", "math"}
    asked = {entry.text for entry in pool}
    for source, split in (("bundled", "train"), ("bundled", "test"), ("bundled:wide", "train")):
        data = load_concepts(source, split=split)
        assert not asked & set(data.prompts(range(len(data))))
    for seed in (42, 7):
        halves = load_pool("bundled", seed).halves
        for (split, _), half in halves.items():
            assert not (split == "train" and asked & {one.text for one in half})
        assert sum(map(len, halves.values())) >= 300
