"""Units of work that processes share by a folder: once each, whoever joins, ends or is killed."""

import json
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

from children import talking
from hypersteer import locks
from hypersteer.errors import ConfigError, DataError
from hypersteer.locks import SHARED, claim, claimed, hold
from hypersteer.sharing import Share
from sharing_child import UNITS

CHILD = Path(__file__).with_name("sharing_child.py")


def started(folder, name, *hang):
    """Start a process that shares the work in a folder."""
    return talking([sys.executable, CHILD, folder, name, *hang])


def says(child, line):
    found = child.stdout.readline()
    if found != f"{line}\n":
        child.kill_all()
        pytest.fail(f"{found!r} in place of {line!r}: {child.stderr.read()}")


def last_words(child):
    return child.ended_well().split()[-1]


def logged(folder):
    """Who did what, as pairs."""
    return [tuple(line.split()) for line in (folder / "log").read_text().splitlines()]


def times(folder):
    return Counter(what for _, what in logged(folder))


ONCE = Counter([*UNITS, "finish"])


def test_each_unit_is_done_once_and_the_end_too(tmp_path):
    waits = [tmp_path / f"wait-{name}" for name in "abcd"]
    for wait in waits:
        wait.touch()
    with ExitStack() as stack:
        children = [stack.enter_context(started(tmp_path, name)) for name in "abcd"]
        for child in children:
            says(child, "joined")
        for wait in waits:  # now only, or the first could be done before the last has begun
            wait.unlink()
        found = [last_words(child) for child in children]
    assert times(tmp_path) == ONCE
    (finisher,) = {who for who, what in logged(tmp_path) if what == "finish"}
    assert set(found) == {finisher}
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"done", "log", SHARED}
    assert not (tmp_path / SHARED / "units").exists()


@pytest.mark.parametrize("holder", [True, False])
def test_what_a_killed_process_had_is_taken_over(tmp_path, holder):
    """Whether it held the folder or had joined another."""
    wait = tmp_path / "wait-first"
    if not holder:
        wait.touch()
    with started(tmp_path, "first", *([3] if holder else [])) as first:
        says(first, "joined")
        if holder:
            says(first, "hanging")
        with started(tmp_path, "second", *([] if holder else [3])) as second:
            says(second, "joined")
            killed, other = (first, second) if holder else (second, first)
            if not holder:
                says(second, "hanging")
            killed.send_signal(signal.SIGKILL)
            wait.unlink(missing_ok=True)
            assert last_words(other) in ("first", "second")
            killed.wait()
    log = logged(tmp_path)
    name = "first" if holder else "second"
    lost = [what for who, what in log if who == name][3]
    assert times(tmp_path) == ONCE + Counter([lost])
    assert log[-1][1] == "finish"


def test_the_end_is_taken_over_as_well(tmp_path):
    with started(tmp_path, "first", len(UNITS)) as first:
        says(first, "joined")
        says(first, "hanging")
        with started(tmp_path, "second") as second:
            says(second, "joined")
            first.send_signal(signal.SIGKILL)
            assert last_words(second) == "second"
    assert times(tmp_path) == ONCE + Counter(["finish"])


def test_one_that_begins_later_ends_it_anew(tmp_path):
    """As the same command does when all is finished; the end of an earlier run is not its own."""
    with started(tmp_path, "first") as first:
        assert last_words(first) == "first"
    with started(tmp_path, "second") as second:
        assert last_words(second) == "second"
    assert times(tmp_path) == ONCE + Counter(["finish"])


def test_only_the_same_work_is_shared(tmp_path):
    told = rf"'{re.escape(str(tmp_path))}' is in use by process {os.getpid()} on "
    with Share(tmp_path, "one"):
        Share(tmp_path, "one").__exit__(None, None, None)
        for other in ("another", None):
            with pytest.raises(ConfigError, match=told):
                Share(tmp_path, other)
        with pytest.raises(ConfigError, match=told):
            hold(tmp_path)
    with hold(tmp_path), pytest.raises(ConfigError, match=told):
        Share(tmp_path, "one")


def test_who_joined_is_told_when_the_folder_is_taken_by_others(tmp_path):
    with Share(tmp_path, "one") as first:
        second = Share(tmp_path, "one")
        assert first.holds
        assert not second.holds
    with hold(tmp_path):
        stage = second.stage(["x"], str, lambda _: False)
        with pytest.raises(ConfigError, match="in use by"):
            next(stage.free())
        with pytest.raises(ConfigError, match="in use by"):
            second.finish(dict)
    assert list(stage.free()) == ["x"]
    assert second.holds
    second.__exit__(None, None, None)


def test_one_alone_leaves_nothing_beside_its_work(tmp_path):
    with Share(tmp_path / "out", None) as share:
        done = set()
        stage = share.stage(UNITS, str, done.__contains__)
        for free in stage.rounds():
            for unit in free:
                done.add(unit)
                stage.release([unit])
        assert share.seat("any")
        assert share.finish(lambda: {"a": "b"}) == {"a": "b"}
    assert len(done) == len(UNITS)
    assert not (tmp_path / "out").exists()


def test_a_unit_that_fails_is_not_waited_for_by_who_failed(tmp_path):
    """It was released as tried, and never became done."""
    for work in (None, "shared"):
        with Share(tmp_path, work) as share:
            tried, stage = [], share.stage(["a", "b"], str, lambda _: False)
            for free in stage.rounds():
                for unit in free:
                    tried.append(unit)
                    stage.release([unit])
            assert tried == ["a", "b"]


def test_units_that_others_have_done_are_told_once(tmp_path):
    told, done = [], {"c"}
    with Share(tmp_path, "w") as share:
        stage = share.stage(["a", "b", "c"], str, done.__contains__)
        mine = stage.free(told.append)
        assert next(mine) == "a"
        done.add("b")
        assert list(mine) == []
        done.add("a")
        stage.release(["a"])
        assert [list(free) for free in stage.rounds(told.append)] == []
    assert told == ["b", "c"]


def test_a_seat_is_kept_by_one_process_of_a_machine_to_its_end(tmp_path):
    first, second = Share(tmp_path, "w"), Share(tmp_path, "w")
    assert first.seat("engine")
    assert first.seat("engine")
    assert not second.seat("engine")
    assert second.seat("another")
    first.__exit__(None, None, None)
    assert second.seat("engine")
    second.__exit__(None, None, None)


def test_the_end_waits_until_all_units_are_released(tmp_path):
    """A unit's result may be there before what its process counts of it is kept."""
    first, second = Share(tmp_path, "w"), Share(tmp_path, "w")
    stage = second.stage(["a"], str, lambda _: False)
    assert list(stage.free()) == ["a"]
    found = []
    waiting = threading.Thread(target=lambda: found.append(first.finish(lambda: {"end": "1"})))
    waiting.start()
    time.sleep(0.5)
    assert not found
    stage.release(["a"])
    waiting.join(30)
    assert found == [{"end": "1"}]
    assert second.finish(dict) == {"end": "1"}
    for share in (first, second):
        share.__exit__(None, None, None)


@pytest.mark.parametrize("age", [10, 1000])
def test_a_claim_from_another_host_is_believed_while_it_gives_signs_of_life(tmp_path, age):
    """For file systems whose locks do not reach other hosts."""
    holder = tmp_path / "unit.json"
    holder.write_text(json.dumps({"pid": 7, "host": "elsewhere", "since": 1.7e9}))
    os.utime(holder, (time.time() - age,) * 2)
    found = claim(tmp_path, "unit")
    assert (found is None) == (age < locks.SILENT_S)
    assert claimed(tmp_path) == ["unit"]
    if found is not None:
        assert json.loads(holder.read_text())["pid"] == os.getpid()
        assert claim(tmp_path, "unit") is None
        found.release()
        assert claimed(tmp_path) == []


def test_claims_give_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "BEAT_S", 0.01)
    with Share(tmp_path, "w") as share:
        stage = share.stage(["a"], str, lambda _: False)
        assert list(stage.free()) == ["a"]
        assert share.seat("b")
        files = sorted((tmp_path / SHARED).rglob("*.json"))
        assert len(files) == 2
        for file in files:
            os.utime(file, (0, 0))
        deadline = time.monotonic() + 20
        while any(file.stat().st_mtime < 1e9 for file in files):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_what_stops_one_process_in_its_work_is_its_own(tmp_path):
    """Unlike bad input, which all are told; see `hypersteer.cli.main`."""
    wrong = DataError("early")
    with pytest.raises(DataError), Share(tmp_path, "w"):
        raise wrong
    assert not wrong.of_one_process
    wrong = DataError("late")
    with pytest.raises(DataError), Share(tmp_path, "w") as share:
        raise next(wrong for _ in share.stage(["a"], str, lambda _: False).free())
    assert wrong.of_one_process


def test_a_claim_that_came_too_late_is_cleared_away(tmp_path):
    """One process does a unit and finishes all between another's look at it and its claim."""
    first, late = Share(tmp_path, "w"), Share(tmp_path, "w")
    done = set()

    def is_done(unit):
        if not done:
            done.add(unit)
            assert first.finish(lambda: {"end": "1"}) == {"end": "1"}
            return False
        return unit in done

    assert list(late.stage(["a"], str, is_done).free()) == []
    assert (tmp_path / SHARED / "units").exists()
    assert late.finish(dict) == {"end": "1"}
    for share in (first, late):
        share.__exit__(None, None, None)
    assert not (tmp_path / SHARED / "units").exists()


def test_a_folder_that_is_cleared_away_while_one_claims_gives_nothing(tmp_path, monkeypatch):
    def cleared(lock):
        shutil.rmtree(tmp_path / "units")
        Path(lock.lock_file).touch()  # as filelock opens it

    with monkeypatch.context() as patch:
        patch.setattr(locks, "_acquired", cleared)
        assert claim(tmp_path / "units", "a") is None
    claim(tmp_path / "units", "a").release()


def test_a_holder_that_is_slow_to_say_what_it_does_is_waited_for(tmp_path, monkeypatch):
    """Longer than a disk that others keep busy makes it wait."""
    written, file = locks.write_text, []

    def later(path, text):
        file.append((path, text))

    monkeypatch.setattr(locks, "write_text", later)
    first = Share(tmp_path, "w")
    found = []
    joining = threading.Thread(target=lambda: found.append(Share(tmp_path, "w")))
    joining.start()
    time.sleep(0.5)
    assert not found
    written(*file[0])
    joining.join(30)
    (second,) = found
    assert not second.holds
    for share in (second, first):
        share.__exit__(None, None, None)
