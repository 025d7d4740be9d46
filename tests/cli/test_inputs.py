"""Free text, paths, numbers and files at the command line: whatever they hold, one line or none."""

import io
import subprocess
import sys

import pytest

import hypersteer as hs
from hypersteer.cli import concepts
from hypersteer.cli.main import TRACEBACK

LONG, FOREIGN, NUL = "x" * 300, "~nobody-of-that-name/x", "a\0b"
HUGE = "9" * 20


@pytest.mark.parametrize(
    "path",
    [LONG, FOREIGN, NUL, "a/" * 3000, "", "\ud800"],
    ids=["long", "foreign", "nul", "deep", "empty", "half"],
)
@pytest.mark.parametrize(
    "argv",
    [
        ["generate", "Hi.", "--checkpoint"],
        ["generate", "Hi.", "--prompts-file"],
        ["generate", "Hi.", "--edit"],
        ["generate", "Hi.", "--steer", "a", "--save-edit"],
        ["generate", "Hi.", "--lm"],
        ["chat"],
        ["chat", "--checkpoint"],
        ["concepts"],
        ["train", "--out"],
        ["train"],
        ["train", "--base-lm.name"],
        ["train", "--data.source"],
        ["evaluate", "--out"],
        ["evaluate"],
        ["evaluate", "--protocol.instructions"],
        ["concepts", "build", "--theme", "sea", "--instructions", "bundled", "--out"],
        ["concepts", "distil", "bundled:wide", "--out"],
        ["concepts", "distil"],
        ["demo", "--out"],
        ["conditions", "show"],
        ["conditions", "fit", "x.jsonl", "--out"],
        ["conditions", "test", "none.safetensors"],
        ["conditions", "fit", "--out", "x.safetensors", "--off", "x", "--in"],
    ],
    ids=" ".join,
)
def test_what_can_be_no_path_is_told_in_one_line(run, tmp_path, monkeypatch, argv, path):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*argv, path)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "argv",
    [
        ["train", "--out"],
        ["evaluate", "--out"],
        ["concepts", "distil", "--out"],
        ["demo", "--out"],
        ["generate", "Hi.", "--steer", "a", "--save-edit"],
        ["conditions", "fit", "x.jsonl", "--out"],
    ],
    ids=" ".join,
)
def test_where_nothing_can_be_written_is_told_before_any_work(fails, tmp_path, argv):
    """Also to root, whom no right forbids it."""
    (tmp_path / "file").write_text("x")
    for place in ("/proc/x", "/proc/x/y", tmp_path / "file" / "x"):
        assert str(place) in fails(*argv, place)


def test_home_is_expanded_for_what_is_written(run, tmp_path, monkeypatch, tiny_lm, settings):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    checkpoint = "~/runs/a"
    code, _, err = run("train", settings, "--base-lm.name", tiny_lm, "--out", checkpoint)
    assert code == 0, err
    argv = ["generate", "Hi.", "--checkpoint", checkpoint, "--max-new-tokens", "1"]
    assert run(*argv, "--steer", "sing", "--save-edit", "~/made/e.safetensors")[0] == 0
    hs.load_edit("~/made/e.safetensors").save("~/made/again.safetensors")
    assert run(*argv, "--edit", "~/made/again.safetensors")[0] == 0
    assert not (tmp_path / "~").exists()
    assert (tmp_path / "runs" / "a" / "config.json").is_file()
    assert len(list((tmp_path / "made").iterdir())) == 2


@pytest.mark.parametrize(
    ("argv", "seed"),
    [
        (["train"], HUGE),
        (["evaluate"], HUGE),
        (["demo"], HUGE),
        (["concepts", "build", "x.txt"], HUGE),
        (["concepts", "distil"], HUGE),
        (["conditions", "fit", "x.jsonl", "--out", "x.safetensors"], HUGE),
        (["train"], "-1"),
        (["conditions", "fit", "x.jsonl", "--out", "x.safetensors"], "-1"),
    ],
)
def test_a_seed_out_of_range_is_told(fails, argv, seed):
    assert f"seed {seed} is " in fails(*argv, "--seed", seed)


def test_the_largest_seed_trains(run, tmp_path, tiny_lm, settings):
    argv = ["train", settings, "--base-lm.name", tiny_lm, "--out", tmp_path / "a"]
    code, _, err = run(*argv, "--seed", 2**63 - 1)
    assert code == 0, err


def test_bytes_that_are_no_text_are_told():
    for command in (["generate", "Hi.", "--steer", b"\xff"], [b"\xfe"], ["concepts", b"\xc3"]):
        argv = [sys.executable, "-m", "hypersteer", *command]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.count("\n") == 1
        assert "not valid Unicode" in done.stderr


@pytest.mark.parametrize("text", ["\ufeffOne\u2028two\x0cthree\x85!\r\n\r\n  Four? \n", ""])
def test_lines_end_at_line_feeds_only(run, checkpoint, tmp_path, monkeypatch, json_lines, text):
    file = tmp_path / "prompts.txt"
    file.write_bytes(text.encode())
    argv = ["generate", "Zero?", "--checkpoint", checkpoint, "--json", "--max-new-tokens", "1"]
    found = [line["prompt"] for line in json_lines(run(*argv, "--prompts-file", file)[1])]
    assert found == ["Zero?", *(["One\u2028two\x0cthree\x85!", "Four?"] if text else [])]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode()), "latin-1"))
    piped = [line["prompt"] for line in json_lines(run(*argv, "--prompts-file", "-")[1])]
    assert piped == found


def test_a_chat_reads_lines_in_the_same_way(run, checkpoint, monkeypatch):
    lines = "\ufeff/steer a\u2028b\x0cc\r\n/strength 2\n".encode() + b"\xff\n/quit\nx"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines), "ascii"))
    code, out, err = run("chat", checkpoint)
    assert (code, out) == (0, "")
    assert "steering prompt: a\u2028b\x0cc, strength 2" in err
    assert "error: the line '\\udcff' is not valid Unicode" in err


@pytest.mark.parametrize("stdin", [None, io.StringIO("")])
def test_no_standard_input_is_an_empty_one(run, checkpoint, monkeypatch, stdin):
    monkeypatch.setattr(sys, "stdin", stdin)
    assert run("chat", checkpoint)[:2] == (0, "")


def test_prompts_that_are_not_utf8_are_told(fails, tmp_path, monkeypatch):
    file = tmp_path / "prompts.txt"
    file.write_bytes("Où?".encode("latin-1"))
    assert "cannot read the prompts" in fails("generate", "--prompts-file", file)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(file.read_bytes())))
    assert "not valid Unicode" in fails("generate", "--prompts-file", "-")


def test_whatever_else_is_raised_is_one_line(run, monkeypatch):
    def broken(argv):
        raise LookupError("no such thing\nand more")

    monkeypatch.setattr(concepts, "main", broken)
    told = "error: LookupError: no such thing; --traceback shows where it arose\n"
    assert run("concepts") == (1, "", told)
    for argv in (["concepts", TRACEBACK], [TRACEBACK, "concepts"]):
        code, out, err = run(*argv)
        assert (code, out) == (1, "")
        assert "Traceback" in err
        assert err.endswith(told)
    monkeypatch.setenv("HYPERSTEER_TRACEBACK", "1")
    assert "Traceback" in run("concepts")[2]


def test_a_full_disk_behind_the_output_is_told():
    command = f"{sys.executable} -m hypersteer --help > /dev/full"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    told = "error: cannot write the output: No space left on device\n"
    assert (done.returncode, done.stderr) == (2, told)


def test_characters_that_the_output_has_not_are_no_error(run, checkpoint):
    command = [sys.executable, "-m", "hypersteer", "concepts", "--limit", "1", "--json"]
    done = subprocess.run(
        [*command, "--examples", "9"],
        capture_output=True,
        check=True,
        env={"PYTHONIOENCODING": "ascii", "PATH": "/bin"},
    )
    assert done.stdout
    assert done.stderr == b""


def test_a_learning_rate_that_overflows_is_told(run, tmp_path, tiny_lm, settings):
    argv = ["train", settings, "--base-lm.name", tiny_lm, "--out", tmp_path / "a"]
    code, _, err = run(*argv, "--optim.learning-rate", "1e42")
    assert code == 2
    assert err.strip().split("\n")[-1].startswith("error: a number is too large for float32")
