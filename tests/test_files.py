"""Files are written whole or not at all."""

import json
import math
import os

import pytest

from hypersteer.files import finite, numbers, replacing, to_json, write_text


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def test_a_file_is_there_only_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with replacing(path) as temporary:
        temporary.write_text("one")
        assert not path.exists()
    assert path.read_text() == "one"
    assert names(path.parent) == ["a.txt"]


def test_after_an_error_the_old_file_stays_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(IsADirectoryError), replacing(path) as temporary:
        temporary.write_text(tmp_path.read_text())
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "a.txt"
    with replacing(path) as first, replacing(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # the last to end


def test_a_link_to_the_file_itself_leaves_no_second_name(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "text")
    with replacing(path) as temporary:
        os.link(path, temporary)
    assert names(tmp_path) == ["a.txt"]


def test_a_folder_that_cannot_be_made_is_an_os_error(tmp_path):
    write_text(tmp_path / "a", "a file")
    with pytest.raises(FileExistsError), replacing(tmp_path / "a" / "b"):
        pytest.fail("there is nowhere to write to")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_json_holds_no_numbers_that_json_does_not_have(bad):
    value = {"a": bad, "b": [1, (bad, {"c": bad})], "d": "NaN", "e": 0.5, "f": True, "g": None}
    text = to_json(value)
    found = json.loads(text, parse_constant=pytest.fail)
    assert found == {"a": None, "b": [1, [None, {"c": None}]]} | {
        key: value[key] for key in ("d", "e", "f", "g")
    }
    assert finite(value) == found
    back = numbers({"a": found["a"], "e": found["e"]})
    assert math.isnan(back["a"])
    assert back["e"] == 0.5


def test_json_text_is_as_json_writes_it():
    value = {"x": ["é", 1e-7, 3], "y": {}}
    assert to_json(value) == json.dumps(value)
    assert to_json(value, indent=1, ensure_ascii=False) == json.dumps(
        value, indent=1, ensure_ascii=False
    )
