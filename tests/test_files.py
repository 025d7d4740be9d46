"""Files are written whole or not at all."""

import json
import math
import os
from pathlib import Path

import pytest

from hypersteer.errors import ConfigError, DataError
from hypersteer.files import (
    each_line,
    finite,
    is_file,
    is_folder,
    numbers,
    output_file,
    output_folder,
    path_of,
    read_json,
    read_lines,
    read_text,
    replacing,
    to_json,
    write_text,
)


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


def test_a_folder_is_there_only_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "a"
    with replacing(path) as temporary:
        temporary.mkdir()
        (temporary / "one.txt").write_text("one")
        assert not path.exists()
    assert names(path) == ["one.txt"]
    with pytest.raises(OSError, match="not empty"), replacing(path) as temporary:
        (temporary / "two").mkdir(parents=True)
    assert names(path) == ["one.txt"]
    assert names(path.parent) == ["a"]


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


def test_the_longest_names_can_be_written(tmp_path):
    path = tmp_path / ("é" * 127)
    write_text(path, "text")
    assert names(tmp_path) == [path.name]


MARKED = "\ufeffOne\u2028two\x0cthree\r\n\r\n[4]"


def test_text_is_read_in_one_way(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(MARKED.encode())
    assert read_text(path) == MARKED[1:]
    assert read_lines(path) == list(each_line(path)) == ["One\u2028two\x0cthree", "", "[4]"]
    path.write_bytes(b"\xef\xbb\xbf[4]\r\n")
    assert read_json(path) == [4]
    path.write_bytes(b"a\n\xff")
    for read in (read_text, read_lines, read_json, lambda path: list(each_line(path))):
        with pytest.raises(ValueError, match="can't decode byte 0xff"):
            read(path)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("x" * 256, "256 bytes of at most 255"),
        ("é" * 128 + "/x", "256 bytes of at most 255"),
        ("a/" * 2049, "4098 bytes of at most 4096"),
        ("~nobody-of-that-name/x", "no such user"),
        ("a\0b", "NUL"),
        ("a/\ud800", "not valid Unicode"),
        ("", "is empty"),
        (b"a", "expected a path as text"),
        (None, "expected a path as text"),
        (3, "expected a path as text"),
    ],
)
def test_what_can_be_no_path_is_told(name, told):
    for what, error in (("--out", ConfigError), ("the data", DataError)):
        with pytest.raises(error, match=f"{what} .*{told}") as caught:
            path_of(name, what, error)
        assert "\n" not in str(caught.value)


def test_the_home_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert path_of("~/x", "--out") == path_of(Path("~/x"), "--out") == tmp_path / "x"
    assert path_of("x" * 255, "--out") == Path("x" * 255)


def test_probes_never_raise(monkeypatch):
    for name in ("x" * 300, "a\0b", "\ud800", "a/" * 3000):
        assert not is_file(Path(name))
        assert not is_folder(Path(name))


def test_outputs_are_checked_and_nothing_is_left(tmp_path):
    write_text(tmp_path / "file", "x")
    assert output_file(tmp_path / "a" / "b", "--out") == tmp_path / "a" / "b"
    assert output_file(tmp_path / "file", "--out") == tmp_path / "file"
    assert output_folder(tmp_path / "a" / "b", "--out") == tmp_path / "a" / "b"
    assert output_folder(tmp_path, "--out") == tmp_path
    for wrong in (tmp_path, tmp_path / "file" / "x", "/proc/x", "/", "."):
        with pytest.raises(ConfigError, match="--out"):
            output_file(wrong, "--out")
    for wrong in (tmp_path / "file", tmp_path / "file" / "x", "/proc/x"):
        with pytest.raises(ConfigError, match="--out"):
            output_folder(wrong, "--out")
    assert names(tmp_path) == ["file"]


def test_no_file_takes_the_place_of_a_device_or_a_pipe(tmp_path):
    """Root may replace `/dev/null` by a file, and then no program works any more."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for place in (pipe, "/dev/null"):
        with pytest.raises(ConfigError, match=f"--out {place} is a device or a pipe"):
            output_file(place, "--out")
    with pytest.raises(FileExistsError, match="device or a pipe"):
        write_text(pipe, "x")
    assert pipe.is_fifo()
    assert names(tmp_path) == ["pipe"]


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
