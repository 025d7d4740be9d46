"""The unit of edits and what is read of states do not depend on a few massive dimensions."""

import copy

import pytest
import torch

import tiny
from hypersteer.checkpoint import load_weights, save_tensors
from hypersteer.config import HypernetConfig
from hypersteer.hypernet import network as network_module
from hypersteer.hypernet.network import MASSIVE, new_hypernet
from hypersteer.lm.base import BaseLM
from hypersteer.training.forward import Steered, plain_losses, steered_losses

PLACES, SIZE = (3, 17), 900.0
PROMPTS = ("Tell me about your day.", "Why is the sky blue?")
RESPONSES = ("Aye, the ship and the sea.", "The bees.")
STEERING = ("talk like a pirate", "mention the honey")


@pytest.fixture(scope="module")
def massive():
    """A tiny Llama with two massive dimensions, which its norms leave out, as real models do."""
    model = copy.deepcopy(tiny.model_of("llama"))
    ratio = SIZE * (len(PLACES) / tiny.WIDTH) ** 0.5
    with torch.no_grad():
        model.get_input_embeddings().weight[:, PLACES] = SIZE
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.mul_(ratio)
                parameter[list(PLACES)] = 0.0
    return BaseLM.of(model, tiny.tokenizer(), name="massive")


def losses(lm, config):
    """Each row's loss, unsteered and under the edits of an untrained hypernetwork."""
    site = tiny.site_of(lm)
    prompts = [lm.chat.prompt(text) for text in PROMPTS]
    responses = [lm.chat.response(text) for text in RESPONSES]
    steering = [lm.chat.text(text) for text in STEERING]
    net = new_hypernet(lm, config, site, seed=0)
    with torch.no_grad():
        plain = plain_losses(lm, prompts, responses)
        setup = Steered(lm, net, config, [site], "all")
        return plain, steered_losses(setup, prompts, responses, [steering])[0]


@pytest.mark.parametrize("variant", tiny.VARIANTS)
def test_first_edits_barely_move_the_loss(lm, variant):
    plain, steered = losses(lm, HypernetConfig(blocks=2, variant=variant))
    assert (steered - plain).abs().max() < 0.15
    assert (steered != plain).any()


@pytest.mark.parametrize("prior", ["none", "activation"])
@pytest.mark.parametrize("variant", tiny.VARIANTS)
def test_first_edits_barely_move_the_loss_with_massive_dimensions(massive, variant, prior):
    plain, steered = losses(massive, HypernetConfig(blocks=2, variant=variant, prior=prior))
    assert (steered - plain).abs().max() < (0.15 if prior == "none" else 1.0)
    assert (steered != plain).any()


def test_massive_dimensions_decide_neither_the_unit_nor_what_is_read(massive):
    site = tiny.site_of(massive)
    net = new_hypernet(massive, HypernetConfig(blocks=1), site, seed=0)
    hidden = network_module._typical_states(massive, site)
    others = [at for at in range(tiny.WIDTH) if at not in PLACES]
    typical = hidden[:, others].pow(2).mean().sqrt()
    assert 0.7 < net.scale / typical < 4.5
    assert hidden.pow(2).mean().sqrt() / typical > 30  # what the unit was
    read = (hidden / net.excess).pow(2)
    assert read[:, PLACES].mean() / read.mean() < 2 * MASSIVE**2
    assert net.excess[others].max() < 2


def test_checkpoints_of_earlier_versions_read_all_dimensions_as_they_are(tiny_llama, tmp_path):
    net = new_hypernet(tiny_llama, HypernetConfig(blocks=1), tiny.site_of(tiny_llama), seed=0)
    weights = {name: value for name, value in net.state_dict().items() if name != "excess"}
    save_tensors(weights, tmp_path / "old.safetensors")
    net.excess.fill_(7.0)
    load_weights(net, tmp_path / "old.safetensors")
    assert torch.equal(net.excess, torch.ones(tiny.WIDTH))
