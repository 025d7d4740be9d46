"""The one shared forward pass against plain forwards of every row alone with hand-placed hooks."""

from contextlib import contextmanager

import pytest
import torch

import tiny
from hypersteer.config import HypernetConfig
from hypersteer.edits.sites import Site
from hypersteer.engine.guidance import guided_logits
from hypersteer.hypernet.network import new_hypernet
from hypersteer.lm.chat import collate
from hypersteer.lm.upper_blocks import upper_blocks
from hypersteer.training.forward import Steered, plain_losses, steered_losses, teacher_logits

DEFAULT_SITE = Site(1)
VARIANTS = ["cross-attention", "in-context", "no-context"]
ROWS = [  # base prompt, response, right and wrong steering prompt: all of different lengths
    ("Tell me all?", "owl owls", "speak of owls", "figs"),
    ("Why", "a fig", "figs", "speak at length of yaks"),
    ("Go on and on and on", "z", "jam", "owls"),
]


def make_setup(lm, variant="cross-attention", site=DEFAULT_SITE, scope="all"):
    """A hypernetwork whose every weight, the zero-initialised ones too, takes part."""
    config = HypernetConfig(variant=variant, blocks=2)
    network = new_hypernet(lm, config, site, seed=0)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return Steered(lm, network, config, [site], scope)


def tokens(lm):
    prompts = [lm.chat.prompt(prompt) for prompt, *_ in ROWS]
    responses = [lm.chat.response(response, ends=True) for _, response, *_ in ROWS]
    right = [lm.chat.text(text) for _, _, text, _ in ROWS]
    wrong = [lm.chat.text(text) for *_, text in ROWS]
    return prompts, responses, right, wrong


@contextmanager
def hooked(module, function):
    """A hook placed by hand that replaces the module's (first) output."""

    def hook(_module, _args, output):
        if isinstance(output, tuple):
            return (function(output[0]), *output[1:])
        return function(output)

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def module_at(lm, site):
    block = lm.model.model.layers[site.layer]
    return {"residual": block, "attention": block.self_attn, "mlp": block.mlp}[site.kind]


def touched(scope, prefix, prompt, total):
    """Positions of one unpadded row that a scope touches, spelled out."""
    return {
        "all": range(prefix, total),
        "everywhere": range(total),
        "prompt": range(prefix, prompt),
        "response": range(prompt, total),
        "last_prompt": [prompt - 1],
        "prompt_ends": [prefix, prefix + 1, prompt - 2, prompt - 1],
    }[scope]


def alone(setup, prompt, response, steering=None):
    """Hugging Face's own loss of one row, with the row's vector added by a hand-placed hook."""
    lm = setup.lm
    ids = torch.tensor([[*prompt.ids, *response]])
    labels = ids.clone()
    labels[0, : len(prompt.ids)] = -100
    if steering is None:
        return lm.model(input_ids=ids, labels=labels).loss
    seen = []

    def keep(hidden):
        seen.append(hidden)
        return hidden

    with hooked(module_at(lm, setup.sites[0]), keep), torch.no_grad():
        lm.model(input_ids=ids[:, : len(prompt.ids)])
    spans = collate([prompt], pad_id=0).spans
    vector = tiny.write_vectors(
        setup.network, lm, setup.config, [steering], [prompt], seen[0], spans
    )[0]
    marks = torch.zeros(ids.shape[1], 1)
    marks[list(touched(setup.scope, prompt.prefix, len(prompt.ids), ids.shape[1]))] = 1
    with hooked(module_at(lm, setup.sites[0]), lambda hidden: hidden + vector * marks):
        return lm.model(input_ids=ids, labels=labels).loss


def by_hand(setup, steering):
    prompts, responses, *_ = tokens(setup.lm)
    losses = [
        [alone(setup, p, r, s) for p, r, s in zip(prompts, responses, one, strict=True)]
        for one in steering
    ]
    return torch.stack([torch.stack(row) for row in losses])


def check_steered(setup, copies=2):
    prompts, responses, right, wrong = tokens(setup.lm)
    steering = [right, wrong][:copies]
    ours = steered_losses(setup, prompts, responses, steering)
    expected = by_hand(setup, steering)
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-5)
    plain = plain_losses(setup.lm, prompts, responses)
    assert ((ours - plain).abs() > 1e-2).all()  # the vectors are felt, or nothing was checked
    return ours, expected


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("copies", [1, 2])
def test_steered_losses_equal_rows_alone(lm, variant, copies):
    check_steered(make_setup(lm, variant), copies)


@pytest.mark.parametrize(
    "scope", ["everywhere", "prompt", "response", "last_prompt", "prompt_ends"]
)
def test_steered_losses_in_every_scope(lm, scope):
    check_steered(make_setup(lm, scope=scope))


@pytest.mark.parametrize("site", [Site(2, "attention"), Site(1, "mlp"), Site(0), Site(3)], ids=str)
def test_steered_losses_at_every_site(lm, site):
    check_steered(make_setup(lm, site=site))


def test_gradients_equal_rows_alone(lm):
    setup = make_setup(lm)
    ours, expected = check_steered(setup)
    parameters = list(setup.network.parameters())
    weights = torch.tensor([[1.0, 2.0, -1.0], [0.5, -3.0, 1.0]])
    mine = torch.autograd.grad((ours * weights).sum(), parameters)
    theirs = torch.autograd.grad((expected * weights).sum(), parameters)
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
    assert all(bool(gradient.any()) for gradient in mine)


def test_plain_losses_equal_hugging_face(lm):
    prompts, responses, *_ = tokens(lm)
    ours = plain_losses(lm, prompts, responses)
    setup = make_setup(lm)
    expected = [alone(setup, p, r) for p, r in zip(prompts, responses, strict=True)]
    torch.testing.assert_close(ours, torch.stack(expected), atol=1e-5, rtol=1e-5)


def test_one_row_and_several_copies(lm):
    """With one row, what has a leading dimension of 1 must not be taken for a batch of one."""
    setup = make_setup(lm)
    prompts, responses, right, wrong = tokens(lm)
    ours = steered_losses(setup, prompts[:1], responses[:1], [right[:1], wrong[:1], right[:1]])
    torch.testing.assert_close(ours[:, :1], by_hand(setup, [right, wrong, right])[:, :1])


def test_head_runs_on_response_tokens_only(lm):
    setup = make_setup(lm)
    prompts, responses, right, wrong = tokens(lm)
    wanted = sum(len(response) for response in responses)
    shapes = []
    head = lm.model.get_output_embeddings()
    handle = head.register_forward_hook(lambda _m, _a, logits: shapes.append(logits.shape[:-1]))
    try:
        plain_losses(lm, prompts, responses)
        steered_losses(setup, prompts, responses, [right])
        steered_losses(setup, prompts, responses, [right, wrong])
    finally:
        handle.remove()
    assert [shape.numel() for shape in shapes] == [wanted, wanted, 2 * wanted]


@pytest.mark.parametrize("layer", [0, 1, 3])
def test_copies_run_above_the_site_only(lm, layer):
    """Every block runs once: on B rows without gradient up to the site, on K * B rows above."""
    setup = make_setup(lm, site=Site(layer))
    prompts, responses, right, wrong = tokens(lm)
    assert upper_blocks(lm, layer + 1) or layer + 1 == lm.depth  # tried once, before it is used
    seen: list[tuple[int, int, bool]] = []
    handles = [
        block.register_forward_hook(
            lambda _m, _a, out, number=number: seen.append(
                (number, len(out if torch.is_tensor(out) else out[0]), out[0].requires_grad)
            )
        )
        for number, block in enumerate(lm.blocks)
    ]
    try:
        steered_losses(setup, prompts, responses, [right, wrong, right])
    finally:
        for handle in handles:
            handle.remove()
    assert seen == [
        (number, 3 if number <= layer else 9, number > layer) for number in range(lm.depth)
    ]


def test_gradients_reach_the_hypernetwork_only(lm):
    setup = make_setup(lm)
    before = {name: value.clone() for name, value in lm.model.state_dict().items()}
    prompts, responses, right, wrong = tokens(lm)
    steered_losses(setup, prompts, responses, [right, wrong]).sum().backward()
    assert all(bool(p.grad.abs().sum() > 0) for p in setup.network.parameters())
    assert all(p.grad is None and not p.requires_grad for p in lm.model.parameters())
    for name, value in lm.model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_hooks_are_gone_afterwards(lm):
    setup = make_setup(lm)
    prompts, responses, right, wrong = tokens(lm)
    before = plain_losses(lm, prompts, responses)
    steered_losses(setup, prompts, responses, [right, wrong])

    def fail(*_args):
        raise RuntimeError("in the hypernetwork")

    handle = setup.network.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="in the hypernetwork"):
        steered_losses(setup, prompts, responses, [right, wrong])
    handle.remove()
    assert torch.equal(plain_losses(lm, prompts, responses), before)
    assert not any(
        module._forward_hooks or module._forward_pre_hooks for module in lm.model.modules()
    )


def test_losses_do_not_depend_on_neighbours(lm):
    setup = make_setup(lm)
    prompts, responses, right, _ = tokens(lm)
    whole = steered_losses(setup, prompts, responses, [right])[0]
    turned = steered_losses(setup, prompts[::-1], responses[::-1], [right[::-1]])[0]
    torch.testing.assert_close(turned.flip(0), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("guidance", [0.0, 0.7])
def test_distillation_comes_close_to_the_prompted_model(guidance):
    """Divergence by hand: every row alone, prompted and unprompted, against its steered logits."""
    lm = tiny.lm_of("llama")
    setup = make_setup(lm)
    prompts, responses, right, _ = tokens(lm)
    prompted = [lm.chat.prompt(f"{text}, and now {prompt}") for prompt, _, text, _ in ROWS]
    teacher = teacher_logits(lm, prompted, prompts, responses, guidance)
    ours = steered_losses(setup, prompts, responses, [right], teacher)[0]

    def logits(prompt, response):
        ids = torch.tensor([[*prompt.ids, *response]])
        with torch.no_grad():
            return lm.model(ids).logits[0, len(prompt.ids) - 1 : -1]

    for row, (own, prompt, response) in enumerate(zip(prompted, prompts, responses, strict=True)):
        wanted = logits(own, response)
        if guidance:
            wanted = guided_logits(wanted, logits(prompt, response), guidance)
        wanted = wanted.double().softmax(-1)
        steered = steered_logits(setup, prompt, response, right[row]).double().log_softmax(-1)
        terms = torch.where(wanted > 0, wanted * (wanted.log() - steered), 0.0)
        torch.testing.assert_close(ours[row].double(), terms.sum(-1).mean(), atol=1e-4, rtol=1e-4)


def steered_logits(setup, prompt, response, steering):
    """Logits of one row's response tokens under its vector, added by a hand-placed hook."""
    kept = []
    head = setup.lm.model.lm_head.register_forward_hook(lambda _m, _a, out: kept.append(out))
    with torch.no_grad():
        alone(setup, prompt, response, steering)
    head.remove()
    return kept[-1][0, len(prompt.ids) - 1 : -1]


@pytest.mark.parametrize("copies", [1, 2])
def test_each_row_acts_at_its_own_strength(lm, copies):
    """Vectors at half the strength are vectors of half the size; at strength 0 nothing acts."""
    setup = make_setup(lm)
    prompts, responses, right, wrong = tokens(lm)
    steering = [right, wrong][:copies]
    strengths = [(0.5, 0.0, -1.0)[row % 3] for row in range(len(prompts))]
    found = steered_losses(setup, prompts, responses, steering, strengths=strengths)
    for row, strength in enumerate(strengths):
        scale = setup.network.get_buffer("scale")
        before = scale.clone()
        scale.mul_(strength)
        expected = torch.stack(
            [alone(setup, prompts[row], responses[row], one[row]) for one in steering]
        )
        scale.copy_(before)
        torch.testing.assert_close(found[:, row], expected, atol=1e-4, rtol=1e-5)
