"""A whole build against a real local server: its rows, faults on the way, and a kill."""

import io
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from children import talking
from endpoint.server import Sent, refused, said, serving
from hypersteer.data.sources import load_concepts
from hypersteer.synthesis.build import build
from hypersteer.synthesis.prompts import TEMPLATE_VERSION
from hypersteer.training.loop import train
from synthesis.teachers import (
    CONCEPTS,
    COUNTS,
    HARD_REQUESTS,
    TOKENS,
    answer,
    settings,
    teach,
    toml,
    write_list,
)
from training.worlds import World
from training.worlds import settings as train_settings

AXBENCH = ["input", "output", "output_concept", "concept_genre", "category", "dataset_category"]
ROWS = COUNTS["train_positives"] + COUNTS["test_positives"] + COUNTS["test_negatives"]
REQUESTS = 2 + 3 * (ROWS + HARD_REQUESTS)
"""Two genres, and the rows of three concepts."""


def table(folder, name):
    return pq.read_table(folder / f"{name}.parquet").to_pylist()


def counted(rows):
    return Counter((row["concept_id"], row["category"]) for row in rows)


@pytest.fixture(scope="module")
def made(tmp_path_factory, lm, model):
    """A build without faults: the result, and the texts that the teacher was asked."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch, serving() as server:
        patch.setenv("HYPERSTEER_CACHE", str(folder / "cache"))
        server.script = teach
        listed = write_list(folder / "concepts.jsonl")
        config = settings(folder / "data", server, model, concepts=str(listed))
        result = build(config, lm=lm, console=Console(file=io.StringIO()))
    return result, server.texts


@pytest.fixture
def built(made):
    return made[0]


def test_three_concepts_from_a_list_to_a_dataset(made):
    result, texts = made
    assert len(texts) == REQUESTS
    folder = result.folder
    train, test = table(folder, "train_data"), table(folder, "latent_eval_data")
    assert list(train[0]) == [*AXBENCH, "concept_id", "complete"]
    assert list(test[0]) == [*AXBENCH, "concept_id", "sae_link", "sae_id", "complete"]
    assert counted(train) == {(-1, "negative"): 6, **{(i, "positive"): 4 for i in range(3)}}
    assert counted(test) == {
        (i, category): count
        for i in range(3)
        for category, count in (("positive", 2), ("negative", 8), ("hard negative", 1))
    }
    shared, first = train[:6], train[6]
    assert [row["concept_genre"] for row in shared] == ["text"] * 2 + ["code"] * 2 + ["math"] * 2
    assert {row["output_concept"] for row in shared} == {"EEEEE"}
    assert first["output_concept"] == "talk like a pirate"
    request = next(t for t in texts if "let the" in t and first["input"] in t)
    whole = answer(request).strip('"')
    assert whole.startswith(first["output"])
    assert len(first["output"]) <= TOKENS, "a byte is a token here"
    assert first["complete"] is (first["output"] == whole)

    hard = [row for row in test if row["category"] == "hard negative"]
    assert {row["output_concept"] for row in hard} == {"anchor//A person who presents the news."}
    assert all("anchor" in row["output"] for row in hard)
    negatives = Counter(r["concept_genre"] for r in test if r["category"] == "negative")
    assert negatives == {"text": 18, "code": 3, "math": 3}
    positives = [row for row in train + test if row["category"] == "positive"]
    by_genre = {(row["concept_id"], row["concept_genre"]) for row in positives}
    assert by_genre == {(0, "text"), (1, "code"), (2, "text")}
    assert {(r["concept_id"], r["sae_id"]) for r in test} == {(0, -1), (1, -1), (2, 77)}
    assert {r["sae_link"] for r in test if r["concept_id"] == 2} == {CONCEPTS[2]["ref"]}
    assert not {r["input"] for r in train} & {r["input"] for r in test}
    for i in range(3):
        inputs = [r["input"] for r in test if r["concept_id"] == i and r["category"] != "negative"]
        assert len(set(inputs)) == 3, "a hard negative takes an instruction not used yet"


def test_the_dataset_is_read_and_trained_on(built, model, tmp_path):
    folder = built.folder
    for split, count in (("train", 18), ("test", 33)):
        data = load_concepts(str(folder), split=split)
        assert len(data) == count
        assert [(c.text, c.genre, c.kind, c.ref) for c in data.concepts] == [
            (one["concept"], one.get("genre", "text"), one.get("kind", ""), one.get("ref", ""))
            for one in CONCEPTS
        ]
    assert data.example(0).complete is table(folder, "latent_eval_data")[0]["complete"]
    changes = {"source": [str(folder)], "held_out_concepts": 1, "held_in_prompts": 1}
    config = train_settings(
        World(model, folder),
        tmp_path / "run",
        data=changes,
        optim={"steps": 2},
        validate_every=2,
        checkpoint_every=2,
    )
    assert train(config).step == 2


def test_every_row_keeps_where_it_comes_from(built, lm):
    origins = table(built.folder, "provenance")
    for split, name in (("train", "train_data"), ("test", "latent_eval_data")):
        rows = table(built.folder, name)
        mine = [origin for origin in origins if origin["split"] == split]
        assert [origin["row"] for origin in mine] == list(range(len(rows)))
        for origin, row in zip(mine, rows, strict=True):
            assert origin["concept_id"] == row["concept_id"]
            assert origin["category"] == row["category"]
            shared = row["concept_id"] == -1
            teacher = f"{lm.name} ({lm.fingerprint})" if shared else "tiny"
            assert origin["teacher"] == teacher
            assert origin["template_version"] == (None if shared else TEMPLATE_VERSION)
            assert (origin["seed"], origin["sample"]) == (5, 0)
            assert origin["instruction_source"] == "bundled"


def test_shared_negatives_are_what_the_base_lm_says_by_itself(built, lm):
    for row in table(built.folder, "train_data")[1:3]:
        alone = lm.generate(row["input"], max_new_tokens=TOKENS * 3 // 2)
        assert row["output"] == alone.strip()


def test_the_same_command_again_asks_nothing(server, listed, silent, tmp_path, cache):
    config = settings(tmp_path / "d", server, concepts=listed)
    first = build(config, console=silent)
    assert len(server.asked) == REQUESTS
    before = {path.name: path.read_bytes() for path in first.folder.glob("*.parquet")}
    assert len(before) == 3
    shutil.rmtree(cache)
    seen = []
    again = build(config, confirm=lambda e: not seen.append(e), console=silent)
    assert seen[0].calls == 0
    assert len(server.asked) == REQUESTS
    assert again.usage.calls == 0
    assert again.report == first.report, "what earlier runs asked is counted too"
    assert {path.name: path.read_bytes() for path in first.folder.glob("*.parquet")} == before


def test_faults_on_the_way_change_nothing(server, listed, silent, tmp_path, cache):
    fine = build(settings(tmp_path / "fine", server, concepts=listed), console=silent)
    shutil.rmtree(cache)
    faults = {
        3: refused(429, "slow down", retry_after="0"),
        4: refused(500, "oops"),
        9: Sent(body="<html>not json</html>"),
        15: Sent(drop=True),
        16: refused(429, "slow down"),
        30: said(""),
    }
    start = len(server.asked)
    server.script = lambda asked: faults.get(asked.number - start) or teach(asked)
    again = build(settings(tmp_path / "again", server, concepts=listed), console=silent)
    assert again.usage.retries == len(faults)
    for name in ("train_data", "latent_eval_data", "provenance"):
        assert table(again.folder, name) == table(fine.folder, name)


@pytest.mark.slow
def test_a_killed_build_goes_on_and_pays_for_nothing_twice(server, listed, silent, tmp_path, cache):
    answered, at_once, held = 40, 3, threading.Event()

    def script(asked):
        if asked.number >= answered:
            held.wait(60)
        return teach(asked)

    server.script = script
    out = tmp_path / "data"
    changes = {
        "teacher": {"base_url": server.url, "model": "tiny", "concurrency": at_once},
        "counts": {**COUNTS, "pool_negatives": 0},
        "base_lm": {"name": "none", "device": "cpu"},
    }
    raw = {"seed": 5, "instructions": "bundled", "response_tokens": TOKENS, "concepts": listed}
    path = toml({**raw, "out": str(out), **changes}, tmp_path / "build.toml")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HYPERSTEER_CACHE": str(cache)}
    command = [sys.executable, "-m", "hypersteer", "concepts", "build", str(path)]
    with talking(command, env=environment, stderr=subprocess.STDOUT) as child:
        deadline = time.monotonic() + 60
        # Every connection waits for an answer that does not come, so all earlier ones are kept.
        while len(server.asked) < answered + at_once and child.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert child.poll() is None, child.stdout.read()
        child.send_signal(signal.SIGKILL)
    held.set()
    assert not (out / "train_data.parquet").exists()
    first = server.texts[:answered]
    result = build(settings(out, server, concepts=listed), console=silent)
    later = server.texts[answered + at_once :]
    assert not set(first) & set(later)
    assert len(first) + len(later) == REQUESTS
    assert len(load_concepts(str(out), split="test")) == 33
    assert result.usage.calls == len(later)
