"""A tiny base LM, a checkpoint for it, and one good file of every kind, in one folder."""

import contextlib
import errno
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import TypeCheckError
from safetensors import safe_open
from safetensors.torch import save_file

import hypersteer as hs
import tiny
from hypersteer.cli.main import main
from hypersteer.conditions.condition import Condition
from hypersteer.errors import SteeringError, one_line
from hypersteer.judges.calibration import Calibration

RUN = """\
validate_every = 1
[hypernet]
blocks = 1
[data]
held_out_concepts = [1]
held_in_prompts = 1
max_held_out_rows = 1
max_response_tokens = 8
max_prompt_tokens = 100
[optim]
steps = 1
batch_size = 2
"""
SMALL = ("--optim.steps", "1", "--optim.batch-size", "2", "--hypernet.blocks", "1")
SMALL += ("--data.max-prompt-tokens", "100", "--data.max-response-tokens", "8")
WORDS = ("bees", "the sea", "a day")


@dataclass(frozen=True)
class World:
    """Where everything is, and what is open already."""

    folder: Path
    lm: hs.BaseLM = field(repr=False)
    steerer: hs.Steerer = field(repr=False)
    server: str = ""

    def __getattr__(self, name: str) -> Path:
        if name not in FILES:
            raise AttributeError(name)
        return self.folder / FILES[name]


FILES = {
    "model": "model",
    "checkpoint": "runs/a",
    "data": "data",
    "settings": "settings.toml",
    "edit": "edit.safetensors",
    "condition": "condition.safetensors",
    "prompts": "prompts.txt",
    "labelled": "labelled.jsonl",
    "concepts": "concepts.txt",
    "listed": "listed.jsonl",
    "features": "features.json",
    "instructions": "instructions.jsonl",
    "calibration": "calibration.json",
    "targets": "targets.safetensors",
}


def build(folder: Path) -> World:
    """Write everything, train one step, and open what came of it."""
    tiny.model_of("llama").save_pretrained(folder / "model")
    tiny.tokenizer().save_pretrained(folder / "model")
    lm = hs.load_lm(str(folder / "model"))
    (folder / "settings.toml").write_text(RUN)
    _write_data(folder / "data")
    argv = ["train", folder / "settings.toml", "--base-lm.name", folder / "model"]
    argv += ["--data.source", folder / "data", "--out", folder / "runs/a"]
    code, told = quietly([str(one) for one in argv])
    assert code == 0, told
    vector = torch.ones(lm.width)
    hs.VectorEdit(
        vector=vector, site=hs.Site(1), base_lm=str(lm.identity), steering_prompt="sing"
    ).save(folder / "edit.safetensors")
    Condition(
        name="sea",
        directions=vector[None],
        means=torch.zeros(1, lm.width),
        fitted=(1,),
        layers=(1,),
        threshold=0.0,
        base_lm=str(lm.identity),
    ).save(folder / "condition.safetensors")
    (folder / "prompts.txt").write_text("Hi.\nWhy?\n")
    labelled = [{"prompt": f"{w} {n}", "label": w} for n in range(3) for w in ("in", "out")]
    _lines(folder / "labelled.jsonl", labelled)
    (folder / "concepts.txt").write_text("bees\nthe sea\n")
    _lines(folder / "listed.jsonl", [{"concept": w, "genre": "text", "kind": "k"} for w in WORDS])
    one = {"modelId": "m", "layer": "3-res", "index": "5", "description": "bees"}
    (folder / "features.json").write_text(json.dumps([one, {**one, "index": "6"}]))
    asked = [
        {"instruction": f"Tell me about {genre} {n}.", "genre": genre}
        for genre in ("text", "code", "math")
        for n in range(6)
    ]
    _lines(folder / "instructions.jsonl", asked)
    shipped = Calibration.load()
    background = replace(shipped.background, texts=shipped.background.texts[:3], layers=(1, 2))
    own = {"fingerprint": lm.fingerprint, "identity": str(lm.identity)}
    replace(shipped, **own, background=background).save(folder / "calibration.json")
    save_file({"vectors": torch.ones(3, lm.width)}, folder / "targets.safetensors")
    return World(folder, lm, hs.load(folder / "runs/a", lm=lm))


def _write_data(folder: Path) -> None:
    folder.mkdir()
    concepts = [{"concept_id": n, "concept": word} for n, word in enumerate(WORDS)]
    _lines(folder / "metadata.jsonl", concepts)
    rows = [
        {
            "input": f"Tell me of {n}.",
            "output": f"{word}, {n}",
            "output_concept": word,
            "concept_genre": "text",
            "category": "positive",
            "concept_id": id_,
        }
        for id_, word in enumerate(WORDS)
        for n in range(4)
    ]
    _lines(folder / "train_data.jsonl", rows)
    pq.write_table(pa.Table.from_pylist(rows), folder / "latent_eval_data.parquet")


def _lines(path: Path, entries: list) -> None:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def quietly(argv: list[str]) -> tuple[int, str]:
    """Run a command in this process; the exit code, and what went to stderr."""
    out = io.TextIOWrapper(io.BytesIO(), "utf-8")
    err = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(argv)
    err.flush()
    return code, err.buffer.getvalue().decode()


def check_command(argv: list[str]) -> None:
    """Run a command, and see that it works or says in one line why not.

    Raises:
        AssertionError: if it does neither.
    """
    code, told = quietly(argv)
    assert code in (0, 2), (code, told)
    assert "Traceback" not in told
    if code == 2:
        *_, last = told.rstrip("\n").split("\n")
        assert last.startswith("error: "), told
        assert last.isprintable(), told


def check_call(call) -> None:
    """Call a function, and see that it returns or raises an error of ours, in one line.

    Types are checked while tests run (see tests/conftest.py); what that refuses counts as told.
    """
    told = "a line"
    try:
        call()
    except (SteeringError, TypeCheckError) as error:
        told = one_line(error) if isinstance(error, TypeCheckError) else str(error)
    assert told.strip()
    assert told.isprintable(), told


FENCE: list[str] = []
"""The folder that may be written to, while a case runs."""
MAKES = {"os.mkdir": 1, "os.rename": 2, "os.link": 2, "os.symlink": 2, "os.truncate": 1}
"""What changes files, and how many of its arguments are paths."""
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@cache
def fence() -> None:
    """From now on a case that would write outside of its folder is refused, as a user would be.

    Tests often run as root, who may write anywhere, and a hostile path is a path.
    """
    sys.addaudithook(_refuse)


def _refuse(event: str, args: tuple) -> None:
    if not FENCE:
        return
    paths = args[: MAKES.get(event, 0)]
    if (event == "open" and args[2] & WRITES) or event == "sqlite3.connect":
        paths = args[:1]
    for path in paths:
        if isinstance(path, (str, bytes, os.PathLike)):
            where = os.path.abspath(os.fsdecode(path))  # noqa: PTH100
            if where != os.devnull and not where.startswith((*FENCE, tempfile.gettempdir())):
                raise PermissionError(errno.EACCES, "Permission denied", where)


@contextlib.contextmanager
def workplace(world: World, variables: Mapping[str, str] | None = None):
    """A folder of its own to write into, the home too; afterwards all in it must be whole."""
    before = Path.cwd()
    fence()
    with tempfile.TemporaryDirectory(dir=world.folder.parent) as made:
        kept = dict(os.environ)
        os.environ |= {"HOME": made, **(variables or {})}
        os.chdir(made)
        FENCE.append(str(world.folder.parent))
        try:
            yield Path(made)
            assert_whole(Path(made))
        finally:
            FENCE.clear()
            os.chdir(before)
            for name in os.environ.keys() - kept:
                del os.environ[name]
            os.environ |= kept


def assert_whole(folder: Path) -> None:
    """Nothing temporary is left, and what can be read by its name can be read."""
    for path in folder.rglob("*"):
        assert not path.name.endswith(".tmp"), path
        assert not path.name.startswith((".hypersteer-", ".in-use")), path
        if "given" in path.relative_to(folder).parts or not path.is_file():
            continue
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                list(file.keys())
        elif path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".jsonl":
            [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        elif path.suffix == ".parquet":
            pq.read_table(path)


def given(place: Path, name: str, content: bytes) -> Path:
    """Write a file that the case gives; whole or not is not asked of it."""
    path = place / "given" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def given_folder(place: Path, source: Path, name: str, content: bytes) -> Path:
    """Copy a folder with one file in it replaced."""
    folder = place / "given" / source.name
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("checkpoints"))
    (folder / name).write_bytes(content)
    return folder
