"""A tiny sweep: a base LM, data of six concepts, and settings that train in a second."""

import json

import pytest
import torch

from hypersteer.config import from_dict
from hypersteer.config.sweeps import SweepConfig
from training.conftest import _own_cache, cache, lm  # noqa: F401  (fixtures)
from training.worlds import make_world

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    (folder / "pool.jsonl").write_text(
        "".join(json.dumps({"instruction": f"Tell {n} more?"}) + "\n" for n in range(9))
    )
    return make_world(folder)


@pytest.fixture
def swept_as(world, tmp_path):
    """Makes the settings of a tiny sweep; tables are merged."""

    def make(**changes):
        return from_dict(SweepConfig, raw_sweep(world, tmp_path, **changes))

    return make


def raw_sweep(world, folder, **changes):
    """Settings of a tiny sweep as a file would have them."""
    train = {
        "base_lm": {"name": str(world.model), "device": "cpu"},
        "site": {"layer": 1},
        "hypernet": {"blocks": 1},
        "data": {
            "source": [str(world.data)],
            "held_out_concepts": 2,
            "held_in_prompts": 2,
            "held_in_concepts": 2,
        },
        "optim": {"steps": 4, "batch_size": 4, "learning_rate": 2e-3, "mixed_precision": "no"},
        "validate_every": 2,
        "checkpoint_every": 1,
    }
    raw = {
        "out": str(folder / "report"),
        "runs": str(folder / "runs"),
        "seeds": [3],
        "concepts": [2, 3, 4],
        "settings": [
            {"name": "cross"},
            {"name": "plain", "change": {"hypernet": {"variant": "no-context"}}},
        ],
        "reft": {"epochs": 1},
        "rivals": [],
        "protocol": {
            "instructions": str(world.model.parent / "pool.jsonl"),
            "held_in_concepts": 2,
            "held_out_concepts": 2,
            "prompts": 2,
            "strengths": [1.0],
            "max_new_tokens": 3,
            "temperature": 0,
            "gap_rows": 0,
            "detection": False,
            "skill_items": 0,
            "refusal_requests": 0,
        },
        "judge": {"kind": "likelihood"},
    }
    changed = changes.pop("train", {})
    raw["train"] = {
        **train,
        **{
            key: {**train.get(key, {}), **value} if isinstance(value, dict) else value
            for key, value in changed.items()
        },
    }
    return {**raw, **changes}
