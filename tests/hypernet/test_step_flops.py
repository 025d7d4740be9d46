"""Operations of training steps, against torch's own counter around real ones."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

import tiny
from hypersteer.config import HypernetConfig, LossConfig, OptimConfig, SiteConfig, TrainConfig
from hypersteer.data.batches import TrainingRow
from hypersteer.hypernet.flops import Flops
from hypersteer.hypernet.network import new_hypernet
from hypersteer.hypernet.step_flops import StepShape, row_lengths, run_flops, step_flops
from hypersteer.lm.base import BaseLM
from hypersteer.lm.messages import prompted
from hypersteer.training.forward import Steered
from hypersteer.training.objectives import read_targets, step_losses
from hypersteer.training.own_answers import OwnAnswers

TEXTS = [  # base prompt, response, right and wrong steering prompt: all of different lengths
    ("Tell me all?", "owl owls hoot and fly by night", "speak of owls", "figs"),
    ("Why", "a fig is a fruit", "figs", "speak at length of yaks"),
    ("Go on and on and on", "jam, jam and more of it", "jam", "owls"),
    ("What is it that you like?", "yaks", "speak at length of yaks", "jam"),
]
OWN = ["nothing much", "because of the weather today", "no", "the sea"]


def rows_of(lm, *, negated=0, contrasted=(0, 1, 2, 3)):
    """Rows of all lengths, the first of them negated, and what the base LM answers to each."""
    chat, answers = lm.chat, {}
    rows = []
    for number, (prompt, response, right, wrong) in enumerate(TEXTS):
        plain = chat.prompt(prompt)
        answers[tuple(plain.ids)] = chat.response(OWN[number], ends=True)
        rows.append(
            TrainingRow(
                plain,
                chat.response(response, ends=True),
                chat.text(right),
                chat.text(wrong),
                number,
                plain,
                chat.prompt(prompted(prompt, right)),
                negated=number < negated,
                contrast=float(number >= negated and number in contrasted),
            )
        )
    keys = [
        (key, tuple(response))
        for row in rows
        for key in [tuple(row.plain.ids)]
        for response in (row.response, answers[key])
    ]
    return rows, OwnAnswers(answers, dict.fromkeys(keys, -9.0))


def measured(config, lm, rows, own):
    """What torch counts in a step, forward and back, all parts of it."""
    site = lm.site(config.site.layer, config.site.kind)
    network = new_hypernet(lm, config.hypernet, site, seed=0)
    setup = Steered(lm, network, config.hypernet, network.sites, config.site.scope)
    targets = read_targets(config.loss.targets, config.hypernet, lm.width, len(TEXTS))
    size = len(rows) // config.optim.accumulation
    step_losses(setup, config.loss, rows[:size], targets, own)  # views of the base LM are made once
    with tiny.counting_flops() as counter:
        for start in range(0, len(rows), size):
            step_losses(
                setup, config.loss, rows[start : start + size], targets, own
            ).total.backward()
    return counter.get_total_flops()


def counted(config, lm, rows, own):
    lengths = [row_lengths(row, own.answer(row)) for row in rows]
    return step_flops(StepShape.of(config, lm), lengths)


def check(lm, config, *, negated=0, contrasted=(0, 1, 2, 3), within=0.005):
    rows, own = rows_of(lm, negated=negated, contrasted=contrasted)
    found = counted(config, lm, rows, own)
    assert found.total == pytest.approx(measured(config, lm, rows, own), rel=within)
    return found


def settings(*, layer=1, kind="residual", hypernet=None, loss=None, accumulation=1):
    return TrainConfig(
        site=SiteConfig(layer=layer, kind=kind),
        hypernet=HypernetConfig(**{"blocks": 2, **(hypernet or {})}),
        loss=LossConfig(**(loss or {})),
        optim=OptimConfig(batch_size=4, accumulation=accumulation),
    )


OBJECTIVES = {
    "plain": {},
    "contrast": {"contrast": 1.0},
    "contrast on some": {"contrast": 1.0, "contrast_share": 0.4},
    "diversity": {"diversity": 0.1},
    "negated": {"negated": 0.5},
    "negated contrast": {"negated": 0.5, "contrast": 1.0},
    "preference": {"objective": "preference"},
    "distillation": {"objective": "distillation"},
    "guided contrast": {"objective": "distillation", "guidance": 1.0, "contrast": 1.0},
    "activations": {"objective": "activations", "guidance": 1.0},
}
EDITS = {
    "vector": {},
    "strength": {"learned_strength": True},
    "low-rank": {"edit": "low-rank", "rank": 3},
    "gated": {"edit": "gated", "rank": 2, "head_width": 24},
    "per-token": {"edit": "per-token"},
    "per-token recalling": {"edit": "per-token", "self_attention": True, "cross_heads": 2},
    "prior": {"prior": "activation"},
}
HEADS = {"cross_heads": 6, "cross_key_heads": 2, "cross_head_width": 10}


@pytest.mark.parametrize("variant", tiny.VARIANTS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_and_variant(tiny_llama, objective, variant):
    config = settings(hypernet={"variant": variant}, loss=OBJECTIVES[objective])
    negated = 2 if objective.startswith("negated") or objective == "preference" else 0
    contrasted = (0, 2) if objective == "contrast on some" else (0, 1, 2, 3)
    check(tiny_llama, config, negated=negated, contrasted=contrasted)


@pytest.mark.parametrize("contrasted", [(), (0,), (1, 3), (0, 1, 2, 3)])
@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_parts_with_few_contrasted_rows_or_none(tiny_llama, contrasted, accumulation):
    """Both kinds of rows run in every part; where one is missing, another row stands in."""
    config = settings(loss=OBJECTIVES["contrast on some"], accumulation=accumulation)
    check(tiny_llama, config, contrasted=contrasted)


@pytest.mark.parametrize("variant", tiny.VARIANTS)
@pytest.mark.parametrize("sites", [(), (2, 3)])
@pytest.mark.parametrize("edit", EDITS)
def test_every_kind_of_edit(tiny_llama, edit, sites, variant):
    hypernet = {**EDITS[edit], "variant": variant, "more_layers": sites}
    check(tiny_llama, settings(layer=1, hypernet=hypernet, loss={"contrast": 1.0}))


@pytest.mark.parametrize("objective", ["plain", "contrast", "activations"])
@pytest.mark.parametrize("layer", [0, 2, 3])
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_every_site(tiny_llama, kind, layer, objective):
    check(tiny_llama, settings(layer=layer, kind=kind, loss=OBJECTIVES[objective]))


def test_sites_of_sub_layers_above(tiny_llama):
    for kind in ("attention", "mlp"):
        hypernet = {"edit": "low-rank", "more_layers": (3,)}
        check(tiny_llama, settings(kind=kind, hypernet=hypernet, loss=OBJECTIVES["activations"]))


@pytest.mark.parametrize("family", tiny.EVERY)
def test_every_family(family):
    """Within 2 %: the counter sees the rotations' angles, and in blocks that begin without a norm
    that the first products need no gradient for what they read."""
    lm = tiny.lm_of(family)
    if family == "mixtral":  # the counter does not know products in groups
        model = tiny.model_of(family)
        model.set_experts_implementation("eager")
        lm = BaseLM.of(model, tiny.tokenizer())
    check(lm, settings(loss={"contrast": 1.0}), within=0.02)
    check(lm, settings(hypernet={"variant": "no-context"}), within=0.02)


def test_heads_of_another_shape(tiny_llama):
    check(tiny_llama, settings(hypernet=HEADS, loss={"contrast": 1.0}))


def test_parts_of_a_step(tiny_llama):
    """Parts are padded by themselves, and their operations add up."""
    config = settings(loss={"contrast": 1.0}, accumulation=2)
    found = check(tiny_llama, config)
    rows, own = rows_of(tiny_llama)
    lengths = [row_lengths(row, own.answer(row)) for row in rows]
    whole = StepShape.of(settings(loss={"contrast": 1.0}), tiny_llama)
    assert found == run_flops(whole, [lengths[:2], lengths[2:]])
    assert found + Flops() == found
    assert (found * 3).total == 3 * found.total


def test_reconstruction(tiny_llama, tmp_path):
    save_file({"vectors": torch.randn(len(TEXTS), tiny.WIDTH)}, tmp_path / "targets.safetensors")
    loss = {"objective": "reconstruction", "targets": str(tmp_path / "targets.safetensors")}
    found = check(tiny_llama, settings(hypernet={"variant": "no-context"}, loss=loss))
    assert found.total == found.hypernet


def test_only_what_a_part_depends_on_changes_it(tiny_llama):
    rows, own = rows_of(tiny_llama)
    plain = counted(settings(), tiny_llama, rows, own)
    higher = counted(settings(layer=2), tiny_llama, rows, own)
    assert higher.hypernet == plain.hypernet
    assert higher.head == plain.head
    assert higher.base_lm_below == plain.base_lm_below * 3 // 2
    taught = counted(settings(loss={"objective": "distillation"}), tiny_llama, rows, own)
    assert taught.teacher > 0
    assert replace(taught, teacher=0) == plain
