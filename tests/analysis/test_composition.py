"""Two edits at once and strengths, against calls of the model by hand."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch.nn import functional as F

import tiny
from hypersteer.analysis.composition import (
    JOINT,
    SPLIT,
    STRENGTHS,
    SUM,
    Composed,
    Reading,
    composed,
    edit_cosines,
    rank_correlation,
    swing,
)
from hypersteer.analysis.composition_figures import draw_composed, levels_of
from hypersteer.analysis.composition_section import composition_section
from hypersteer.analysis.section import write_section
from hypersteer.config.analysis import AnalysisConfig
from hypersteer.edits.edit_set import EditSet

CONFIG = AnalysisConfig(max_new_tokens=6, concepts=2)


def by_hand(lm, prompt, response, edits, strength=1.0):
    """Mean loss of an answer's first tokens with the edits around a plain call of the model."""
    ids = lm.chat.prompt(prompt).ids
    answer = lm.chat.response(response.response, ends=response.complete)[: CONFIG.max_new_tokens]
    rows = torch.tensor([[*ids, *answer]])
    with torch.no_grad(), lm.edited(edits=edits, strength=strength):
        logits = lm.model(rows).logits[0, len(ids) - 1 : -1]
    return F.cross_entropy(logits, torch.tensor(answer)).item()


def rows_of(reading, concept):
    return list(zip(reading.prompts(concept), reading._rows[concept], strict=True))


@pytest.fixture(params=["vector", "gated at two sites"])
def subject(request, subject_of):
    lm = tiny.lm_of("llama")
    if request.param == "vector":
        return subject_of(tiny.steerer_of(lm, "no-context"), concepts=3)
    return subject_of(tiny.steerer_of(lm, "no-context", edit="gated", more_layers=(2,)), concepts=3)


def test_every_form_is_what_the_edits_do_together(subject):
    steerer, lm = subject.steerer, subject.steerer.lm
    reading = Reading(subject, CONFIG)
    found = composed(subject, CONFIG)
    assert len(found) == 6
    texts = [concept.text for concept in subject.concepts]
    for one in found:
        first, second = sorted((one.own, one.other), key=texts.index)
        a, b = steerer.edit(first), steerer.edit(second)
        rows = rows_of(reading, one.own)

        def loss(edits, rows=rows):
            return np.mean([by_hand(lm, prompt, row, edits) for prompt, row in rows])

        parts = [[*x] if isinstance(x, EditSet) else [x] for x in (a, b)]
        own, other = steerer.edit(one.own), steerer.edit(one.other)
        assert one.alone == pytest.approx(loss([own]), abs=1e-4)
        assert one.beside == pytest.approx(loss([other]), abs=1e-4)
        assert one.plain == pytest.approx(loss([]), abs=1e-4)
        assert one.forms[SUM] == pytest.approx(loss([a, b]), abs=1e-4)
        assert one.forms[JOINT] == pytest.approx(
            loss([steerer.edit(f"{first}; {second}")]), abs=1e-4
        )
        if len(parts[0]) > 1:
            assert one.forms[SPLIT] == pytest.approx(loss([parts[0][0], parts[1][1]]), abs=1e-4)
        assert one.interference(SUM) == pytest.approx(one.forms[SUM] - one.alone)


def test_an_edit_moves_to_the_next_block_where_there_is_one_site(subject_of):
    steerer = tiny.steerer_of(tiny.lm_of("llama"), "no-context")
    subject = subject_of(steerer, concepts=2)
    reading, lm = Reading(subject, CONFIG), steerer.lm
    a, b = (steerer.edit(concept.text) for concept in subject.concepts)
    one = composed(subject, CONFIG)[0]
    rows = rows_of(reading, one.own)
    later = b.site.layer + 1
    losses = []
    for prompt, row in rows:
        handle = lm.blocks[later].register_forward_hook(added(lm, prompt, b.vector))
        losses.append(by_hand(lm, prompt, row, [a]))
        handle.remove()
    assert one.forms[SPLIT] == pytest.approx(np.mean(losses), abs=1e-4)


@pytest.mark.parametrize("more", [(), (2,)])
def test_per_token_edits_are_added_and_joined_but_not_split(subject_of, more):
    lm = tiny.lm_of("llama")
    steerer = tiny.steerer_of(lm, "no-context", edit="per-token", more_layers=more)
    subject = subject_of(steerer, concepts=2)
    found, losses = composed(subject, CONFIG), swing(subject, CONFIG).losses
    assert [set(one.forms) for one in found] == [{SUM, JOINT}] * 2
    for number, one in enumerate(found):
        assert one.alone == pytest.approx(losses[number, STRENGTHS.index(1.0)], abs=1e-5)
        assert one.forms[SUM] != pytest.approx(one.alone, abs=1e-5)


def added(lm, prompt, vector):
    """Adds a vector to all tokens behind the chat prefix."""
    first = lm.chat.prompt(prompt).prefix

    def hook(_module, _given, out):
        hidden = (out[0] if isinstance(out, tuple) else out).clone()
        hidden[:, first:] += vector
        return (hidden, *out[1:]) if isinstance(out, tuple) else hidden

    return hook


def test_strengths_are_those_of_the_edit(subject):
    steerer, lm = subject.steerer, subject.steerer.lm
    found, reading = swing(subject, CONFIG), Reading(subject, CONFIG)
    assert found.losses.shape == (3, len(STRENGTHS))
    text = subject.concepts[1].text
    for place, strength in enumerate(STRENGTHS):
        each = [
            by_hand(lm, prompt, row, [steerer.edit(text)] if strength else [], strength or 1.0)
            for prompt, row in rows_of(reading, text)
        ]
        assert found.losses[1, place] == pytest.approx(np.mean(each), abs=1e-4)
    assert (found.effects[:, STRENGTHS.index(0.0)] == 0).all()


def test_cosines_are_those_of_the_vectors(subject_of):
    subject = subject_of(tiny.steerer_of(tiny.lm_of("llama"), "no-context"), concepts=3)
    vectors = [subject.steerer.edit(concept.text).vector for concept in subject.concepts]
    for i, one in enumerate(vectors):
        for j, two in enumerate(vectors):
            wanted = F.cosine_similarity(one, two, dim=0).item()
            assert edit_cosines(subject)[i, j] == pytest.approx(wanted, abs=1e-4)


def test_the_rank_correlation_is_spearmans():
    random = np.random.default_rng(0)
    one = random.integers(0, 6, 30).tolist()  # with equal values
    two = (np.array(one) + random.normal(0, 3, 30)).tolist()
    found, wanted = rank_correlation(one, two), spearmanr(one, two)
    assert found.rho == pytest.approx(wanted.statistic)
    assert found.p == pytest.approx(wanted.pvalue, abs=0.02)
    assert rank_correlation([1, 1, 1], [1, 2, 3]) == (0.0, 1.0)


def made_up(interference):
    """Pairs whose interference is a function of their cosine."""
    return [
        Composed(
            own=f"c{i % 4}", other=f"c{(i + 1) % 4}", cosine=i / 12, plain=4.0, alone=3.0,
            beside=3.9, forms={SUM: 3.0 + interference(i / 12), JOINT: 3.5},
        )
        for i in range(12)
    ]  # fmt: skip


def test_the_finding_says_what_is_left_and_whether_alike_edits_interfere():
    finding, _, _ = draw_composed("x", made_up(lambda cosine: 0.2 + cosine / 10))
    assert "75 % (sum of edits), 50 % (one joint text) of its effect of 1.00 nats" in finding
    assert finding.endswith("edits interfere more where they are alike")
    assert "at two sites" not in finding
    finding, _, _ = draw_composed("x", made_up(lambda cosine: 0.2 - cosine / 10))
    assert finding.endswith("edits interfere less where they are alike")
    finding, _, _ = draw_composed("x", made_up(lambda cosine: (cosine * 7) % 1))
    assert finding.endswith("nothing to do with the cosine that could be told")


def test_levels_are_means_over_concepts():
    levels = levels_of(made_up(lambda cosine: cosine))
    assert levels["its own edit"].count == 4
    assert levels[SUM].mean == pytest.approx(3.0 + np.mean(np.arange(12) / 12))


def test_the_section_has_its_figures_and_numbers(subject_of, tmp_path, read_json):
    lm = tiny.lm_of("llama")
    reading = subject_of(tiny.steerer_of(lm), concepts=2, name="reads")
    gated = subject_of(tiny.steerer_of(lm, "no-context", edit="gated"), concepts=2, name="gated")
    section = composition_section([reading, gated], CONFIG)
    names = {path.name for path in write_section(tmp_path, section)}
    figures = ("composition", "composition_2", "composition_strengths")
    assert {f"{one}.{form}" for one in figures for form in ("svg", "png")} < names
    numbers = read_json(tmp_path / "composition.json")
    assert list(numbers["checkpoints"]) == ["reads", "gated"]
    assert list(numbers["strengths"]) == ["reads (vector)", "gated (gated)"]
    assert set(numbers["checkpoints"]["gated"]["interference_against_cosine"]) == {
        SUM, SPLIT, JOINT,
    }  # fmt: skip
