import json
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hypersteer.config import DataConfig
from hypersteer.data.sources import load_concepts
from hypersteer.data.splits import split_as, split_rows
from hypersteer.errors import ConfigError

N_CONCEPTS, N_ROWS = 6, 12
ALL = {"max_concepts": None, "max_examples_per_concept": None}


def rows_of(row, concepts):
    """Rows in which each concept asks prompt 0 twice, and shares its prompts with the others."""
    negatives = [row("p0", concept_id=i, category="negative") for i in concepts]
    return negatives + [
        row(f"p{max(n - 1, 0)}", f"{i}.{n}", i) for i in concepts for n in range(N_ROWS)
    ]


@pytest.fixture
def data(tmp_path, row, write_parquet):
    write_parquet(tmp_path / "all" / "train_data.parquet", rows_of(row, range(N_CONCEPTS)))
    return load_concepts(str(tmp_path / "all"))


def responses(data, rows):
    return {example.response for example in data.examples(rows)}


def of(texts, concept_id):
    return {text for text in texts if text.startswith(f"{concept_id}.")}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    seed=st.integers(),
    held_out=st.integers(0, N_CONCEPTS - 1),
    held_in=st.integers(0, N_ROWS - 2),
    max_concepts=st.none() | st.integers(1, N_CONCEPTS + 1),
    max_examples=st.none() | st.integers(1, N_ROWS + 1),
    max_held_out=st.none() | st.integers(1, N_ROWS + 1),
)
def test_parts_are_disjoint_and_within_limits(
    data, seed, held_out, held_in, max_concepts, max_examples, max_held_out
):
    options = {
        "held_out_concepts": held_out,
        "held_in_prompts": held_in,
        "max_concepts": max_concepts,
        "max_examples_per_concept": max_examples,
        "max_held_out_rows": max_held_out,
        "seed": seed,
    }
    split = split_rows(data, **options)
    parts = (split.train, split.held_in, split.held_out)
    together = np.concatenate(parts)
    assert len(set(together)) == len(together)
    assert all(np.array_equal(part, np.sort(part)) for part in parts)
    assert all(data.example(row).category == "positive" for row in together)
    assert not set(split.train_concepts) & set(split.held_out_concepts)
    assert len(split.held_out_concepts) == held_out
    assert len(split.train_concepts) == min(max_concepts or N_CONCEPTS, N_CONCEPTS - held_out)
    for id_ in split.held_out_concepts:
        rows = np.intersect1d(split.held_out, data.rows(id_))
        assert len(rows) == min(max_held_out or N_ROWS, N_ROWS)
        assert not np.isin(data.rows(id_), split.train).any()
    for id_ in split.train_concepts:
        train = data.prompts(np.intersect1d(split.train, data.rows(id_)))
        kept_back = data.prompts(np.intersect1d(split.held_in, data.rows(id_)))
        assert len(set(kept_back)) == held_in
        assert not set(kept_back) & set(train)
        assert len(train) == min(max_examples or N_ROWS, N_ROWS - len(kept_back))
    again = split_rows(data, **options)
    assert all(map(np.array_equal, parts, (again.train, again.held_in, again.held_out)))


def test_a_concept_is_split_alike_whatever_others_there_are(tmp_path, data, row, write_parquet):
    write_parquet(tmp_path / "few" / "train_data.parquet", rows_of(row, [4, 1, 5]))
    few = load_concepts(str(tmp_path / "few"))
    limits = {"max_concepts": None, "max_examples_per_concept": 4, "max_held_out_rows": 3}
    many_split = split_rows(data, held_out_concepts=[1], **limits, seed=3)
    few_split = split_rows(few, held_out_concepts=[1], **limits, seed=3)
    for part in ("train", "held_in", "held_out"):
        many = responses(data, getattr(many_split, part))
        alone = responses(few, getattr(few_split, part))
        assert all(of(many, id_) == of(alone, id_) for id_ in (1, 4, 5))


def test_larger_limits_give_supersets(data):
    def split(**limits):
        options = {"held_out_concepts": 2, "max_held_out_rows": 2, **ALL, **limits}
        return split_rows(data, held_in_prompts=2, seed=0, **options)

    few, many = split(max_concepts=1, max_examples_per_concept=3), split(max_concepts=3)
    assert set(few.train) < set(many.train)
    assert few.held_out_concepts == many.held_out_concepts
    assert set(few.held_out) < set(split(max_held_out_rows=5).held_out)
    assert set(few.held_out_concepts) < set(split(held_out_concepts=3).held_out_concepts)


def test_seeds_choose_differently(data):
    splits = [split_rows(data, held_out_concepts=2, **ALL, seed=seed) for seed in range(8)]
    assert len({split.held_out_concepts for split in splits}) > 1
    assert len({tuple(split.held_in) for split in splits}) == 8


def test_named_concepts_are_held_out(data):
    split = split_rows(data, held_out_concepts=(5, 0), **ALL, seed=0)
    assert split.held_out_concepts == (0, 5)
    assert split.train_concepts == (1, 2, 3, 4)
    assert split_rows(data, held_out_concepts=[], **ALL, seed=0).held_out.tolist() == []


@pytest.mark.parametrize("held_out", [0, 1, 2, 3, "marked", [2], [5], (0, 5)], ids=str)
def test_no_text_is_trained_on_and_held_out(tmp_path, row, write_parquet, held_out):
    """Two texts occur twice, under other ids; whichever is named or marked, all of its rows go."""
    texts = ["owls", "figs", "jam", "figs ", "yaks", "owls"]
    lines = [{"concept_id": i, "concept": text, "held_out": i == 3} for i, text in enumerate(texts)]
    write_parquet(tmp_path / "train_data.parquet", rows_of(row, range(6)))
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    data = load_concepts(str(tmp_path))
    for seed in range(4):
        split = split_rows(data, held_out_concepts=held_out, held_in_prompts=2, **ALL, seed=seed)
        of_part = {}
        for name in ("train", "held_in", "held_out"):
            ids = {int(text.split(".")[0]) for text in responses(data, getattr(split, name))}
            of_part[name] = {texts[i].strip() for i in ids}
        assert not of_part["held_out"] & (of_part["train"] | of_part["held_in"])
        assert set(range(6)) == {
            int(text.split(".")[0])
            for name in ("train", "held_out")
            for text in responses(data, getattr(split, name))
        }
        wanted = {"marked": (1,), "[2]": (2,), "[5]": (0,), "(0, 5)": (0,)}.get(str(held_out))
        assert split.held_out_concepts == (wanted or split.held_out_concepts)
        assert not set(split.train_concepts) & {3, 5}
        if isinstance(held_out, int):
            assert len(split.held_out_concepts) == held_out


def test_concepts_without_positive_rows_take_no_part(tmp_path, row, write_parquet):
    lines = [f'{{"concept_id": {i}, "concept": "concept {i}"}}' for i in range(3)]
    write_parquet(tmp_path / "train_data.parquet", rows_of(row, [0, 2]))
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    data = load_concepts(str(tmp_path))
    split = split_rows(data, held_out_concepts=0, **ALL, seed=0)
    assert split.train_concepts == (0, 2)
    with pytest.raises(ConfigError, match=r"cannot hold out concept 1: .* has no positive rows of"):
        split_rows(data, held_out_concepts=[1], **ALL, seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"held_out_concepts": 6}, "cannot hold out 6 of the 6 concepts of "),
        ({"held_out_concepts": -1}, "cannot hold out -1 of the 6 concepts of "),
        ({"held_out_concepts": range(6)}, "all 6 concepts of "),
        ({"held_out_concepts": [9]}, "cannot hold out concept 9: "),
        ({"held_in_prompts": 11}, "held_in_prompts is 11, but concept 0 of "),
        ({"held_in_prompts": -1}, "held_in_prompts is -1; expected 0 or more"),
        ({"max_concepts": 0}, "max_concepts is 0; expected 1 or more"),
        ({"max_examples_per_concept": 0}, "max_examples_per_concept is 0; expected 1 or more"),
        ({"max_held_out_rows": -2}, "max_held_out_rows is -2; expected 1 or more"),
    ],
)
def test_limits_out_of_range(data, options, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        split_rows(data, **{"held_out_concepts": 0, **ALL, "seed": 0, **options})
    assert "\n" not in str(caught.value)


def test_real_concept10(axbench_shared, monkeypatch):
    monkeypatch.setenv("HYPERSTEER_AXBENCH", str(axbench_shared))
    data = load_concepts("axbench:concept10/2b/l20")
    split = split_rows(data, held_out_concepts=2, **ALL, max_held_out_rows=10, seed=0)
    assert len(split.held_out) == 20
    assert len(split.train) + len(split.held_in) == 8 * 72
    assert 48 <= len(split.held_in) <= 50


def test_the_default_settings_fit_the_bundled_data():
    data = load_concepts("bundled")
    split = split_as(data, DataConfig(), seed=42)
    marked = {concept.id for concept in data.concepts if concept.held_out}
    assert set(split.held_out_concepts) == marked
    assert len(split.train_concepts) == len(data.concepts) - len(marked)
    assert len(split.held_in) == len(split.train_concepts)


def test_prompts_are_kept_back_from_the_same_concepts_whatever_there_are_besides(data):
    few = split_rows(data, held_out_concepts=2, held_in_prompts=2, max_concepts=2,
                     max_examples_per_concept=None, seed=1)  # fmt: skip
    for most in (3, None):
        more = split_rows(data, held_out_concepts=2, held_in_prompts=2, held_in_concepts=2,
                          max_concepts=most, max_examples_per_concept=None, seed=1)  # fmt: skip
        assert more.held_in.tolist() == few.held_in.tolist()
        assert set(few.train) < set(more.train)
        others = set(more.train_concepts) - set(few.train_concepts)
        assert others
        for concept in others:
            assert set(data.rows(concept)) <= set(more.train)
    with pytest.raises(ConfigError, match="held_in_concepts is 0"):
        split_rows(data, held_out_concepts=2, held_in_concepts=0, seed=1, **ALL)
