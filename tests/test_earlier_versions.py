"""What the last version before edits had kinds has written is read, and does what it did then.

The fixtures were written by that version, with the base LM and the data that lie beside them:
`expected.json` holds its settings, an edit's vector, and texts that it generated.
"""

import dataclasses
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

import hypersteer as hs
from hypersteer.config import EvaluateConfig, TrainConfig, from_dict
from hypersteer.evaluation import run
from hypersteer.evaluation.records import Judged, from_table
from hypersteer.lm.base import BaseLM

FIXTURES = Path(__file__).parent / "fixtures" / "version_0_1"
PROMPTS = ["Tell me more.", "Why?"]


@pytest.fixture
def earlier(tmp_path, monkeypatch):
    """A copy of the fixtures as the working folder, since their settings name relative paths."""
    shutil.copytree(FIXTURES, tmp_path / "earlier")
    monkeypatch.chdir(tmp_path / "earlier")
    return json.loads(Path("expected.json").read_text(encoding="utf-8"))


@pytest.fixture
def lm(earlier):
    return hs.load_lm("model", device="cpu", dtype="float32")


def test_a_checkpoint_steers_as_it_did(earlier, lm):
    steerer = hs.load("run", lm=lm)
    wanted = torch.tensor(earlier["vector"])
    torch.testing.assert_close(steerer.edit("speak of owls").vector, wanted, rtol=0, atol=1e-5)
    options = {"strength": [1.0, 2.0], "max_new_tokens": 12}
    assert steerer.generate(PROMPTS, steer="speak of owls", **options) == earlier["steered"]


def test_an_edit_is_the_same_vector_and_acts_as_it_did(earlier, lm):
    edit = hs.load_edit("edit.safetensors")
    assert edit.kind.name == "vector"
    torch.testing.assert_close(edit.vector, torch.tensor(earlier["vector"]), rtol=0, atol=0)
    texts = lm.generate(PROMPTS, edit=edit, strength=[1.0, 2.0], max_new_tokens=12)
    assert texts == earlier["edited"]
    sampling = {"temperature": 0.9, "top_p": 0.9, "seed": 5, "max_new_tokens": 12}
    assert lm.generate(PROMPTS, edit=edit, **sampling) == earlier["sampled"]
    again = edit.save("again.safetensors")
    assert torch.equal(hs.load_edit(again).vector, edit.vector)


def test_a_condition_decides_as_it_did(earlier, lm):
    condition = hs.load_condition("condition.safetensors")
    edit = hs.load_edit("edit.safetensors")
    rules = hs.rules("if owl then x", conditions={"owl": condition}, edits={"x": edit})
    texts = lm.generate(["owl owls b", "boat boats h"], edit=rules, strength=3.0, max_new_tokens=12)
    assert texts == earlier["ruled"]


def test_a_run_resumes(earlier, lm):
    config = from_dict(TrainConfig, earlier["train"], "expected.json")
    done = hs.train(config, lm)
    assert done.step == 2
    changed = json.loads(json.dumps(earlier["train"]))
    changed["optim"]["steps"] = 3
    longer = hs.train(from_dict(TrainConfig, changed, "expected.json"), lm, extend=True)
    assert longer.step == 3
    assert hs.load("run", lm=lm).card.step in (2, 3)


def test_a_results_folder_is_read_and_nothing_done_anew(earlier, lm, monkeypatch):
    """All answers, judgements, gaps and what methods learnt are there; only the report is made."""
    judge = type("Letters", (), {"name": "letters", "judge": lambda *_a: pytest.fail("judged")})()
    monkeypatch.setattr(run, "make_judge", lambda _config, _lm: judge)
    before = from_table(pq.read_table("results/rows.parquet"), Judged)
    config = from_dict(EvaluateConfig, earlier["config"], "expected.json")
    protocol = dataclasses.replace(config.protocol, skill_items=0, refusal_requests=0)  # since then
    config = dataclasses.replace(config, protocol=protocol)
    monkeypatch.setattr(BaseLM, "forward", lambda *_a, **_k: pytest.fail("the base LM ran"))
    result = hs.evaluate(config, lm)
    assert from_table(pq.read_table(result.rows), Judged) == before
    report = result.markdown.read_text(encoding="utf-8")
    for method in config.methods:
        assert method in report
