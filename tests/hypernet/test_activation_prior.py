"""The activation prior: the base LM's own states, and what is made of them."""

import pytest
import torch

import tiny
from hypersteer.config import HypernetConfig
from hypersteer.hypernet.activation_prior import GAIN, read_concept_states
from hypersteer.hypernet.maker import read_steering
from hypersteer.hypernet.network import MEAN_RATE, STYLE_RATE, new_hypernet

TEXTS = ["figs", "speak at length of yaks and owls", "jam"]
CONFIG = HypernetConfig(variant="no-context", blocks=1, prior="activation")


def ids_of(lm, texts=TEXTS):
    return [lm.chat.text(text) for text in texts]


def by_hand(lm, site, ids):
    """The last token's state, read alone by a hook of our own."""
    bos = lm.tokenizer.bos_token_id
    whole = torch.tensor([[*([] if bos is None else [bos]), *ids]])
    seen = []
    hook = tiny.module_at(lm, site).register_forward_hook(
        lambda _m, _a, out: seen.append(out if torch.is_tensor(out) else out[0])
    )
    with torch.no_grad():
        lm.model(whole)
    hook.remove()
    return seen[0][0, -1]


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_read_concept_states_are_those_of_each_text_alone(lm, kind):
    site = tiny.site_of(lm, kind)
    texts = [*TEXTS, TEXTS[1]]
    ours = read_concept_states(lm, site, ids_of(lm, texts))
    for row, ids in zip(ours, ids_of(lm, texts), strict=True):
        torch.testing.assert_close(row, by_hand(lm, site, ids), rtol=0, atol=1e-5)


def test_an_untrained_vector_begins_as_the_centred_state(lm):
    """Without the head: a gain times the state minus the mean of the texts, at unit mean square."""
    site = tiny.site_of(lm)
    net = new_hypernet(lm, CONFIG, site, seed=0, texts=TEXTS)
    with torch.no_grad():
        for parameter in net.head[-1].parameters():
            parameter.zero_()
    steering = ids_of(lm)
    own = read_steering(lm, CONFIG, site, steering)
    prompts = [lm.chat.prompt("Why?")] * len(TEXTS)
    ours = tiny.write_vectors(net, lm, CONFIG, steering, prompts, concept_states=own)
    states = torch.stack([by_hand(lm, site, ids) for ids in steering])
    centred = (states - states.mean(0)) / net.excess
    expected = GAIN * net.scale * centred / centred.pow(2).mean(-1, keepdim=True).sqrt()
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)


def test_both_maps_of_the_prior_learn():
    lm = tiny.lm_of("llama")
    site = tiny.site_of(lm)
    net = new_hypernet(lm, CONFIG, site, seed=0)
    steering, prompts = ids_of(lm), [lm.chat.prompt("Why?")] * len(TEXTS)
    own = read_steering(lm, CONFIG, site, steering)
    tiny.write_vectors(net, lm, CONFIG, steering, prompts, concept_states=own).pow(
        2
    ).sum().backward()
    for weights in (net.prior.guess.weight, net.prior.read.weight):
        assert weights.grad is not None
        assert weights.grad.abs().max() > 0


def test_without_a_prior_nothing_is_read():
    lm = tiny.lm_of("llama")
    plain = HypernetConfig(variant="no-context", blocks=1)
    assert read_steering(lm, plain, tiny.site_of(lm), ids_of(lm)) is None
    names = new_hypernet(lm, plain, tiny.site_of(lm), seed=0).state_dict()
    assert not [name for name in names if name.startswith(("prior", "style"))]


def test_the_style_vector_is_there_in_training_only():
    """In training: vectors, less the mean so far, plus the style. In use: less the mean."""
    lm = tiny.lm_of("llama")
    config = HypernetConfig(variant="no-context", blocks=1, style=True)
    net = new_hypernet(lm, config, tiny.site_of(lm), seed=0)
    steering, prompts = ids_of(lm), [lm.chat.prompt("Why?")] * len(TEXTS)
    raw = tiny.write_vectors(net.eval(), lm, config, steering, prompts)
    with torch.no_grad():
        net.style.copy_(torch.arange(lm.width) / lm.width)
    added = STYLE_RATE * net.style * net.scale
    mean = torch.zeros_like(raw[0])
    for _ in range(2):
        in_training = tiny.write_vectors(net.train(), lm, config, steering, prompts)
        torch.testing.assert_close(in_training, raw - mean + added, rtol=0, atol=1e-4)
        net.follow_mean(lambda tensor: tensor)
        mean = mean + MEAN_RATE * (raw.mean(0) - mean)
        in_use = tiny.write_vectors(net.eval(), lm, config, steering, prompts)
        torch.testing.assert_close(in_use, raw - mean, rtol=0, atol=1e-5)
        assert mean.abs().max() > 1e-4


def test_the_mean_is_of_all_rows_of_a_step_however_they_come():
    """In parts of unequal size, and with what other processes saw; validation takes no part."""
    lm = tiny.lm_of("llama")
    config = HypernetConfig(variant="no-context", blocks=1, style=True)
    net = new_hypernet(lm, config, tiny.site_of(lm), seed=0)
    steering, prompts = ids_of(lm), [lm.chat.prompt("Why?")] * len(TEXTS)
    raw = tiny.write_vectors(net.eval(), lm, config, steering, prompts)
    tiny.write_vectors(net, lm, config, steering, prompts)
    net.follow_mean(lambda tensor: tensor)
    assert not net.mean.any()
    tiny.write_vectors(net.train(), lm, config, steering[:1], prompts[:1])
    tiny.write_vectors(net, lm, config, steering[1:], prompts[1:])
    assert not net.mean.any()  # all parts of a step have the same mean taken off
    elsewhere = torch.cat([torch.full((lm.width,), 6.0), torch.tensor([3.0])])
    net.follow_mean(lambda tensor: tensor + elsewhere)
    expected = (raw.sum(0) / net.scale + 6) / (len(raw) + 3)
    torch.testing.assert_close(net.mean, MEAN_RATE * expected, rtol=0, atol=1e-6)


def test_shared_parts_of_the_edits_fade():
    """After many passes in training the vectors in use have mean zero, whatever the head adds."""
    lm = tiny.lm_of("llama")
    config = HypernetConfig(variant="no-context", blocks=1, style=True)
    net = new_hypernet(lm, config, tiny.site_of(lm), seed=0)
    with torch.no_grad():
        net.head[-1].bias.add_(3.0)
    steering, prompts = ids_of(lm), [lm.chat.prompt("Why?")] * len(TEXTS)
    before = tiny.write_vectors(net.eval(), lm, config, steering, prompts).mean(0).norm()
    for _ in range(400):
        tiny.write_vectors(net.train(), lm, config, steering, prompts)
        net.follow_mean(lambda tensor: tensor)
    after = tiny.write_vectors(net.eval(), lm, config, steering, prompts)
    assert after.mean(0).norm() < 1e-3 * before
    assert after.norm() > 1e-3
