"""Figures and the page: every part draws, writes its files, says its numbers, and escapes."""

import dataclasses
import json
import re
from base64 import b64decode
from itertools import pairwise

import numpy as np
import pyarrow.parquet as pq
import pytest

import tiny
from analysis.texts import STEER
from hypersteer.analysis.attention_section import attention_section
from hypersteer.analysis.effect import whole_limit
from hypersteer.analysis.effect_section import effect_section
from hypersteer.analysis.geometry import unit_rows
from hypersteer.analysis.geometry_section import SINGLE, geometry_section
from hypersteer.analysis.lens_section import lens_section
from hypersteer.analysis.page import write_page
from hypersteer.analysis.perplexity import ASKED, UNASKED
from hypersteer.analysis.perplexity_figures import draw_perplexities
from hypersteer.analysis.perplexity_section import perplexity_section
from hypersteer.analysis.section import Drawing, Listing, Section, write_section
from hypersteer.analysis.style import (
    STYLE,
    drawable,
    log_ticks,
    look,
    new_figure,
    shortened,
    styled,
)
from hypersteer.config.analysis import AnalysisConfig
from hypersteer.errors import SteeringError

SMALL = AnalysisConfig(answers=4, max_new_tokens=6, strengths=(1.0, 3.0), prompts=3)
NASTY = "<script>alert('&')</script> $x_{$ \u4e2d\x07"


def written(folder, section):
    """The section's JSON, after every file that it names was found whole."""
    files = {path.name for path in write_section(folder, section)}
    for drawing in section.drawings:
        png, svg = (folder / f"{drawing.name}.{form}" for form in ("png", "svg"))
        assert png.read_bytes().startswith(b"\x89PNG")
        assert "<svg" in svg.read_text()[:600]
        assert drawing.finding
    names = {f"{one.name}.{form}" for one in section.drawings for form in ("svg", "png")}
    names |= {f"{name}.parquet" for name in section.tables} | {f"{section.name}.json"}
    assert files == names == {path.name for path in folder.iterdir()}
    return json.loads((folder / f"{section.name}.json").read_text())


def test_geometry_of_two_checkpoints_side_by_side(reading, blind, tmp_path):
    found = written(tmp_path, geometry_section([reading, blind], SMALL))
    first, second = found["checkpoints"]
    assert (first["grouped_by"], first["edits"]) == ("concept", 12)
    assert (second["grouped_by"], second["edits"]) == ("edit", 4)
    assert second["within"] is None
    assert second["silhouette"] is None
    table = pq.read_table(tmp_path / "geometry_edits.parquet").to_pydict()
    assert table["checkpoint"] == ["tiny"] * 12 + ["blind"] * 4
    assert table["prompt"][12:] == [None] * 4
    vectors = np.stack(
        [
            reading.steerer.edit(concept.text, prompt).vector.numpy()
            for concept in reading.concepts
            for prompt in reading.prompts
        ]
    )
    unit = unit_rows(vectors)
    alike = unit @ unit.T
    blocks = [alike[3 * i : 3 * i + 3, 3 * i : 3 * i + 3] for i in range(4)]
    within = np.mean([(block.sum() - np.trace(block)) / 6 for block in blocks])
    assert first["within"] == pytest.approx(within, abs=1e-4)
    assert f"within {within:.2f}" in found["findings"]["geometry_maps"]


def test_many_concepts_without_context_are_grouped_by_kind(subject_of, blind, tmp_path):
    many = subject_of(blind.steerer, concepts=SINGLE + 16, name="blind")
    section = geometry_section([many], SMALL)
    (found,) = written(tmp_path, section)["checkpoints"]
    assert found["grouped_by"] == "kind"
    assert set(found["groups"]) == {concept.kind for concept in many.concepts}
    assert any("do not depend on the base prompt" in note for note in section.notes)


def test_edits_that_are_no_vectors_are_said_to_be_summarised(subject_of, tmp_path):
    steerer = tiny.steerer_of(tiny.lm_of("llama"), edit="gated", more_layers=(2,))
    section = geometry_section([subject_of(steerer)], SMALL)
    written(tmp_path, section)
    assert any("mean write" in note for note in section.notes)
    assert any("2 sites" in note for note in section.notes)


@pytest.mark.parametrize("variant", tiny.VARIANTS)
def test_attention_of_every_variant(subject_of, variant, tmp_path):
    subject = subject_of(tiny.steerer_of(tiny.lm_of("llama"), variant))
    section = attention_section(subject)
    found = written(tmp_path, section)
    kinds = {"cross-attention": ["cross-attention", "self-attention"]}
    assert [one["kind"] for one in found["kinds"]] == kinds.get(variant, ["self-attention"])
    table = pq.read_table(tmp_path / "attention_maps.parquet")
    rows = table.group_by(["kind", "layer", "head", "query"]).aggregate([("weight", "sum")])
    assert rows["weight_sum"].to_numpy() == pytest.approx(1, abs=1e-4)
    for one in found["kinds"]:
        shares = np.array(one["share_by_layer_and_head"])
        assert shares.shape == (2, 4)
        assert ((shares > 0) & (shares <= 1 + 1e-6)).all()


def test_perplexity_of_sources_and_of_the_base_lm_itself(tiny_llama, data, tmp_path):
    lm = tiny.ending_with(tiny_llama)
    section = perplexity_section(lm, [data], SMALL)
    found = written(tmp_path, section)["sources"]
    assert list(found) == ["bundled", ASKED, UNASKED]
    table = pq.read_table(tmp_path / "perplexity_answers.parquet").to_pydict()
    for source, quantiles in found.items():
        own = [
            value
            for name, value in zip(table["source"], table["perplexity"], strict=True)
            if name == source
        ]
        assert len(own) == 4
        assert quantiles["50 %"] == pytest.approx(np.median(own))
    plain = [p for p, s in zip(table["prompt"], table["source"], strict=True) if s == UNASKED]
    assert plain == table["prompt"][:4]


def test_the_finding_says_more_than_only_where_it_is_more():
    given, own = np.array([20.0, 30.0]), np.array([3.0, 5.0])
    finding, _, _ = draw_perplexities({"bundled": given, ASKED: own}, (ASKED,))
    assert "surprise the base LM more than its own" in finding
    assert "25.0, its own 4.0" in finding
    finding, _, _ = draw_perplexities({"bundled": own, ASKED: given}, (ASKED,))
    assert "more" not in finding
    finding, _, _ = draw_perplexities({"bundled": own}, (ASKED,))
    assert finding == "Median perplexity under the base LM: bundled 4.0"


@pytest.mark.parametrize("more_layers", [(), (2, 3)])
def test_the_lens_tells_every_site_and_their_sum(subject_of, more_layers, tmp_path):
    steerer = tiny.steerer_of(tiny.lm_of("llama"), "no-context", more_layers=more_layers)
    section = lens_section(subject_of(steerer))
    found = written(tmp_path, section)
    sites = [f"residual@{layer}" for layer in (1, *more_layers)] + ["all sites"] * bool(more_layers)
    sites.append("without the mean edit")
    assert list(found["words"]) == STEER
    assert [one["site"] for one in found["words"][STEER[0]]] == sites
    assert found["nearest_training_concepts"] == {}
    assert any("does not tell" in note for note in section.notes)


def test_the_effect_is_told_strength_by_strength(blind, tmp_path):
    lm = tiny.ending_with(blind.steerer.lm)
    steerer = dataclasses.replace(blind, steerer=tiny.steerer_of(lm, "no-context"))
    found = written(tmp_path, effect_section(steerer, SMALL))
    assert {
        text: [one["strength"] for one in curve] for text, curve in found["curves"].items()
    } == {text: [1.0, 3.0] for text in STEER}
    assert found["limit_of_perplexity"] == pytest.approx(whole_limit(steerer, SMALL))
    table = pq.read_table(tmp_path / "effect_tokens.parquet").to_pydict()
    for text, curve in found["curves"].items():
        for one in curve:
            kls = [
                kl
                for kl, steer, strength in zip(
                    table["kl"], table["steer"], table["strength"], strict=True
                )
                if (steer, strength) == (text, one["strength"])
            ]
            assert len(kls) == 3 * 6
            assert one["mean_kl"] == pytest.approx(np.mean(kls))


def test_the_page_holds_its_figures_and_escapes_every_text(tmp_path):
    with styled():
        figure = new_figure(NASTY, 2.0)
        figure.subplots().set_title(drawable(NASTY))
    section = Section(
        name="lens",
        title="Words",
        notes=[NASTY],
        drawings=[Drawing("lens_words", NASTY, NASTY, figure)],
        listings=[Listing(NASTY, ["a", "b"], [[NASTY, NASTY]])],
    )
    write_section(tmp_path, section)
    page = write_page(tmp_path, [section], [("Checkpoint", NASTY)]).read_text()
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 6
    (image,) = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', page)
    assert b64decode(image) == (tmp_path / "lens_words.svg").read_bytes()
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)


def test_a_folder_that_cannot_be_written_is_told_in_one_line(tmp_path):
    (tmp_path / "file").touch()
    section = Section(name="lens", title="Words")
    with pytest.raises(SteeringError, match="cannot write to"):
        write_section(tmp_path / "file" / "below", section)


def test_what_the_font_lacks_is_escaped():
    assert drawable("na\u00efve \u2423$") == "na\u00efve \u2423$"
    assert drawable("\u4e2d\n\x07") == r"\u4e2d\n\x07"
    assert shortened("a  b\nc", 10) == "a b c"
    assert shortened("abcdefgh", 5) == "abcd\u2026"


def test_no_two_of_64_groups_look_the_same():
    assert len({look(number) for number in range(64)}) == 64


def test_the_style_prints_and_leaves_the_settings_of_the_user():
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    sizes = [value for name, value in STYLE.items() if name.endswith("size")]
    assert min(sizes) >= 9
    with styled():
        assert mpl.rcParams["text.parse_math"] is False
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize(
    ("low", "high"), [(9, 11), (1, 50), (2, 900), (1, 5e4), (0.3, 4e6), (1, 1e15)]
)
def test_labels_of_a_logarithmic_axis_do_not_touch(low, high):
    with styled():
        figure = new_figure("a title", 3.6)
        axes = figure.subplots()
        axes.plot([low, high], [1, 2])
        axes.set_xscale("log")
        log_ticks(axes.xaxis)
        figure.canvas.draw()
        labels = [one for one in axes.get_xticklabels() if one.get_text()]
        boxes = [one.get_window_extent() for one in labels]
        assert 1 <= len(boxes) <= 9
        assert all(a.x1 < b.x0 for a, b in pairwise(boxes)), [one.get_text() for one in labels]
