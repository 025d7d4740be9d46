import json
import re

import pytest

from hypersteer.concepts import Concept
from hypersteer.data.schema import read_metadata
from hypersteer.errors import DataError


def write(tmp_path, *lines):
    path = tmp_path / "metadata.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def test_reads_axbench_metadata(tmp_path):
    path = write(
        tmp_path,
        {
            "concept_id": 0,
            "concept": "C++ syntax",
            "ref": "https://www.neuronpedia.org/gemma-2-2b/20/1",
            "concept_genres_map": {"C++ syntax": ["code"]},
        },
        "",
        {"concept_id": 7, "concept": "parler comme un pirate\u2028🏴", "kind": "style"},
    )
    assert read_metadata(path) == [
        Concept(
            id=0,
            text="C++ syntax",
            genre="code",
            ref="https://www.neuronpedia.org/gemma-2-2b/20/1",
        ),
        Concept(id=7, text="parler comme un pirate\u2028🏴", kind="style"),
    ]


def test_two_concepts_may_share_a_text(tmp_path):
    path = write(tmp_path, *({"concept_id": i, "concept": "same"} for i in range(2)))
    assert [concept.id for concept in read_metadata(path)] == [0, 1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{oops", "line 2 is not JSON: "),
        ("[1]", "line 2 is not a JSON object; expected concept_id (int, 0 or more)"),
        ({"concept": "x"}, "line 2: concept_id is None; expected concept_id (int"),
        ({"concept_id": "1", "concept": "x"}, "line 2: concept_id is '1'; expected"),
        ({"concept_id": True, "concept": "x"}, "line 2: concept_id is True; expected"),
        ({"concept_id": -1, "concept": "x"}, "line 2: concept_id is -1; expected"),
        ({"concept_id": 2**32, "concept": "x"}, "line 2: concept_id is 4294967296; expected"),
        (
            '{"concept_id": 1, "concept": "a\\ud800"}',
            "line 2 is not JSON: it holds half a character",
        ),
        ("[" * 100_000, "line 2 is not JSON: it is nested too deeply"),
        ('{"concept_id": ' + "9" * 5000 + "}", "line 2 is not JSON: Exceeds the limit"),
        ({"concept_id": 1}, "line 2: concept is None; expected"),
        ({"concept_id": 1, "concept": " "}, "line 2: concept is ' '; expected"),
        ({"concept_id": 1, "concept": "x", "kind": 3}, "line 2: kind is 3; expected text"),
        (
            {"concept_id": 1, "concept": "x", "concept_genres_map": {"y": ["code"]}},
            "line 2: concept_genres_map is {'y': ['code']}; expected {concept: [genre]}",
        ),
        ({"concept_id": 0, "concept": "x"}, "line 2: concept_id 0 was already given on line 1"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = write(tmp_path, {"concept_id": 0, "concept": "first"}, line)
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        read_metadata(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_without_concepts_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"metadata\.jsonl holds no concepts"):
        read_metadata(write(tmp_path, ""))
    with pytest.raises(DataError, match=r"cannot read .*absent\.jsonl"):
        read_metadata(tmp_path / "absent.jsonl")
    (tmp_path / "latin").write_bytes(b'{"concept": "caf\xe9"}')
    with pytest.raises(DataError, match="expected UTF-8 text"):
        read_metadata(tmp_path / "latin")


def test_metadata_with_a_mark_and_odd_separators(tmp_path):
    path = tmp_path / "metadata.jsonl"
    text = (
        '\ufeff{"concept_id": 0, "concept": "a\u2028b\x85c"}\r\n{"concept_id": 1, "concept": "d"}'
    )
    path.write_bytes(text.encode())
    assert [concept.text for concept in read_metadata(path)] == ["a\u2028b\x85c", "d"]
