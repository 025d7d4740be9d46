"""Gradient checkpointing in training: the same weights, bit for bit, and less kept."""

import json
import threading
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from hypersteer.config import HypernetConfig
from hypersteer.edits.sites import Site
from hypersteer.errors import ModelError
from hypersteer.hypernet.network import new_hypernet
from hypersteer.training.forward import Steered, steered_losses, steered_states
from hypersteer.training.loop import train
from saved import saved_bytes
from training.test_forward import tokens
from training.worlds import option, settings

WAYS = {  # every variant, kind of edit and kind of site, one site and several
    "cross-attention": ({}, Site(1)),
    "in-context": ({"variant": "in-context"}, Site(0)),
    "no-context": ({"variant": "no-context", "style": True}, Site(2)),
    "random": ({"init": "random", "prior": "activation"}, Site(1)),
    "attention": ({}, Site(1, "attention")),
    "mlp": ({"variant": "no-context"}, Site(0, "mlp")),
    "low-rank": ({"edit": "low-rank", "more_layers": (2, 3)}, Site(1)),
    "gated": ({"edit": "gated", "more_layers": (3,)}, Site(0, "mlp")),
    "per-token": ({"edit": "per-token"}, Site(1)),
    "recalling": ({"edit": "per-token", "self_attention": True, "more_layers": (2,)}, Site(0)),
    "recalling inside": ({"edit": "per-token", "self_attention": True}, Site(1, "attention")),
}


def setup_of(lm, way):
    """A hypernetwork whose every weight takes part, in training."""
    changes, site = WAYS[way]
    config = HypernetConfig(blocks=3, **changes)
    network = new_hypernet(lm, config, site, seed=0)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return Steered(lm, network.train(), config, network.sites, "all")


def gradients(setup, losses, *, recomputes):
    """The losses, the gradients of the hypernetwork, and the bytes kept in between."""
    network = setup.network
    network.recomputes = recomputes
    network.zero_grad()
    weights = [*setup.lm.model.parameters(), *network.parameters()]
    with saved_bytes(weights) as kept:
        found = losses(replace(setup, recomputes=recomputes))
    found.mean().backward()
    return found.detach(), [p.grad.clone() for p in network.parameters()], kept.total


def assert_the_same_with_less(setup, losses, share):
    expected = gradients(setup, losses, recomputes=False)
    found = gradients(setup, losses, recomputes=True)
    assert torch.equal(found[0], expected[0])
    for own, other in zip(found[1], expected[1], strict=True):
        assert torch.equal(own, other)
    assert max(float(gradient.abs().max()) for gradient in expected[1]) > 1e-4
    assert found[2] < share * expected[2], (found[2], expected[2])


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("way", WAYS)
def test_the_same_gradients_with_less_kept(lm, way, copies):
    prompts, responses, right, wrong = tokens(lm)
    steering = [right, wrong][:copies]
    setup = setup_of(lm, way)

    def losses(one):
        return steered_losses(one, prompts, responses, steering)

    # Velocity fields keep what they need: they are no blocks.
    fields = setup.network.fields is not None
    assert_the_same_with_less(setup, losses, 0.9 if fields else 0.6)


def test_the_same_gradients_where_no_block_above_the_site_runs(lm):
    prompts, responses, right, _ = tokens(lm)
    assert_the_same_with_less(
        setup_of(lm, "cross-attention"),
        lambda one: steered_states(one, prompts, responses, right),
        0.6,
    )


def test_a_backward_pass_in_another_thread(lm):
    """As on a GPU: hooks inside the trunk's blocks are placed anew, in the thread that asks."""
    prompts, responses, right, wrong = tokens(lm)
    setup = setup_of(lm, "cross-attention")

    def losses(one):
        return steered_losses(one, prompts, responses, [right, wrong])

    _, expected, _ = gradients(setup, losses, recomputes=False)
    setup.network.recomputes = True
    setup.network.zero_grad()
    total = losses(replace(setup, recomputes=True)).mean()
    thread = threading.Thread(target=total.backward)
    thread.start()
    thread.join()
    found = [parameter.grad for parameter in setup.network.parameters()]
    assert all(map(torch.equal, found, expected))


def test_nothing_is_left_in_the_base_lm(lm):
    before = {name: value.clone() for name, value in lm.model.state_dict().items()}
    children = [(module, dict(module._modules)) for module in lm.model.modules()]
    setup = setup_of(lm, "low-rank")
    prompts, responses, right, wrong = tokens(lm)
    gradients(
        setup,
        lambda one: steered_losses(one, prompts, responses, [right, wrong]),
        recomputes=True,
    )
    for module, own in children:
        assert dict(module._modules) == own
        assert "forward" not in vars(module)
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    for name, value in lm.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in lm.model.parameters())


# --- whole runs ---------------------------------------------------------------------------------


def weights(out, step):
    return load_file(out / f"checkpoints/step-{step:07d}/model.safetensors")


@pytest.mark.parametrize("name", ["contrast", "style", "distillation", "sub-layer"])
def test_runs_end_with_the_same_weights(world, lm, tmp_path, name):
    found = {}
    for recomputes in (False, True):
        changes = option(name, tmp_path)
        optim = {"steps": 3, "accumulation": 2, "gradient_checkpointing": recomputes}
        changes["optim"] = changes.get("optim", {}) | optim
        out = tmp_path / str(recomputes)
        train(settings(world, out, **changes, data={"max_validation_rows": 2}), lm)
        found[recomputes] = weights(out, 3)
    for tensor, value in found[False].items():
        assert torch.equal(found[True][tensor], value), tensor


def test_a_run_may_go_on_with_it(world, lm, tmp_path):
    """It changes no weight, and who runs out of memory wants it in the middle of a run."""
    out = tmp_path / "run"
    config = settings(world, out, optim={"steps": 6})
    train(config, lm)
    straight = weights(out, 6)
    for folder in out.glob("checkpoints/step-*"):
        if folder.name != "step-0000003":
            for file in sorted(folder.rglob("*"), reverse=True):
                file.rmdir() if file.is_dir() else file.unlink()
            folder.rmdir()
    train(replace(config, optim=replace(config.optim, gradient_checkpointing=True)), lm)
    again = weights(out, 6)
    assert all(torch.equal(again[name], value) for name, value in straight.items())
    kept = json.loads((out / "checkpoints/step-0000006/config.json").read_text())
    assert kept["training"]["optim"]["gradient_checkpointing"] is True


def test_a_base_lm_that_is_spread_out_is_refused(world, tmp_path):
    lm = world.lm
    lm.model.forward = lm.model.forward  # in the model itself, as Accelerate's dispatch has it
    config = settings(world, tmp_path / "run", optim={"gradient_checkpointing": True})
    with pytest.raises(ModelError, match="leave out gradient checkpointing, or"):
        train(config, lm)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
