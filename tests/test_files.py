"""Files are written whole or not at all."""

import os

import pytest

from hypersteer.files import replacing, write_text


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
