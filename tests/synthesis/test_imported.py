"""Answers in a file become a data source, or one line says what is wrong and nothing is written."""

import json

import pyarrow.parquet as pq
import pytest

import hypersteer as hs
from hypersteer.concepts import Concept
from hypersteer.data.schema import Example
from hypersteer.errors import ConfigError, DataError
from hypersteer.synthesis import dataset
from hypersteer.synthesis.imported import import_answers

PIRATE = {"concept": "talk like a pirate", "prompt": "How are you?", "answer": "Arr, shipshape!"}
BOATS = {"concept": "mention boats", "prompt": "What is tea?", "answer": "Leaves, off a boat."}


@pytest.fixture
def answers(tmp_path):
    """Writes a file of lines, given as objects or as they are; gives its name."""

    def write(*lines):
        path = tmp_path / "answers.jsonl"
        texts = [one if isinstance(one, str) else json.dumps(one) for one in lines]
        path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def out(tmp_path):
    return tmp_path / "data" / "mine"


def test_what_is_read_back_is_what_was_given(answers, out):
    sum_ = {"concept": "naïve", "prompt": "1 + 1?", "answer": "  2\u2028", "genre": "math"}
    path = answers(
        BOATS | {"held_out": True},
        PIRATE,
        "  ",
        BOATS | {"concept": " mention boats\n", "prompt": " Why? ", "held_out": True},
        sum_,
        # Another spelling of the same letter.
        sum_ | {"concept": "nai\u0308ve", "answer": "Two."},
        PIRATE | {"concept": "Talk like a pirate", "held_out": False, "genre": "text"},
    )
    made = import_answers(path, str(out))
    assert (made.folder, made.rows, made.prompts) == (out, 6, (2, 1, 1, 1))
    data = hs.load_concepts(str(out))
    assert data.concepts == list(made.concepts)
    assert data.concepts == [
        Concept(id=0, text="mention boats", held_out=True),
        Concept(id=1, text="talk like a pirate"),
        Concept(id=2, text="naïve", genre="math"),
        Concept(id=3, text="Talk like a pirate"),
    ]
    found = [(one.concept_id, one.prompt, one.response) for one in data.examples(range(len(data)))]
    assert found == [
        (0, "What is tea?", "Leaves, off a boat."),
        (0, " Why? ", "Leaves, off a boat."),
        (1, "How are you?", "Arr, shipshape!"),
        (2, "1 + 1?", "  2\u2028"),
        (2, "1 + 1?", "Two."),
        (3, "How are you?", "Arr, shipshape!"),
    ]
    assert data.example(3) == Example(
        prompt="1 + 1?",
        response="  2\u2028",
        concept_id=2,
        category="positive",
        genre="math",
        complete=True,
    )
    with pytest.raises(DataError, match="no test split"):
        hs.load_concepts(str(out), split="test")


def test_provenance_says_that_nobody_was_asked(answers, out):
    import_answers(answers(PIRATE, BOATS), str(out))
    origins = pq.read_table(out / "provenance.parquet").to_pylist()
    assert [one["row"] for one in origins] == [0, 1]
    for one in origins:
        assert (one["teacher"], one["template_version"]) == ("imported", None)
        assert one["instruction_source"] == "answers.jsonl"


def names(folder):
    return [file.name for file in folder.iterdir()]


def without(key):
    return {name: value for name, value in PIRATE.items() if name != key}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{oops", " is not JSON: .*; expected lines {"),
        ('{"concept": "\\ud800"}', " is not JSON: it holds half a character"),
        ("[]", " is not a JSON object; expected lines {"),
        (without("concept"), ' has no concept; expected lines {"concept": TEXT'),
        (without("prompt"), ' has no prompt; expected lines {"concept": TEXT'),
        (without("answer"), ' has no answer; expected lines {"concept": TEXT'),
        (PIRATE | {"concept": " "}, ": concept is ' '; expected some text"),
        (PIRATE | {"prompt": ""}, ": prompt is ''; expected some text"),
        (PIRATE | {"answer": "\n"}, r": answer is '\\n'; expected some text"),
        (PIRATE | {"answer": None}, ": answer is None; expected some text"),
        (PIRATE | {"answer": 3}, ": answer is 3; expected some text"),
        (PIRATE | {"concept": ["x"]}, ": concept is a list; expected some text"),
        (without("prompt") | {"promt": "x"}, r": unknown key 'promt'; did you mean 'prompt'\?"),
        (PIRATE | {"input": "x"}, ": unknown key 'input'; known: answer, concept, genre, held_out"),
        (PIRATE | {"held_out": 1}, ": held_out is 1; expected true or false"),
        (PIRATE | {"held_out": "true"}, ": held_out is 'true'; expected true or false"),
        (PIRATE | {"genre": "texts"}, r": unknown genre 'texts'; did you mean 'text'\?"),
        (PIRATE | {"genre": None}, ": unknown genre None; known: code, math, text"),
        (BOATS, " repeats line 1, of the concept 'mention boats'; delete one"),
        (BOATS | {"concept": "mention boats "}, " repeats line 1, of the concept 'mention boats'"),
        (
            BOATS | {"prompt": "x", "held_out": True},
            ": the concept 'mention boats' is held out here and is not on line 1; say the same on",
        ),
        (
            PIRATE | {"concept": "sail", "held_out": False},
            ": the concept 'sail' is not held out here and is on line 2; say the same on all",
        ),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_written(answers, out, tmp_path, line, message):
    sail = PIRATE | {"concept": "sail", "prompt": "x", "held_out": True}
    path = answers(BOATS, sail, "", line)
    with pytest.raises(DataError, match=f"^{path}, line 4{message}"):
        import_answers(path, str(out))
    assert names(tmp_path) == ["answers.jsonl"]


def test_a_bad_file_is_named_and_nothing_is_written(answers, out, tmp_path):
    with pytest.raises(DataError, match=r"cannot read the answers '.*none\.jsonl': .*No such file"):
        import_answers(str(tmp_path / "none.jsonl"), str(out))
    for lines in ((), ("", "  ")):
        path = answers(*lines)
        with pytest.raises(DataError, match=f"'{path}' holds no answers; expected lines"):
            import_answers(path, str(out))
    (tmp_path / "answers.jsonl").write_bytes(b"\xff")
    with pytest.raises(DataError, match=f"cannot read the answers '{path}': .*utf-8"):
        import_answers(path, str(out))
    assert names(tmp_path) == ["answers.jsonl"]


def test_a_folder_that_holds_something_is_left_alone(answers, out):
    path = answers(PIRATE)
    import_answers(path, str(out))
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    assert sorted(before) == ["metadata.jsonl", "provenance.parquet", "train_data.parquet"]
    with pytest.raises(ConfigError, match=r"holds '.*' already.*; choose another out, or delete"):
        import_answers(answers(BOATS), str(out))
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    with pytest.raises(ConfigError, match=r"out '.*' is a file"):
        import_answers(path, path)


def test_an_empty_folder_is_filled_also_behind_a_link(answers, out, tmp_path):
    out.mkdir(parents=True)
    link = tmp_path / "link"
    link.symlink_to(out)
    made = import_answers(answers(PIRATE), str(link))
    assert made.folder == link
    assert link.is_symlink()
    assert len(hs.load_concepts(str(out))) == len(hs.load_concepts(str(link))) == 1


@pytest.mark.parametrize("step", ["write_text", "pq.write_table"])
def test_a_full_disk_leaves_nothing(answers, out, monkeypatch, step):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"{dataset.__name__}.{step}", full)
    out.mkdir(parents=True)
    with pytest.raises(DataError, match="No space left on device; make room"):
        import_answers(answers(PIRATE), str(out))
    assert names(out.parent) == ["mine"]
    assert names(out) == []


def test_what_another_process_put_there_meanwhile_stays(answers, out, monkeypatch):
    real = dataset.write_text

    def late(path, text):
        real(path, text)
        out.mkdir()
        (out / "theirs").touch()

    monkeypatch.setattr(dataset, "write_text", late)
    with pytest.raises(DataError, match=r"cannot write to '.*mine': .*; choose another out"):
        import_answers(answers(PIRATE), str(out))
    assert names(out.parent) == ["mine"]
    assert names(out) == ["theirs"]
