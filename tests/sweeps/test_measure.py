"""What a run and its rival are measured at, against other ways to work it out."""

import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from hypersteer.errors import ConfigError, SteeringError
from hypersteer.learning.values import Asked
from hypersteer.lm.chat import collate
from hypersteer.lm.likelihood import response_token_losses
from hypersteer.methods.reft_r1 import ReftR1
from hypersteer.steering import load
from hypersteer.sweeps.measure import measure_run, rows_of
from hypersteer.sweeps.measured import Measured, Point, keep, read_kept
from hypersteer.sweeps.plan import plan_runs
from hypersteer.sweeps.reference import STRENGTHS, make_targets, measure_reference, teach
from hypersteer.training.loop import train
from training.worlds import metrics


@pytest.fixture
def run(swept_as, lm):
    """A trained run of three concepts that reads base prompts."""
    run = next(one for one in plan_runs(swept_as()) if one.concepts == 3)
    train(run.config, lm)
    return run


def test_losses_by_concept_are_those_of_training(run, lm):
    measured = measure_run(run.config, lm, 1.5)
    last = metrics(run.folder)[-1]
    rows = rows_of(run.config, lm).validation
    for held in ("held_in", "held_out"):
        own = [str(row.row.concept_id) for row in rows[held]]
        for kind in ("loss", "gap"):
            values = measured.losses[f"{held}_{kind}"]
            assert set(values) == set(own)
            mean = sum(values[id_] for id_ in own) / len(own)
            assert mean == pytest.approx(last[f"{held}_{kind}"], abs=1e-6)
    assert measured.concepts == 3
    assert (measured.rows, measured.seconds) == (16, 1.5)
    assert {"unsteered_held_in_loss", "prompted_held_out_loss"} <= set(measured.plain)


def test_a_loss_is_that_of_the_model_called_under_the_edit(run, lm):
    measured = measure_run(run.config, lm, 0.0)
    steerer = load(run.folder, lm=lm)
    rows = rows_of(run.config, lm)
    concept = rows.validation["held_out"][0].row.concept_id
    found = []
    for row in (one.row for one in rows.validation["held_out"]):
        if row.concept_id != concept:
            continue
        text = rows.data.concept(concept).text
        (prompt,) = [
            example.prompt
            for example in rows.data.examples(rows.data.rows(concept))
            if lm.chat.prompt(example.prompt).ids == row.prompt.ids
        ]
        ids = torch.tensor([[*row.prompt.ids, *row.response]])
        with torch.no_grad(), lm.edited(steerer.edit(text, prompt)):
            logits = lm.model(ids).logits[0, len(row.prompt.ids) - 1 : -1]
        found.append(F.cross_entropy(logits, torch.tensor(row.response)).item())
    wanted = measured.losses["held_out_loss"][str(concept)]
    assert sum(found) / len(found) == pytest.approx(wanted, abs=1e-4)


def test_the_curve_has_every_validation_and_what_was_spent_until_then(run, lm):
    curve = measure_run(run.config, lm, 0.0).curve
    validated = [line for line in metrics(run.folder) if "held_in_loss" in line]
    assert [(one.step, one.held_in_loss, one.held_out_loss) for one in curve] == [
        (line["step"], line["held_in_loss"], line["held_out_loss"]) for line in validated
    ]
    assert [one.step for one in curve] == [2, 4]
    assert 0 < curve[0].flops < curve[1].flops
    # Steps of the same rows differ by their lengths only.
    assert curve[1].flops / curve[0].flops == pytest.approx(2, rel=0.3)


def test_a_run_that_is_not_there_to_the_end_is_refused(run, lm):
    longer = replace(run.config, optim=replace(run.config.optim, steps=9))
    with pytest.raises(SteeringError, match="has taken 4 of 9 steps"):
        measure_run(longer, lm, 0.0)


def test_what_is_kept_is_read_as_it_was(tmp_path):
    kept = Measured(
        losses={"held_in_loss": {"3": 1.25}},
        plain={"unsteered_held_in_loss": 2.0},
        curve=(Point(step=2, held_in_loss=None, held_out_loss=3.0, flops=1e15),),
        concepts=2,
        parameters=7,
        flops=2e15,
        rows=8,
        seconds=1.0,
    )
    path = tmp_path / "measured.json"
    assert read_kept(path, Measured) is None
    keep(path, kept)
    assert read_kept(path, Measured) == kept
    path.write_text(path.read_text()[:-20])
    with pytest.raises(SteeringError, match=r"is damaged .*; delete it"):
        read_kept(path, Measured)


def test_the_rival_is_measured_at_its_best(swept_as, lm):
    run = plan_runs(swept_as())[0]
    found = measure_reference(run.config, lm, {"epochs": 1})
    rows = [one.row for one in rows_of(run.config, lm).validation["held_in"]]
    assert set(found.losses) == {str(row.concept_id) for row in rows}
    assert found.loss == min(found.forms.values())
    assert len(found.forms) == 1 + len(STRENGTHS)
    assert found.flops > 0
    taught = teach(ReftR1(epochs=1), "reft-r1", lm, run.config, taught_ids(rows))
    for strength in (STRENGTHS[0], STRENGTHS[-1]):
        # As the method itself steers.
        data = rows_of(run.config, lm).data
        asked = [Asked(data.concept(row.concept_id), "x") for row in rows]
        writers = ReftR1.steer(lm, taught.site, taught.learned, asked).writers
        losses = response_token_losses(
            lm,
            [row.prompt for row in rows],
            [row.response for row in rows],
            [writer.at([strength]) for writer in writers],
        )
        means = [one.mean().item() for one in losses]
        assert found.forms[f"strength {strength:g}"] == pytest.approx(
            sum(means) / len(means), abs=1e-4
        )


def test_the_rival_as_trained_is_what_its_equation_says(swept_as, lm):
    run = plan_runs(swept_as())[0]
    found = measure_reference(run.config, lm, {"epochs": 1, "top_k": 2})
    rows = [one.row for one in rows_of(run.config, lm).validation["held_in"]]
    taught = teach(ReftR1(epochs=1, top_k=2), "reft-r1", lm, run.config, taught_ids(rows))
    losses = []
    for row in rows:
        w = taught.learned.tensors["directions"][taught.ids.index(row.concept_id)]
        batch = collate([row.prompt], [row.response], pad_id=lm.chat.pad_id)
        first = row.prompt.prefix

        def hook(_module, _given, out, w=w, first=first):
            hidden = (out[0] if isinstance(out, tuple) else out).clone()
            latents = (hidden[0, first:] @ w).relu()
            hidden[0, first:] += latents.topk(2).values.mean() * w
            return (hidden, *out[1:]) if isinstance(out, tuple) else hidden

        handle = lm.blocks[taught.site.layer].register_forward_hook(hook)
        with torch.no_grad():
            logits = lm.model(batch.ids).logits[0, len(row.prompt.ids) - 1 : -1]
        handle.remove()
        losses.append(F.cross_entropy(logits, torch.tensor(row.response)).item())
    assert found.forms["as trained"] == pytest.approx(sum(losses) / len(losses), abs=1e-4)


def taught_ids(rows):
    return sorted({row.concept_id for row in rows})


def test_a_rival_needs_rows_to_be_measured_on(swept_as, lm):
    run = plan_runs(swept_as(train={"data": {"held_in_prompts": 0}}))[0]
    with pytest.raises(ConfigError, match="held_in_prompts above 0"):
        measure_reference(run.config, lm, {})


@pytest.mark.parametrize("name", ["reft-r1", "diffmean"])
def test_targets_are_the_vectors_of_all_training_concepts(swept_as, lm, name):
    change = {"hypernet": {"variant": "no-context"}, "loss": {"objective": "reconstruction"}}
    setting = {"name": "rebuilt", "targets": name, "change": change}
    (run,) = plan_runs(swept_as(concepts=[3], settings=[setting]))
    path = make_targets(name, lm, run.config, {"epochs": 1})
    assert str(path) == run.config.loss.targets
    targets = load_file(path)["vectors"]
    data = rows_of(run.config, lm)
    trained = {one.id for one in data.data.concepts if one.text in data.concepts}
    lengths = targets.norm(dim=-1)
    assert {i for i, length in enumerate(lengths) if length > 0} == trained
    assert len(targets) == 6
    before = path.stat().st_mtime_ns
    make_targets(name, lm, run.config, {"epochs": 1})
    assert path.stat().st_mtime_ns == before
    train(run.config, lm)
    assert math.isfinite(measure_run(run.config, lm, 0.0).flops)
