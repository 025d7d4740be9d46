"""Lists of concepts, pools of instructions, and the data sets they come from on the Hub."""

import json
from collections import Counter

import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hypersteer.config.synthesis import CountsConfig
from hypersteer.errors import DataError
from hypersteer.synthesis.pools import check_pool, load_pool, negative_shares
from hypersteer.synthesis.sources import ListedConcept, read_concepts


def feature(index, description, layer="20-res", model="gemma"):
    return {"modelId": model, "layer": layer, "index": index, "description": description, "x": 1}


def test_a_text_file_has_a_concept_on_each_line(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("\ufefftalk like a pirate\n\n# a remark\n  bees \nTalk  like a Pirate\nowls\n")
    found = read_concepts(str(path))
    assert found == [
        ListedConcept("talk like a pirate"),
        ListedConcept("bees"),
        ListedConcept("owls"),
    ]
    assert read_concepts(str(path), limit=2) == found[:2]


def test_json_lines_may_say_more(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"concept": "bees", "genre": "math", "kind": "k", "ref": "r"}\n{"concept": "x"}'
    )
    assert read_concepts(str(path)) == [ListedConcept("bees", "math", "k", "r"), ListedConcept("x")]


def test_an_export_gives_the_first_description_of_every_feature(tmp_path):
    path = tmp_path / "a.json"
    entries = [feature(str(i), f"feature {i}") for i in range(30)]
    entries += [feature("3", "another word for it"), feature("3", "deeper", layer="21-res")]
    entries += [feature(40, " "), feature(41, "a number is fine too")]
    path.write_text(json.dumps(entries))
    found = read_concepts(str(path), seed=1)
    texts = [one.text for one in found]
    wanted = [*(f"feature {i}" for i in range(30)), "deeper", "a number is fine too"]
    assert sorted(texts) == sorted(wanted)
    assert texts != wanted, "shuffled"
    assert read_concepts(str(path), seed=1, limit=5) == found[:5]
    assert read_concepts(str(path), seed=2) != found
    refs = {one.text: one.ref for one in found}
    assert refs["feature 7"] == "https://www.neuronpedia.org/gemma/20-res/7"
    assert {one.genre for one in found} == {None}


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.jsonl", '{"concept": "x"}\n{"concept": ""}', "line 2: concept is ''"),
        ("a.jsonl", '{"concept": "x", "genre": "prose"}', "unknown genre 'prose'"),
        ("a.jsonl", '{"concept": "x", "ref": 3}', "ref is 3; expected text"),
        ("a.jsonl", "bees", "line 1 is not JSON"),
        ("a.jsonl", "[1]", "line 1 is not a JSON object"),
        ("a.json", '{"a": 1}', "is not a list of features"),
        ("a.json", '[{"description": "x"}]', "feature 0 lacks one of description, modelId"),
        ("a.json", json.dumps([feature("x1", "d")]), "a number as index"),
        ("a.json", "[]", "holds no concepts"),
        ("a.json", "[" * 100_000, "nested too deeply"),
        ("a.jsonl", '{"concept": "\\ud800"}', "half a character"),
        ("a.txt", "# only this\n", "holds no concepts"),
    ],
)
def test_lists_that_cannot_be_read(tmp_path, name, text, told):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(DataError, match=told):
        read_concepts(str(path))


def write_pool(path, **counts):
    entries = [
        {"instruction": f"{genre} question {i}", "genre": genre}
        for genre, count in counts.items()
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(one) + "\n" for one in entries))
    return str(path)


def test_the_halves_of_a_pool_are_disjoint_and_whole(tmp_path):
    path = tmp_path / "pool.jsonl"
    write_pool(path, text=11, code=4, math=2)
    with path.open("a") as file:
        file.write(json.dumps("TEXT  question 3") + "\n" + json.dumps("x" * 500) + "\n")
    pool = load_pool(str(path), seed=0)
    sizes = {key: len(half) for key, half in pool.halves.items()}
    assert sizes == {
        ("train", "text"): 6,
        ("test", "text"): 5,
        ("train", "code"): 2,
        ("test", "code"): 2,
        ("train", "math"): 1,
        ("test", "math"): 1,
    }
    texts = [one.text for half in pool.halves.values() for one in half]
    assert len(set(texts)) == len(texts) == 17
    assert {one.source for half in pool.halves.values() for one in half} == {"pool.jsonl"}
    assert load_pool(str(path), seed=0).halves == pool.halves
    assert load_pool(str(path), seed=1).halves != pool.halves


def test_draws_are_distinct_and_a_larger_one_is_a_superset():
    pool = load_pool("bundled", seed=0)
    few, more = (pool.draw("train", "text", n, 1, 2) for n in (5, 30))
    assert more[:5] == few
    assert len(set(more)) == 30
    assert set(more) <= set(pool.halves["train", "text"])
    assert pool.draw("train", "text", 5, 1, 3) != few


def test_negatives_have_the_shares_of_axbench():
    assert negative_shares(36) == {"text": 26, "code": 5, "math": 5}
    assert negative_shares(4) == {"text": 4, "code": 0, "math": 0}


def test_only_the_genres_that_may_occur_must_be_large_enough(tmp_path):
    pool = load_pool(write_pool(tmp_path / "p.jsonl", text=40, code=4, math=4), seed=0)
    counts = CountsConfig(
        train_positives=20, test_positives=15, hard_negatives=5, test_negatives=8, pool_negatives=2
    )
    check_pool(pool, counts, {"text"})
    with pytest.raises(DataError, match="2 of genre code for the train split, but 20 are wanted"):
        check_pool(pool, counts, {"text", "code"})
    with pytest.raises(DataError, match=r"but 21 are wanted: lower counts\.test_positives and"):
        check_pool(
            pool, CountsConfig(test_positives=11, train_positives=20, pool_negatives=2), "text"
        )


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Three data sets as the Hub has them, in place of the download; notes what was asked for."""
    dolly = tmp_path / "databricks-dolly-15k"
    gsm, python = tmp_path / "gsm8k", tmp_path / "python_code_instructions_18k_alpaca"
    for folder in (dolly, gsm / "main", python / "data"):
        folder.mkdir(parents=True)
    rows = [
        {"instruction": f"'Where is town {i}?'", "context": "", "category": "open_qa"}
        for i in range(8)
    ]
    rows += [
        {"instruction": "With context", "context": "some", "category": "open_qa"},
        {"instruction": "Sort them", "context": "", "category": "classification"},
        {"instruction": "x" * 500, "context": "", "category": "open_qa"},
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (dolly / "databricks-dolly-15k.jsonl").write_text(lines)
    sums = [{"question": f"What is {i} and 1?", "answer": "?"} for i in range(6)]
    pq.write_table(pa.Table.from_pylist(sums), gsm / "main" / "train-00000-of-00001.parquet")
    code = [
        {"instruction": f"Print {i}.", "input": "", "output": "", "prompt": ""} for i in range(5)
    ]
    code.append({"instruction": "Print it", "input": "7", "output": "", "prompt": ""})
    pq.write_table(pa.Table.from_pylist(code), python / "data" / "train-00000-of-00001-a.parquet")
    asked = []

    def download(repo, *, repo_type, allow_patterns):
        asked.append((repo, repo_type, allow_patterns))
        return str(tmp_path / repo.split("/")[1])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return asked


def test_the_hub_pools_are_filtered_as_in_axbench(hub):
    pool = load_pool("hub", seed=0)
    assert [repo for repo, _, _ in hub] == [
        "databricks/databricks-dolly-15k",
        "openai/gsm8k",
        "iamtarun/python_code_instructions_18k_alpaca",
    ]
    assert {kind for _, kind, _ in hub} == {"dataset"}
    everything = [one for half in pool.halves.values() for one in half]
    assert Counter((one.genre, one.source) for one in everything) == {
        ("text", "databricks/databricks-dolly-15k"): 8,
        ("math", "openai/gsm8k"): 6,
        ("code", "iamtarun/python_code_instructions_18k_alpaca"): 5,
    }
    texts = {one.text for one in everything}
    assert {"Where is town 3?", "What is 2 and 1?", "Print 4"} <= texts


def test_without_the_hub_there_is_a_way_out(monkeypatch):
    def download(repo, **_):
        raise ConnectionError("no route to host\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(DataError, match=r"no route to host; .*--instructions bundled") as raised:
        load_pool("hub", seed=0)
    assert "\n" not in str(raised.value)


def test_a_data_set_that_has_changed_is_told(hub, tmp_path):
    file = tmp_path / "gsm8k" / "main" / "train-00000-of-00001.parquet"
    pq.write_table(pa.Table.from_pylist([{"problem": "x"}]), file)
    with pytest.raises(DataError, match="openai/gsm8k is not as expected"):
        load_pool("hub", seed=0)
    file.unlink()
    with pytest.raises(DataError, match="openai/gsm8k holds no main/train"):
        load_pool("hub", seed=0)


def test_marked_instructions_stay_in_their_split(tmp_path):
    file = tmp_path / "pool.jsonl"
    lines = [{"instruction": f"ask {n}", "split": "test" if n % 3 else "train"} for n in range(12)]
    file.write_text("\n".join(map(json.dumps, [*lines, {"instruction": "free"}])))
    for seed in (1, 2):
        halves = load_pool(str(file), seed).halves
        train = {one.text for one in halves["train", "text"]}
        assert train - {"free"} == {f"ask {n}" for n in range(0, 12, 3)}
        assert len(train) + len(halves["test", "text"]) == 13


def test_an_unknown_split_is_told(tmp_path):
    file = tmp_path / "pool.jsonl"
    file.write_text('{"instruction": "ask", "split": "tets"}')
    with pytest.raises(DataError, match=r"unknown split 'tets'.*'test'"):
        load_pool(str(file), 1)


def test_lines_of_a_list_end_at_line_feeds_only(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffbees\u2028and owls\x0c, too\r\nseas\r\n".encode())
    assert read_concepts(str(path)) == [
        ListedConcept("bees\u2028and owls\x0c, too"),
        ListedConcept("seas"),
    ]
