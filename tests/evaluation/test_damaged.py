"""A results folder with damaged files: each is told in one line, with what to do."""

import dataclasses
import json
from contextlib import suppress

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from damages import DAMAGES, check_told, damaged, odd_values
from evaluation.test_store import PROBED, ROW
from hypersteer.checkpoint import save_tensors
from hypersteer.config import EvaluateConfig
from hypersteer.errors import SteeringError
from hypersteer.evaluation.records import Answered, Judged, to_table
from hypersteer.evaluation.store import ResultsFolder
from hypersteer.learning.values import Cost, Learned

KEY = (ROW.method, ROW.held, ROW.concept_id)
LEARNED = Learned(tensors={"ids": torch.tensor([1, 2])}, notes={"1": "ahoy"}, cost=Cost(flops=2e9))
READERS = {
    "config.json": lambda folder, config: ResultsFolder(config),
    "answers/runs-my-method/held_out-3.parquet": lambda folder, _: folder.answers(*KEY),
    "judged/judge/runs-my-method/held_out-3.parquet": lambda f, _: f.judged("judge", *KEY),
    "learned/caa.safetensors": lambda folder, _: folder.learned("caa", {"a": 1}, [1, 2]),
    "skills/runs-my-method.parquet": lambda f, _: f.probed("skills", PROBED.method),
    "gaps/caa.json": lambda folder, _: folder.gaps("caa"),
    "detection/caa.json": lambda folder, _: folder.metrics("detection", "caa"),
}


@pytest.fixture
def config(tmp_path):
    return EvaluateConfig(out=str(tmp_path / "out"))


@pytest.fixture
def folder(config):
    made = ResultsFolder(config)
    made.start(config)
    made.keep_answers([ROW])
    made.keep_judged("judge", [Judged(**dataclasses.asdict(ROW), overall=1.5)])
    made.keep_probed("skills", [PROBED])
    made.keep_learned("caa", {"a": 1}, [1, 2], LEARNED)
    made.keep_metrics("gaps", "caa", {"held_in-0-1.0-6": 0.5, "held_in-1-1.0-6": None})
    made.keep_metrics("detection", "caa", {"0": {"pool": 1}})
    return made


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_told(folder, config, name, how):
    file = folder.path / name
    READERS[name](folder, config)
    file.write_bytes(damaged(file.read_bytes(), how))
    if name == "config.json" and how == "all but a byte":
        READERS[name](folder, config)  # only the line's end is gone
    elif how == "an empty object" and name.startswith(("gaps", "detection")):
        assert READERS[name](folder, config) == {}  # nothing is finished
    elif how == "all but a byte" and name.endswith(".json"):
        READERS[name](folder, config)
    else:
        with pytest.raises(SteeringError) as told:
            READERS[name](folder, config)
        if how != "an empty object":  # settings that lack everything differ, and are told as such
            check_told(told, file)


@pytest.mark.parametrize(
    ("table", "told"),
    [
        (to_table([ROW], Answered).slice(0, 0), "no rows"),
        (to_table([ROW], Answered).drop_columns(["nll"]), "nll"),
        (to_table([ROW], Answered).append_column("more", pa.array([1])), "unknown column 'more'"),
        (
            to_table([ROW], Answered).append_column("nll", pa.array([1.0])),
            "nll|duplicate field names",
        ),
        (to_table([dataclasses.replace(ROW, response=None)], Answered), "response is missing"),
        (
            to_table([ROW], Answered).set_column(6, "strength", pa.array(["x"])),
            "type double",
        ),
        (to_table([ROW], Answered).set_column(10, "tokens", pa.array([2.5])), "tokens|truncated"),
        (to_table([ROW], Answered).set_column(10, "tokens", pa.array([[2]])), "list"),
        (to_table([ROW], Answered).set_column(1, "held", pa.array(["inside"])), "held is 'inside'"),
        (pa.table({"x": [1]}), "unknown column 'x'"),
    ],
)
def test_a_table_of_something_else_is_told(folder, table, told):
    file = folder.path / "answers/runs-my-method/held_out-3.parquet"
    pq.write_table(table, file)
    with pytest.raises(SteeringError, match=told) as error:
        folder.answers(*KEY)
    check_told(error, file)


def test_what_was_learnt_is_read_or_told(folder):
    """Whatever stands in its description."""
    file = folder.path / "learned" / "caa.safetensors"
    described = {
        "recipe": {"a": 1},
        "ids": [1, 2],
        "notes": {"1": "ahoy"},
        "cost": {"parameters": 1, "flops": 1.0, "seconds": 1.0},
    }
    told = 0
    for _, changed in odd_values(described):
        save_tensors(LEARNED.tensors, file, {"learned": json.dumps(changed)})
        found = None
        with suppress(SteeringError):
            found = folder.learned("caa", {"a": 1}, [1, 2])
        told += found is None
        assert found is None or isinstance(found.notes, dict)
    assert told > 60


@pytest.mark.parametrize("value", ["x", [], {}, True])
def test_a_gap_that_is_no_number_is_told(folder, value):
    file = folder.path / "gaps" / "caa.json"
    file.write_text(json.dumps({"held_in-0-1.0-6": value}))
    with pytest.raises(SteeringError, match="is damaged") as error:
        folder.gaps("caa")
    check_told(error, file)
