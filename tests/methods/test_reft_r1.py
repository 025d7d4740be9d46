"""ReFT-r1 against a plain loop written from the recipe, and on a model whose answer is known."""

import copy
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import tiny
from hypersteer.concepts import Concept
from hypersteer.edits.sites import Site
from hypersteer.errors import ConfigError, DataError, TrainingError
from hypersteer.learning.values import ConceptExamples
from hypersteer.lm.base import BaseLM
from hypersteer.methods.random import unit_vectors
from hypersteer.methods.reft_r1 import ReftR1, change
from methods.cases import Untouched, alone, concepts_of, example, hooked

SHORT = ReftR1(batch_size=3, epochs=2, top_k=4, sparsity=0.5, learning_rate=0.03)


def row_loss(lm, site, one, w, top_k):
    """Hugging Face's loss of an unpadded row under the edit, and the penalty, spelled out."""
    ids, prefix, end = alone(lm, one)
    labels = ids.clone()
    labels[0, :end] = -100
    penalties = []

    def edit(hidden):
        latents = [max(float(h @ w.detach()), 0.0) for h in hidden[0, prefix:]]
        order = sorted(range(len(latents)), key=lambda i: -latents[i])
        top, rest = order[:top_k], order[top_k:]
        live = [torch.relu(h @ w) for h in hidden[0, prefix:]]
        strength = sum(live[i] for i in top) / len(top)
        penalties.append(sum((live[i] for i in rest), torch.zeros(())) / len(latents))
        after = (torch.arange(hidden.shape[1]) >= prefix)[:, None]
        return hidden + after * strength * w

    with hooked(tiny.module_at(lm, site), edit):
        loss = lm.model(input_ids=ids, labels=labels).loss
    return loss, penalties[0]


def trained_by_the_recipe(lm, site, entry, recipe):
    """One concept, row by row, with nothing shared; AdamW spelled out."""
    rows = [*entry.positives, *entry.negatives]
    w = torch.full((tiny.WIDTH,), recipe.start, requires_grad=True)
    first, second = torch.zeros(2, tiny.WIDTH)
    per_epoch = math.ceil(len(rows) / recipe.batch_size)
    total = per_epoch * recipe.epochs
    for step in range(total):
        epoch, within = divmod(step, per_epoch)
        shuffle = np.random.default_rng([recipe.seed, entry.concept.id, epoch])
        order = shuffle.permutation(len(rows))
        chosen = order[within * recipe.batch_size :][: recipe.batch_size]
        loss = torch.zeros(())
        for index in chosen:
            ce, penalty = row_loss(lm, site, rows[index], w, recipe.top_k)
            loss = loss + (ce + recipe.sparsity * step / total * penalty) / len(chosen)
        (gradient,) = torch.autograd.grad(loss, w)
        gradient = gradient * min(1.0, recipe.max_norm / float(gradient.norm()))
        unit = w.detach() / w.detach().norm()
        gradient = gradient - (gradient @ unit) * unit
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        corrected = first / (1 - 0.9 ** (step + 1))
        scale = (second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
        rate = recipe.learning_rate * (1 - step / total)
        w = (unit - rate * corrected / scale).requires_grad_()
    return F.normalize(w.detach(), dim=0)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_all_at_once_equals_the_recipe_one_after_another(tiny_llama, kind):
    """Concepts of different numbers of rows, so that they end at different steps."""
    site, concepts = tiny.site_of(tiny_llama, kind), concepts_of(5, 2, 8)
    assert len({SHORT.steps(len(e.positives) + len(e.negatives)) for e in concepts}) == 3
    with Untouched(tiny_llama):
        found = SHORT.fit(tiny_llama, site, concepts).tensors["directions"]
    for entry, direction in zip(concepts, found, strict=True):
        expected = trained_by_the_recipe(tiny_llama, site, entry, SHORT)
        torch.testing.assert_close(direction, expected, atol=1e-4, rtol=0)
        assert float(direction @ torch.full_like(direction, tiny.WIDTH**-0.5)) < 0.99  # it moved


@pytest.mark.parametrize(
    "limits", [{}, {"batch_tokens": 50}, {"cache_bytes": 0}, {"cache_bytes": 20_000}]
)
def test_neighbours_batches_and_cache_change_nothing(lm, limits):
    site, concepts = tiny.site_of(lm), concepts_of(4, 2)
    recipe = ReftR1(batch_size=3, epochs=2, **limits)
    together = recipe.fit(lm, site, concepts).tensors
    for number in range(2):
        apart = ReftR1(batch_size=3, epochs=2).fit(lm, site, concepts[number : number + 1])
        for name in ("directions", "activations"):
            expected = apart.tensors[name][0]
            torch.testing.assert_close(together[name][number], expected, atol=1e-4, rtol=1e-4)


def test_change_pools_over_marked_tokens_only():
    hidden = torch.tensor(
        [[[9.0], [1.0], [4.0], [-2.0], [2.0]], [[9.0], [3.0], [9.0], [9.0], [9.0]]]
    )
    marks = torch.tensor([[False, True, True, True, True], [False, True, False, False, False]])
    changed = change(hidden, torch.tensor([[1.0], [2.0]]), marks, top_k=2)
    # Row 0: latents 1 4 0 2, of which 4 and 2 give 3, and 1 is left of 4 tokens. Row 1: 6 alone.
    assert changed.hidden[0, :, 0].tolist() == [9.0, 4.0, 7.0, 1.0, 5.0]
    assert changed.hidden[1, :, 0].tolist() == [9.0, 15.0, 9.0, 9.0, 9.0]
    assert changed.penalty.tolist() == [0.25, 0.0]


def test_a_dead_start_is_turned_around(tiny_llama):
    """States moved far to one side have no positive latent on the other: nothing to learn from."""
    site, concepts = tiny.site_of(tiny_llama), concepts_of(3)
    away = torch.full((tiny.WIDTH,), tiny.WIDTH**-0.5)
    with hooked(tiny.module_at(tiny_llama, site), lambda hidden: hidden - 200 * away):
        learned = ReftR1(epochs=1).fit(tiny_llama, site, concepts)
    (direction,) = learned.tensors["directions"]
    assert -1 < float(direction @ away) < -0.9
    assert float(learned.tensors["activations"]) > 0


def lasting_ids(lm):
    """Ids that stand in no prompt below but for its markers, and outlive decoding alone."""
    used = {i for n in range(24) for i in lm.chat.prompt(f"Tell me {n}").ids}
    ids = [i for i in range(4, tiny.VOCAB) if lm.chat.response(lm.chat.decode([i])) == [i]]
    return [i for i in ids if i not in used]


def planted_lm(markers, words, directions):
    """A model in which a concept is a direction: markers in the prompt write it into the stream
    (embedding), and states further along it make the concept's words more likely (head).

    Blocks that add little leave the stream as it is. The words are the concept's only by the head,
    so nothing but moving the states along the direction makes them likelier; it is where the
    states of positives differ from others. All else is random: the direction is what both parts
    of ReFT-r1, the loss and the latents, are after.
    """
    model = copy.deepcopy(tiny.lm_of("llama").model)
    with torch.no_grad():
        for block in model.model.layers:
            block.self_attn.o_proj.weight.mul_(0.1)
            block.mlp.down_proj.weight.mul_(0.1)
        head, table = model.lm_head.weight.mul_(0.25), model.model.embed_tokens.weight
        for marks, said, direction in zip(markers, words, directions, strict=False):
            table[marks] += 2 * direction
            head[said] += 0.5 * direction - head[said].mean(0)
    return BaseLM.of(model, tiny.tokenizer(), name="llama")


def planted_rows(lm, markers, words, concept_id):
    """Rows of ten random markers in the prompt and ten random words in the response."""
    generator = torch.Generator().manual_seed(concept_id + 1)

    def some(ids):
        while True:
            picked = [ids[i] for i in torch.randint(0, len(ids), (10,), generator=generator)]
            text = lm.chat.decode(picked)
            if lm.chat.response(text) == picked:  # the text stands for just these tokens
                return text

    return [
        example(f"Tell me {n}{some(markers)}", some(words), concept_id, False) for n in range(24)
    ]


@pytest.mark.parametrize("seed", [2, 3, 4])
def test_planted_directions_are_recovered(seed):
    ids = lasting_ids(tiny.lm_of("llama"))
    words, markers = [ids[:40], ids[40:80], ids[80:110]], [ids[110:118], ids[118:126], ids[126:]]
    directions = unit_vectors([0, 1], tiny.WIDTH, seed)
    lm = planted_lm(markers, words, directions)
    negatives = planted_rows(lm, markers[2], words[2], -1)
    concepts = [
        ConceptExamples(
            Concept(id=number, text="planted"),
            planted_rows(lm, markers[number], words[number], number),
            negatives,
        )
        for number in range(2)
    ]
    recipe = ReftR1(epochs=6, learning_rate=0.05)  # entries of short vectors have far to go
    found = recipe.fit(lm, Site(2), concepts).tensors["directions"]
    nothing = planted_lm(markers, words, 0 * directions)
    control = recipe.fit(nothing, Site(2), concepts).tensors["directions"]
    random = unit_vectors([0, 1], tiny.WIDTH, seed + 100)
    assert (F.cosine_similarity(found, directions) > 0.9).all()
    assert (F.cosine_similarity(control, directions).abs() < 0.5).all()
    assert (F.cosine_similarity(random, directions).abs() < 0.5).all()


def test_cost_counts_what_was_run(tiny_llama):
    site, (entry,) = tiny.site_of(tiny_llama), concepts_of(2, negatives=1)
    ReftR1(epochs=1).fit(tiny_llama, site, [entry])  # whether blocks can be left out, tried once
    steps = []
    with tiny.counting_flops() as counter:
        cost = ReftR1(epochs=3).fit(tiny_llama, site, [entry], done=steps.append).cost
    assert cost.flops == pytest.approx(counter.get_total_flops(), rel=0.005)
    assert cost.parameters == tiny.WIDTH + 1
    assert steps == [1 / 3] * 3
    with tiny.counting_flops() as counter:  # states are made for start, three epochs and strength
        uncached = ReftR1(epochs=3, cache_bytes=0).fit(tiny_llama, site, [entry]).cost
    assert cost.flops < uncached.flops
    assert uncached.flops == pytest.approx(counter.get_total_flops(), rel=0.005)
    sub_layer, several = tiny.site_of(tiny_llama, "attention"), concepts_of(3, 2)
    with tiny.counting_flops() as counter:  # the blocks below run in every step
        cost = ReftR1(epochs=2).fit(tiny_llama, sub_layer, several).cost
    assert 2 * cost.flops == pytest.approx(counter.get_total_flops(), rel=0.005)


def test_bad_settings_and_rows(tiny_llama):
    site, (entry,) = tiny.site_of(tiny_llama), concepts_of(2)
    with pytest.raises(DataError, match=r"ReFT-r1 cannot learn concept 7.*positive"):
        ReftR1().fit(tiny_llama, site, [entry._replace(positives=[])])
    for name in ("batch_size", "epochs", "learning_rate", "top_k", "max_norm", "start"):
        with pytest.raises(ConfigError, match=f"{name} 0"):
            ReftR1(**{name: 0})
    with pytest.raises(ConfigError, match="sparsity -1"):
        ReftR1(sparsity=-1)
    with pytest.raises(ConfigError, match="batch_tokens 0"):
        ReftR1(batch_tokens=0)
    with pytest.raises(TrainingError, match=r"concept 7 .* no longer finite"):
        ReftR1(learning_rate=math.inf, epochs=1).fit(tiny_llama, site, [entry])


def test_positives_alone_will_do(tiny_llama):
    (entry,) = concepts_of(3, negatives=0)
    learned = ReftR1(epochs=1).fit(tiny_llama, tiny.site_of(tiny_llama), [entry])
    assert learned.tensors["directions"].isfinite().all()
