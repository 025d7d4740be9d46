"""Plans: the paper's full-size runs, and memory and lengths held against real small ones."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hypersteer.config import PlanConfig, TrainConfig, load_toml
from hypersteer.errors import ConfigError, DataError, ModelError
from hypersteer.hypernet.network import new_hypernet
from hypersteer.hypernet.step_flops import row_lengths
from hypersteer.training.forward import Steered
from hypersteer.training.memory import kept_activations
from hypersteer.training.objectives import step_losses
from hypersteer.training.plan import DEVICES, count, make_plan
from hypersteer.training.rows import prepare_rows
from live_memory import LiveMemory
from training.worlds import settings

ROOT = Path(__file__).parents[2]
FULL_SIZE = sorted((ROOT / "experiments" / "full_size").glob("*.toml"))
GEMMA_2B = 2_614_341_888


@pytest.fixture(autouse=True)
def _in_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("HYPERSTEER_AXBENCH", raising=False)


def full_size(name):
    return load_toml(ROOT / f"experiments/full_size/{name}.toml", TrainConfig)


def cases():
    """All full-size settings; those of one shape with another's only in `make test-all`."""
    for file in FULL_SIZE:
        marks = [pytest.mark.slow] + [pytest.mark.exhaustive] * ("concept16k" in file.stem)
        yield pytest.param(file, id=file.stem, marks=marks)


@pytest.mark.parametrize("file", list(cases()))
def test_the_papers_runs_are_planned_from_their_configurations(file):
    """Table 3: depth, batch and rate of each; three epochs."""
    config = load_toml(file, TrainConfig)
    small, cross = "_2b_" in file.stem, "cross" in file.stem
    assert file.stem.endswith(config.hypernet.variant.replace("-", "_"))
    depth, batch = {(True, True): (22, 12), (False, True): (34, 4)}.get(
        (small, cross), (26 if small else 42, 6)
    )
    assert (config.hypernet.blocks, config.optim.batch_size) == (depth, batch)
    assert config.optim.learning_rate == (8e-5 if small else 5e-6)
    held_out = config.data.held_out_concepts
    concepts = 500 if "concept500" in file.stem else 16_000 - len(held_out)
    assert held_out == 0 or len(set(held_out)) == 100
    assert config.optim.steps * batch == pytest.approx(3 * 71 * concepts, rel=0.001)
    plan = make_plan(config)
    assert plan.parameters == (GEMMA_2B if small else 9_241_705_984)
    assert plan.rows.told.startswith("taken for granted")
    assert all(t.is_meta for t in (*plan.lm.model.parameters(), *plan.hypernet.parameters()))
    assert plan.memory.activations > 0
    assert all(plan.hours(device).products > 0 for device in DEVICES)


def test_sizes_of_appendix_a_3_1():
    """A block with cross-attention is 1.18 times one without, and 22 of them are the 2B model.

    The appendix says that the whole is some 0.998 times the model. Blocks and embeddings alone are
    1.000 times it; with a linear head, which the published code has, 1.002 times, and the other way
    around 0.998. With our MLP as the head it is 1.004 times.
    """
    plan = make_plan(full_size("gemma_2b_concept500_cross_attention"))
    block, cross = count(plan.lm.blocks[0]), count(plan.hypernet.cross[0])
    assert (block + cross) / block == pytest.approx(1.18, abs=0.005)
    blocks = 22 * (block + cross) + plan.embeddings
    assert blocks / plan.parameters == pytest.approx(1.0000, abs=0.0001)
    width = plan.lm.width
    linear = blocks + width * width + width
    assert plan.parameters / linear == pytest.approx(0.998, abs=0.0005)
    assert linear / plan.parameters == pytest.approx(1.002, abs=0.0005)
    assert (plan.trained + plan.embeddings) / plan.parameters == pytest.approx(1.004, abs=0.0005)


def real(config, world):
    """Rows of a run's first step, and what is trained on them."""
    lm = world.lm
    rows = prepare_rows(config.data, config.loss, lm, seed=config.seed, batch_size=4).batches
    network = new_hypernet(lm, config.hypernet, lm.site(1), 0)
    return rows.batch(0), Steered(lm, network, config.hypernet, network.sites, "all")


@pytest.mark.parametrize("loss", [{}, {"contrast": 1.0}, {"objective": "distillation"}])
@pytest.mark.parametrize("edit", ["vector", "per-token"])
def test_activations_are_those_of_a_real_step(world, tmp_path, edit, loss):
    """Within 15 % of all tensors alive at the peak of a step, as watched from outside."""
    config = settings(world, tmp_path, loss=loss, hypernet={"blocks": 2, "edit": edit})
    rows, setup = real(config, world)
    plan = make_plan(config)
    own = [row_lengths(row) for row in rows]
    assert own == plan.rows.steps[0]
    step_losses(setup, config.loss, rows)  # views of the base LM are made once
    with LiveMemory() as live:
        step_losses(setup, config.loss, rows).total.backward()
    kept = kept_activations(plan.lm, plan.hypernet, config.loss, own)
    gradients = sum(p.numel() * 4 for p in setup.network.parameters())
    assert max(kept, gradients) <= 1.15 * live.peak
    assert kept + gradients >= 0.85 * live.peak


def test_weights_and_checkpoints_are_those_of_a_real_run(world, tmp_path):
    config = settings(world, tmp_path / "run")
    plan = make_plan(config)
    _, setup = real(config, world)
    assert plan.trained == count(setup.network)
    assert plan.parameters == count(setup.lm.model)
    assert plan.dtype == torch.float32
    assert plan.rows.rows == len(
        prepare_rows(config.data, config.loss, setup.lm, seed=3, batch_size=4).batches._rows
    )
    assert not (tmp_path / "run").exists()


def test_processes_split_what_they_can(world, tmp_path):
    alone = make_plan(settings(world, tmp_path))
    plan = make_plan(settings(world, tmp_path, plan={"processes": 4}))
    assert plan.memory == replace(alone.memory, activations=plan.memory.activations)  # other rows
    assert plan.replicated.peak(1) == plan.memory.peak(1) + plan.memory.gradients
    assert plan.split.optimizer * 4 == pytest.approx(alone.memory.optimizer, rel=0.01)
    assert plan.split.base_lm == alone.memory.base_lm
    assert plan.tokens > 3 * alone.tokens


def test_a_configuration_alone_will_do(world, tmp_path):
    """Without a tokenizer lengths are taken for granted, and the table says so."""
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text((world.model / "config.json").read_text())
    config = settings(world, tmp_path / "run")
    plan = make_plan(replace(config, base_lm=replace(config.base_lm, name=str(bare))))
    assert plan.trained == make_plan(config).trained
    assert "no tokenizer of" in plan.rows.told
    raw = json.loads((bare / "config.json").read_text())
    (bare / "config.json").write_text(json.dumps({**raw, "model_type": "nothing"}))
    with pytest.raises(ModelError, match="describes no base LM"):
        make_plan(replace(config, base_lm=replace(config.base_lm, name=str(bare))))


def test_bad_settings_are_told_without_a_run(world, tmp_path):
    with pytest.raises(ConfigError, match=r"blocks 9 is not within 1\.\.4"):
        make_plan(settings(world, tmp_path, hypernet={"blocks": 9}))
    with pytest.raises(ConfigError, match="cross_key_heads 3 does not divide the 4 heads"):
        make_plan(settings(world, tmp_path, hypernet={"cross_heads": 4, "cross_key_heads": 3}))
    hypernet = {"variant": "no-context", "cross_head_width": 8}
    with pytest.raises(ConfigError, match="leave them out"):
        make_plan(settings(world, tmp_path, hypernet=hypernet))
    with pytest.raises(DataError, match="no concept data source"):
        make_plan(settings(world, tmp_path, data={"source": [str(tmp_path / "none")]}))
    for wrong, told in (
        ({"utilisation": 0}, "plan.utilisation 0"),
        ({"prefix_tokens": 30}, "leave nothing"),
        ({"processes": 0}, "plan.processes 0 is below 1"),
    ):
        with pytest.raises(ConfigError, match=told):
            PlanConfig(**wrong)
