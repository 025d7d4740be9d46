"""Help, unknown words, exit codes, and the process around them."""

import os
import subprocess
import sys

import pytest

from children import talking
from hypersteer.cli import concepts
from hypersteer.cli import main as entry
from hypersteer.cli.main import COMMANDS, run
from hypersteer.errors import DataError, TrainingError

HELP_IMPORTS = """
import sys
from hypersteer.cli.main import main
assert main(sys.argv[1:]) == 0
print(sorted({"torch", "transformers", "numpy", "accelerate"} & set(sys.modules)))
"""


def test_help_lists_every_command(run):
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    assert all(f"  {name} " in out for name in COMMANDS)
    assert run()[1] == out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command_shows_an_example(run, name):
    code, out, err = run(name, "--help")
    assert (code, err) == (0, "")
    assert f"Examples:\n  hypersteer {name}" in out


@pytest.mark.parametrize("argv", [["--help"], ["train", "--help"], ["chat", "--help"]])
def test_help_loads_no_torch(argv):
    done = subprocess.run(
        [sys.executable, "-c", HELP_IMPORTS, *argv], capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("[]\n")


def test_version(run):
    assert run("--version")[:2] == (0, "hypersteer 0.1.0\n")


def test_unknown_words_name_the_nearest(fails):
    assert "unknown command 'trian'; did you mean 'train'?" in fails("trian")
    assert "known: analyze, chat, concepts" in fails("xyzzy")
    assert "a command comes first" in fails("--steer", "x")
    assert "'--strenght'; did you mean '--strength'?" in fails("generate", "x", "y", "--strenght")
    assert "'--optm.steps'; did you mean '--optim.steps'?" in fails("train", "--optm.steps=3")
    assert "see 'hypersteer demo --help'" in fails("demo", "--zzzzzzzz")


def test_bad_arguments_are_told_in_one_line(fails):
    assert "unexpected argument 'like'" in fails("generate", "x", "Hi", "--steer", "talk", "like")
    assert "cannot read --strength" in fails("generate", "x", "Hi", "--strength", "much")
    assert "--steer" in fails("generate", "x", "Hi", "--steer")
    assert "there is no prompt" in fails("generate")
    assert "unexpected argument" in fails("chat", "runs/a", "runs/b")
    assert "'residue'" in fails("train", "--site.kind", "residue")


def test_bad_arguments_read_the_same_without_unicode():
    command = [sys.executable, "-m", "hypersteer", "train", "--optim.steps", "x"]
    told = {
        subprocess.run(
            command, capture_output=True, check=False, env={**os.environ, "PYTHONIOENCODING": name}
        ).stderr
        for name in ("ascii", "utf-8")
    }
    (line,) = told
    assert (
        line == b"error: cannot read --optim.steps: invalid literal for int() with base 10: 'x'\n"
    )


def test_interrupt(run, monkeypatch):
    def interrupted(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr(concepts, "main", interrupted)
    assert run("concepts") == (130, "", "interrupted\n")


def test_only_the_first_process_tells_bad_input(run, monkeypatch):
    def wrong(argv):
        raise error

    monkeypatch.setattr(concepts, "main", wrong)
    monkeypatch.setenv("RANK", "1")
    error = DataError("no data")
    assert run("concepts") == (2, "", "")
    error = TrainingError("out of memory")
    assert run("concepts") == (2, "", "error (process 1): out of memory\n")


def test_module_runs_and_fails_without_a_traceback(tmp_path):
    command = [sys.executable, "-m", "hypersteer", "concepts", str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: there is no concept data source")
    assert done.stderr.count("\n") == 1


def test_broken_pipe_is_no_traceback():
    command = [sys.executable, "-m", "hypersteer", "concepts", "--json"]
    with talking(command) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == entry.BROKEN_PIPE


def test_script_is_installed_under_the_name():
    from importlib.metadata import entry_points

    (script,) = entry_points(group="console_scripts", name="hypersteer")
    assert script.load() is run
