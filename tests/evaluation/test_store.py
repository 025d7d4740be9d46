"""The results folder: parts are kept whole, and another evaluation's folder is refused."""

import dataclasses
import errno
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from hypersteer.checkpoint import save_tensors
from hypersteer.config import EvaluateConfig, JudgeConfig, ProtocolConfig
from hypersteer.errors import ConfigError, SteeringError
from hypersteer.evaluation.records import Answered, Judged, Probed
from hypersteer.evaluation.store import ResultsFolder
from hypersteer.learning.values import Cost, Learned
from hypersteer.report.evaluate import evaluate

ROW = Answered(
    method="runs/my method",
    held="held_out",
    concept_id=3,
    concept="talk like a pirate",
    prompt_id=0,
    instruction="Hi?",
    strength=0.5,
    seed=1,
    given="",
    response="Arr | \n<b>",
    tokens=3,
    nll=2.5,
)


@pytest.fixture
def config(tmp_path):
    return EvaluateConfig(out=str(tmp_path / "out"))


@pytest.fixture
def folder(config):
    made = ResultsFolder(config)
    made.start(config)
    return made


def test_rows_come_back_as_they_were(folder, config):
    rows = [ROW, dataclasses.replace(ROW, strength=None, prompt_id=1, response="")]
    key = ("runs/my method", "held_out", 3)
    assert folder.answers(*key) is None
    folder.keep_answers(rows)
    assert ResultsFolder(config).answers(*key) == rows
    judged = [
        Judged(**dataclasses.asdict(ROW), overall=1.5, error=""),
    ]
    folder.keep_judged("judge (a, b)", judged)
    assert folder.judged("judge (a, b)", *key) == judged
    assert folder.judged("another judge", *key) is None
    assert not list(folder.path.rglob("*.tmp"))


def test_what_was_learnt_comes_back_as_it_was(folder):
    learned = Learned(
        tensors={"directions": torch.randn(2, 4), "ids": torch.tensor([1, 2])},
        notes={"1": "say ahoy"},
        cost=Cost(parameters=5, flops=2e9, seconds=1.5),
    )
    folder.keep_learned("reft-r1", {"epochs": 3}, [1, 2], learned)
    back = folder.learned("reft-r1", {"epochs": 3}, [1, 2])
    assert back.notes == learned.notes
    assert back.cost == learned.cost
    assert {k: v.tolist() for k, v in back.tensors.items()} == {
        k: v.tolist() for k, v in learned.tensors.items()
    }
    assert folder.learned("diffmean", {}, [1, 2]) is None
    for recipe, ids in (({"epochs": 4}, [1, 2]), ({"epochs": 3}, [1, 3])):
        with pytest.raises(ConfigError, match="'reft-r1' with other settings"):
            folder.learned("reft-r1", recipe, ids)


def test_what_was_learnt_before_kinds_were_kept_is_read(folder):
    tensors = {"directions": torch.randn(2, 4), "ids": torch.tensor([1, 2])}
    recipe = {"scopes": ["response"]}
    folder.keep_learned("caa", recipe, [1, 2], Learned(tensors=tensors, kind="directions"))
    assert folder.learned("caa", recipe, [1, 2]).kind == "directions"
    path = folder.path / "learned" / "caa.safetensors"
    with safe_open(path, "pt") as file:
        described = json.loads(file.metadata()["learned"])
    del described["kind"]
    save_tensors(tensors, path, {"learned": json.dumps(described)})
    back = folder.learned("caa", recipe, [1, 2])
    assert (back.kind, back.notes) == ("directions", recipe)


PROBED = Probed(
    method="runs/my method",
    held="held_in",
    concept_id=3,
    concept="talk like a pirate",
    strength=0.5,
    probe_id="facts-01",
    kind="facts",
    prompt="Which?",
    given="",
    response="Arr | \n<b>",
    counted=True,
)


def test_answers_to_probes_come_back_as_they_were(folder, config):
    rows = [PROBED, dataclasses.replace(PROBED, strength=None, response="", counted=False)]
    assert folder.probed("skills", PROBED.method) == []
    folder.keep_probed("skills", rows)
    assert ResultsFolder(config).probed("skills", PROBED.method) == rows
    assert folder.probed("refusals", PROBED.method) == []
    folder.keep_probed("skills", rows[:1])
    assert folder.probed("skills", PROBED.method) == rows[:1]
    assert not list(folder.path.rglob("*.tmp"))


def test_nothing_learnt_is_kept_as_well(folder):
    folder.keep_learned("prompting", {}, [1], Learned(notes={"a": "b"}))
    assert folder.learned("prompting", {}, [1]).notes == {"a": "b"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"seed": 7}, "another seed"),
        ({"protocol": ProtocolConfig(prompts=4)}, r"another protocol\.prompts"),
        ({"protocol": ProtocolConfig(strengths=(1.0,))}, r"another protocol\.strengths"),
    ],
)
def test_a_folder_of_another_evaluation_is_refused(folder, config, change, told):
    with pytest.raises(ConfigError, match=told):
        ResultsFolder(dataclasses.replace(config, **change))


def test_what_changes_no_answer_may_change(folder, config):
    ResultsFolder(
        dataclasses.replace(
            config,
            methods=("random",),
            compare_to="random",
            judge=JudgeConfig(kind="llm"),
            protocol=ProtocolConfig(batch_size=3, skill_items=5, refusal_requests=0),
        )
    )


def test_a_folder_of_an_earlier_version_goes_on(folder, config):
    """It lacks settings that have been added since; they had what is now the default."""
    path = folder.path / "config.json"
    kept = json.loads(path.read_text())
    del kept["protocol"]["repetition_penalty"]
    path.write_text(json.dumps(kept))
    ResultsFolder(config)
    other = dataclasses.replace(config.protocol, repetition_penalty=1.2)
    with pytest.raises(ConfigError, match=r"another protocol\.repetition_penalty"):
        ResultsFolder(dataclasses.replace(config, protocol=other))


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match="holds no evaluation but other files"):
        ResultsFolder(EvaluateConfig(out=str(tmp_path)))


def test_a_folder_in_use_is_told_and_what_a_killed_one_left_is_no_hindrance(config, tmp_path):
    with ResultsFolder(config).share(config):
        with pytest.raises(ConfigError, match=rf"'{config.out}' is in use by process \d+ on "):
            evaluate(config)
        ResultsFolder(config)  # what lies there now is what a killed process would leave
    assert not (tmp_path / "out").exists()


def test_figures_that_are_no_numbers_are_valid_json(folder):
    folder.keep_metrics("gaps", "x", {"a": float("nan"), "b": 0.5})
    assert folder.metrics("gaps", "x") == {"a": None, "b": 0.5}
    assert "NaN" not in (folder.path / "gaps/x.json").read_text()


@pytest.mark.parametrize("name", ["answers/runs-my-method/held_out-3.parquet"])
def test_a_damaged_part_is_told_with_its_name(folder, name):
    folder.keep_answers([ROW])
    (folder.path / name).write_bytes(b"PAR1 broken")
    with pytest.raises(SteeringError, match=f"{name}' is damaged"):
        folder.answers("runs/my method", "held_out", 3)


def test_a_full_disk_is_told_and_leaves_nothing_half_written(tmp_path, monkeypatch):
    folder = ResultsFolder(EvaluateConfig(out=str(tmp_path / "out")))
    folder.keep_metrics("gaps", "random", {"0": 1.0})

    def full(path, text, **options):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(SteeringError, match=r"random\.json': No space left on device; what is"):
        folder.keep_metrics("gaps", "random", {"0": 2.0})
    monkeypatch.undo()
    assert folder.metrics("gaps", "random") == {"0": 1.0}
    assert [path.name for path in (tmp_path / "out" / "gaps").iterdir()] == ["random.json"]
