"""A folder in use is told at once, with by whom; what a killed process left is no hindrance."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from children import talking
from hypersteer import locks
from hypersteer.errors import ConfigError
from hypersteer.locks import HOLDER, LOCK, hold, is_empty, turn

WAITING = """
import sys, time
from pathlib import Path
from hypersteer.locks import hold

held = hold(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def other_process(tmp_path):
    """Another process that holds the folder until it is killed."""
    folder = tmp_path / "run"
    command = [sys.executable, "-c", WAITING, str(folder)]
    with talking(command) as child:
        assert child.stdout.readline() == "held\n"
        yield folder, child
        child.kill()


def test_the_second_is_told_by_whom_it_is_in_use_until_the_first_is_gone(other_process):
    folder, child = other_process
    started = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        hold(folder)
    assert time.monotonic() - started < 1
    told = str(caught.value)
    assert told.startswith(
        f"'{folder}' is in use by process {child.pid} on {socket.gethostname()} since 20"
    )
    assert told.endswith("wait until it has ended, or choose another 'out'")
    assert "\n" not in told
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert (folder / HOLDER).exists()  # it could not clear up
    assert is_empty(folder)
    with hold(folder):
        assert json.loads((folder / HOLDER).read_text())["pid"] == os.getpid()
    assert list(folder.iterdir()) == []


def test_one_process_cannot_have_a_folder_twice(tmp_path):
    with hold(tmp_path), pytest.raises(ConfigError, match=f"in use by process {os.getpid()} on"):
        hold(tmp_path)
    with hold(tmp_path):
        pass


def test_nothing_is_left(tmp_path):
    made = tmp_path / "a" / "b"
    with hold(made):
        assert {path.name for path in made.iterdir()} == {HOLDER, LOCK}
    assert not (tmp_path / "a").exists()  # it was made for nothing
    with hold(made):
        (made / "file").write_text("kept")
    assert [path.name for path in made.iterdir()] == ["file"]


@pytest.mark.parametrize("age", [10, 1000])
def test_a_holder_on_another_host_is_believed_while_it_gives_signs_of_life(tmp_path, age):
    """For file systems whose locks do not reach other hosts."""
    holder = tmp_path / HOLDER
    holder.write_text(json.dumps({"pid": 7, "host": "elsewhere", "since": 1.7e9}))
    os.utime(holder, (time.time() - age,) * 2)
    if age < locks.SILENT_S:
        with pytest.raises(ConfigError, match="in use by process 7 on elsewhere since 2023-11-1"):
            hold(tmp_path)
        assert json.loads(holder.read_text())["pid"] == 7
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(locks, "SILENT_S", 5)
        with hold(tmp_path):
            assert json.loads(holder.read_text())["pid"] == os.getpid()


def test_a_holder_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "BEAT_S", 0.01)
    with hold(tmp_path):
        os.utime(tmp_path / HOLDER, (0, 0))
        deadline = time.monotonic() + 20
        while (tmp_path / HOLDER).stat().st_mtime < 1e9:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 7}', '{"host": "x"}'])
def test_what_a_killed_holder_half_wrote_is_no_hindrance(tmp_path, content):
    (tmp_path / HOLDER).write_text(content)
    os.utime(tmp_path / HOLDER, (0, 0))
    with hold(tmp_path):
        pass
    with hold(tmp_path):
        (tmp_path / HOLDER).write_text(content)
        with pytest.raises(ConfigError, match=re.escape(f"'{tmp_path}' is in use by ")):
            hold(tmp_path)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        hold(tmp_path / "file" / "run")


TURN = """
import sys
from pathlib import Path
from hypersteer.locks import turn

with turn(Path(sys.argv[1]), lambda: print("busy", flush=True)):
    print("mine", flush=True)
    sys.stdin.read()
"""


def test_turns_are_waited_for_even_after_a_kill(tmp_path):
    lock = tmp_path / "a" / "b.lock"
    command = [sys.executable, "-c", TURN, str(lock)]
    pipe = {"stdin": subprocess.PIPE}
    with talking(command, **pipe) as first, talking(command, **pipe) as second:
        assert {first.stdout.readline(), second.stdout.readline()} == {"mine\n", "busy\n"}
        first.send_signal(signal.SIGKILL)
        second.send_signal(signal.SIGKILL)
    with turn(lock, lambda: pytest.fail("a killed process still has its turn")):

        def refuse():
            raise ConfigError("not now")

        with pytest.raises(ConfigError, match="not now"), turn(lock, refuse):
            pytest.fail("two turns at once")
    with turn(lock, refuse):
        pass


def test_who_waits_has_the_next_turn(tmp_path):
    command = [sys.executable, "-c", TURN, str(tmp_path / "lock")]
    with talking(command, stdin=subprocess.PIPE) as first:
        assert first.stdout.readline() == "mine\n"
        with talking(command, stdin=subprocess.PIPE) as second:
            assert second.stdout.readline() == "busy\n"
            first.stdin.close()
            assert second.stdout.readline() == "mine\n"
            second.stdin.close()
