import importlib.resources
import json
import re

import huggingface_hub
import numpy as np
import pytest

from hypersteer.concepts import Concept
from hypersteer.data.schema import Example
from hypersteer.data.sources import load_concepts
from hypersteer.errors import DataError


def write_metadata(folder, ids=(0, 1)):
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"concept_id": i, "concept": f"concept {i}", "kind": "k"}) for i in ids]
    (folder / "metadata.jsonl").write_text("\n".join(lines))


@pytest.fixture
def rows(row):
    """Two concepts, their shared negative pool between them."""
    return [
        row("a", "1", 0),
        row("pool", "no", -1, "negative", concept_genre="math"),
        row("b", "22", 1),
        row("c", "333", 0),
    ]


@pytest.fixture
def folder(tmp_path, rows, write_parquet):
    folder = tmp_path / "git"
    write_metadata(folder / "generate")
    write_parquet(folder / "generate" / "train_data.parquet", rows)
    return folder


@pytest.fixture
def download(monkeypatch, tmp_path, rows, write_parquet):
    """A Hub that holds one data set in the Hub's own layout; gives the requests made."""
    requests = []
    snapshot = tmp_path / "snapshot"
    write_parquet(snapshot / "2b" / "l20" / "train" / "data.parquet", rows)
    write_parquet(snapshot / "2b" / "l20" / "test" / "data.parquet", rows[:1])

    def fake(repo, *, repo_type, allow_patterns):
        requests.append((repo, repo_type, allow_patterns))
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    return requests


def test_one_view_of_a_folder(folder):
    data = load_concepts(str(folder))
    assert len(data) == 4
    assert data.name == str(folder)
    assert data.concepts == [Concept(id=i, text=f"concept {i}", kind="k") for i in range(2)]
    assert data.concept(1).text == "concept 1"
    assert data.rows(0).tolist() == [0, 3]
    data.rows(0)[:] = 99  # a caller may shuffle what it is given
    assert data.rows(0).tolist() == [0, 3]
    assert data.rows(1).tolist() == [2]
    assert data.rows(1, "hard negative").tolist() == []
    assert data.rows(-1, "negative").tolist() == [1]
    assert data.lengths(data.rows(0)).tolist() == [2, 4]
    assert data.prompts([3, 0]) == ["c", "a"]
    assert data.example(1) == Example(
        prompt="pool",
        response="no",
        concept_id=-1,
        category="negative",
        genre="math",
        complete=False,
    )
    assert [e.response for e in data.examples(np.array([3, 2]))] == ["333", "22"]
    assert data.summary() == (
        f"{folder}: 2 concepts, 4 rows (3 positive, 1 negative, 0 hard negative)"
    )


def test_a_source_is_reached_through_any_folder_that_holds_it(folder, rows):
    assert len(load_concepts(str(folder / "generate"))) == 4
    lines = folder / "lines"
    write_metadata(lines)
    (lines / "train_data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = load_concepts(str(lines))
    assert data.rows(0).tolist() == [0, 3]
    assert data.example(0).complete


def test_rotated_files_come_in_numeric_order(tmp_path, row, write_parquet):
    for index in (10, 2, 0, 1):
        name = f"train_data_{index}.parquet" if index else "train_data.parquet"
        write_parquet(tmp_path / name, [row(f"prompt {index}", concept_id=index)])
    data = load_concepts(str(tmp_path))
    assert data.prompts(range(4)) == ["prompt 0", "prompt 1", "prompt 2", "prompt 10"]


def test_the_test_split(folder, row, write_parquet, eval_schema):
    rows = [row(sae_id=1), row(category="negative"), row(category="hard negative", concept_id=1)]
    write_parquet(folder / "inference" / "latent_eval_data.parquet", rows, eval_schema)
    data = load_concepts(str(folder), split="test")
    assert [len(data.rows(0, c)) for c in ("positive", "negative", "hard negative")] == [1, 1, 0]
    assert data.rows(1, "hard negative").tolist() == [2]
    assert data.concept(1).kind == "k"


def test_concepts_are_derived_where_there_is_no_metadata(tmp_path, row, write_parquet):
    rows = [
        row("a", concept_id=4, concept_genre="code"),
        row("b", concept_id=2),
        row("c", concept_id=4, concept_genre="code"),
        row("d", concept_id=2, category="hard negative", output_concept="word//other"),
        row("e", concept_id=-1, category="negative"),
    ]
    write_parquet(tmp_path / "train" / "data.parquet", rows)
    assert load_concepts(str(tmp_path)).concepts == [
        Concept(id=2, text="concept 2"),
        Concept(id=4, text="concept 4", genre="code"),
    ]


def test_joined_sources_are_renumbered(tmp_path, folder, row, write_parquet):
    other = tmp_path / "other"
    write_metadata(other, ids=(7, 3))
    write_parquet(
        other / "train_data.parquet",
        [
            row("x", concept_id=3),
            row("pool", "no", -1, "negative"),
            row("y", concept_id=7),
            row("z", concept_id=3, category="negative"),
        ],
    )
    data = load_concepts([str(folder), str(other)])
    assert [(c.id, c.text) for c in data.concepts] == [
        (0, "concept 0"),
        (1, "concept 1"),
        (2, "concept 7"),
        (3, "concept 3"),
    ]
    assert len(data) == 7
    assert data.rows(-1, "negative").tolist() == [1]
    assert {i: data.prompts(data.rows(i)) for i in range(4)} == {
        0: ["a", "c"],
        1: ["b"],
        2: ["y"],
        3: ["x"],
    }
    assert data.prompts(data.rows(3, "negative")) == ["z"]
    assert [data.example(i).concept_id for i in range(7)] == [0, -1, 1, 0, 3, 2, 3]
    assert data.lengths(np.array([0, 4])).tolist() == [2, 5]
    assert data.name == f"{folder}+{other}"
    swapped = load_concepts((str(other), str(folder)))
    assert swapped.prompts(swapped.rows(3)) == ["b"]
    assert swapped.prompts(swapped.rows(-1, "negative")) == ["pool"]


def named(*texts, **marks):
    """Metadata lines of concepts 0, 1, ...; `held_out` marks some of them."""
    marked = marks.get("held_out", ())
    lines = [
        {"concept_id": i, "concept": text, "held_out": i in marked} for i, text in enumerate(texts)
    ]
    return "".join(json.dumps(line) + "\n" for line in lines)


def test_concepts_of_one_text_are_one(tmp_path, row, write_parquet):
    """Composed or not, with space around it or not; another case is another text."""
    texts = ("café", "owls", " cafe\u0301\n", "Owls", "owls")
    (tmp_path / "metadata.jsonl").write_text(named(*texts, held_out=[4]))
    write_parquet(
        tmp_path / "train_data.parquet",
        [row(f"p{i}", concept_id=i) for i in range(5)]
        + [row("n", concept_id=2, category="negative"), row("pool", "no", -1, "negative")],
    )
    data = load_concepts(str(tmp_path))
    assert [(c.id, c.text, c.held_out) for c in data.concepts] == [
        (0, "café", False),
        (1, "owls", True),  # held out where any of them is
        (3, "Owls", False),
    ]
    assert {i: data.prompts(data.rows(i)) for i in range(5)} == {
        0: ["p0", "p2"],
        1: ["p1", "p4"],
        2: ["p0", "p2"],  # the other id is another name
        3: ["p3"],
        4: ["p1", "p4"],
    }
    assert data.prompts(data.rows(2, "negative")) == ["n"]
    assert data.prompts(data.rows(-1, "negative")) == ["pool"]
    assert [data.concept_id(i) for i in range(7)] == [0, 1, 0, 3, 1, 0, -1]
    assert [data.example(i).concept_id for i in range(7)] == [0, 1, 0, 3, 1, 0, -1]
    assert data.concept(4) is data.concept(1)
    assert (
        "3 concepts (2 more had a text that was there, and were joined), 7 rows" in data.summary()
    )


def test_concepts_of_one_text_are_one_over_several_sources(tmp_path, row, write_parquet):
    """The numbers of all others stay what they would be."""
    for name, texts, marks in (("a", ("owls", "figs"), ()), ("b", ("figs", "owls", "jam"), (1,))):
        folder = tmp_path / name
        write_parquet(
            folder / "train_data.parquet",
            [row(f"{name}{i}", concept_id=i) for i in range(len(texts))],
        )
        (folder / "metadata.jsonl").write_text(named(*texts, held_out=marks))
    data = load_concepts([str(tmp_path / "a"), str(tmp_path / "b")])
    assert [(c.id, c.text, c.held_out) for c in data.concepts] == [
        (0, "owls", True),
        (1, "figs", False),
        (4, "jam", False),
    ]
    assert data.prompts(data.rows(0)) == ["a0", "b1"]
    assert data.prompts(data.rows(1)) == ["a1", "b0"]
    assert data.prompts(data.rows(4)) == ["b2"]


def test_a_concept_that_the_rows_leave_blank(tmp_path, row, write_parquet):
    write_parquet(tmp_path / "train_data.parquet", [row(output_concept=" ", concept_id=3)])
    with pytest.raises(DataError, match="calls concept 3 ' ', which steers towards nothing"):
        load_concepts(str(tmp_path))


def test_real_concept500_names_each_concept_once(tmp_path, axbench_shared, row, write_parquet):
    """The real labels, and what happens where two of them are the same."""
    names = axbench_shared / "concept500" / "prod_2b_l20_v1" / "generate" / "metadata.jsonl"
    if not names.is_file():
        pytest.skip("no labels of Concept500")
    lines = names.read_text(encoding="utf-8").splitlines()
    again = json.loads(lines[7]) | {"concept_id": 500}
    text = "\n".join([*lines, json.dumps(again)])
    (tmp_path / "metadata.jsonl").write_text(text, encoding="utf-8")
    rows = [row(f"{i}{n}", concept_id=i) for i in range(501) for n in (0, 1)]
    write_parquet(tmp_path / "train_data.parquet", rows)
    data = load_concepts(str(tmp_path))
    assert len(data.concepts) == 500
    assert data.rows(7).tolist() == [14, 15, 1000, 1001]


def test_one_source_keeps_its_own_ids(tmp_path, row, write_parquet):
    write_metadata(tmp_path, ids=(7,))
    write_parquet(tmp_path / "train_data.parquet", [row(concept_id=7)])
    assert load_concepts(str(tmp_path)).rows(7).tolist() == [0]


def test_axbench_in_a_local_folder(tmp_path, rows, write_parquet, monkeypatch):
    monkeypatch.setenv("HYPERSTEER_AXBENCH", str(tmp_path))
    setting = tmp_path / "concept10" / "prod_2b_l20_v1" / "generate"
    write_parquet(setting / "train_data.parquet", rows)
    write_parquet(tmp_path / "concept16k" / "9b" / "l20" / "train" / "data.parquet", rows)
    assert load_concepts("axbench:concept10/2b/l20").name == "axbench:concept10/2b/l20"
    assert len(load_concepts("axbench:concept16k/9b/l20")) == 4
    wrong = f"HYPERSTEER_AXBENCH={tmp_path} holds neither concept10/prod_9b_l31_v1 nor "
    refuses("axbench:concept10/9b/l31", wrong)


def test_axbench_from_the_hub(download):
    assert len(load_concepts("axbench:concept10/2b/l20")) == 4
    assert len(load_concepts("hub:pyvene/axbench-concept10/2b/l20", split="test")) == 1
    patterns = ["2b/l20/*.parquet", "2b/l20/*.jsonl"]
    assert download == [("pyvene/axbench-concept10", "dataset", patterns)] * 2
    refuses("hub:o/n/9b", "the data set o/n has no data in 9b/")
    refuses("hub:o/n", "hub:o/n has no train split")
    assert download[-1] == ("o/n", "dataset", ["*.parquet", "*.jsonl"])


def test_no_network(monkeypatch):
    def fake(*args, **kwargs):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    refuses(
        "axbench:concept500/9b/l31",
        "cannot download the data set pyvene/axbench-concept500 from the Hugging Face Hub: "
        "no route; check the name and the network, or set HYPERSTEER_AXBENCH to a local folder "
        "that holds concept500/prod_9b_l31_v1",
    )
    refuses("hub:owner/name", "check the name and the network, or give a local folder instead")


def refuses(source, message, **options):
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        load_concepts(source, **options)
    assert "\n" not in str(caught.value)


FORMS = (
    "expected a folder of AxBench data, 'bundled', 'bundled:wide', 'bundled:more', "
    "'bundled:plain', 'axbench:concept10/2b/l20', or 'hub:owner/name[/sub/folder]'"
)


def test_unknown_sources(tmp_path, folder):
    refuses("no/such", f"there is no concept data source 'no/such'; {FORMS}")
    refuses([], f"no source of concept data was given; {FORMS}")
    for source in ("axbench:concept10", "axbench:concept10/../l20", "hub:owner", "hub:o/n/.."):
        refuses(source, f"cannot read the concept data source {source!r}; {FORMS}")
    file = folder / "generate" / "train_data.parquet"
    refuses(str(file), f"{file} is a file; give the folder that holds it")
    refuses(
        str(tmp_path),
        f"{tmp_path} has no train split: none of generate/train_data*.parquet, "
        f"train_data*.parquet, train/data*.parquet (or .jsonl) is in {tmp_path}",
    )
    refuses(str(folder), f"{folder} has no test split: none of inference/latent_", split="test")
    refuses(str(folder), "unknown split 'tset'; did you mean 'test'?", split="tset")


def test_missing_bundled_data(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.resources, "files", lambda package: tmp_path)
    refuses(
        "bundled", f"the bundled concept data are not in {tmp_path / 'data' / 'bundled'}; reinstall"
    )


def test_rows_that_do_not_fit_the_concepts(tmp_path, row, write_parquet):
    file = tmp_path / "train_data.parquet"
    write_parquet(file, [row(category="negative")])
    refuses(str(tmp_path), f"{tmp_path} (train) has no positive rows")
    write_parquet(file, [row("x"), row("y", output_concept="another")])
    refuses(str(tmp_path), f"{tmp_path} calls concept 0 both 'concept 0' and 'another'; add a")
    write_parquet(file, [row(), row(concept_id=5, category="negative")])
    refuses(str(tmp_path), "has rows with concept_id 5, which is not in its positive rows")
    write_metadata(tmp_path)
    metadata = tmp_path / "metadata.jsonl"
    refuses(str(tmp_path), f"has rows with concept_id 5, which is not in {metadata}; add the con")
    write_parquet(file, [row(), row(concept_id=-1)])
    refuses(str(tmp_path), "has rows with concept_id -1, which is not in")


def test_wrong_questions(folder):
    data = load_concepts(str(folder))
    with pytest.raises(DataError, match=r"has no concept 9; its 2 ids lie in 0\.\.1"):
        data.concept(9)
    with pytest.raises(DataError, match="has no concept 9"):
        data.rows(9)
    with pytest.raises(DataError, match="unknown category 'postive'; did you mean 'positive'"):
        data.rows(0, "postive")
    for row in (-1, 4):
        with pytest.raises(DataError, match=rf"has no row {row}; rows are 0\.\.3"):
            data.example(row)


def test_bundled():
    data = load_concepts("bundled")
    assert data.name == "bundled"
    assert all(len(data.rows(concept.id)) for concept in data.concepts)
    assert data.example(int(data.rows(data.concepts[0].id)[0])).complete
    assert sum(concept.held_out for concept in data.concepts) == 40
    test = load_concepts("bundled", split="test")
    assert {c.id for c in test.concepts} == {c.id for c in data.concepts}
    for concept in data.concepts:
        train, kept_back = (part.prompts(part.rows(concept.id)) for part in (data, test))
        assert len(train) >= 6
        assert len(kept_back) >= 2
        assert not set(train) & set(kept_back)


@pytest.mark.parametrize(("layer", "n_hard"), [("l10", 50), ("l20", 35)])
def test_real_concept10(axbench_shared, monkeypatch, layer, n_hard):
    monkeypatch.setenv("HYPERSTEER_AXBENCH", str(axbench_shared))
    data = load_concepts(f"axbench:concept10/2b/{layer}")
    assert (len(data), len(data.rows(-1, "negative"))) == (936, 216)
    assert [len(data.rows(concept.id)) for concept in data.concepts] == [72] * 10
    for concept in data.concepts:
        assert {e.genre for e in data.examples(data.rows(concept.id))} == {concept.genre}
    test = load_concepts(f"axbench:concept10/2b/{layer}", split="test")
    counts = [
        sum(len(test.rows(i, category)) for i in range(10))
        for category in ("positive", "negative", "hard negative")
    ]
    assert counts == [360, 360, n_hard]
    assert len(test) == 720 + n_hard


def test_real_concept10_joined(axbench_shared, monkeypatch):
    monkeypatch.setenv("HYPERSTEER_AXBENCH", str(axbench_shared))
    data = load_concepts(["axbench:concept10/2b/l20", "axbench:concept10/2b/l10"])
    assert (len(data), len(data.rows(-1, "negative"))) == (1656, 216)
    assert [concept.id for concept in data.concepts] == list(range(20))
    alone = load_concepts("axbench:concept10/2b/l10")
    assert data.prompts(data.rows(13)) == alone.prompts(alone.rows(3))
    assert data.concept(13).text == alone.concept(3).text
