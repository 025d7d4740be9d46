"""Fits, crossings and means of sweeps, against other ways to work them out."""

import math

import numpy as np
import pytest
from scipy.optimize import curve_fit

from analysis.sweeps import REFT, made_up
from hypersteer.analysis.ablations import ablations
from hypersteer.analysis.ablations_section import markdown, report_ablations
from hypersteer.analysis.scaling import (
    PAPER,
    crossing,
    fit_decay,
    fit_line,
    measures_of,
    pooled,
    spending,
    spots,
)
from hypersteer.analysis.scaling_section import report_scaling
from hypersteer.analysis.section import Listing
from hypersteer.sweeps.measured import Point

COUNTS = [16, 32, 64, 128, 256, 512, 1024]


def point(step, loss, flops):
    return Point(step=step, held_in_loss=loss, held_out_loss=None, flops=flops)


def test_a_line_over_the_logarithm_is_found():
    line = fit_line(COUNTS, [4 - 0.05 * math.log2(n) for n in COUNTS])
    assert line.start == pytest.approx(4)
    assert line.slope == pytest.approx(-0.05)
    assert line.r2 == pytest.approx(1)
    assert line.at(64) == pytest.approx(3.7)
    values = [3.0, 2.0, 2.5, 1.0, 1.5, 0.5, 0.7]
    line = fit_line(COUNTS, values)
    assert line.r2 == pytest.approx(np.corrcoef(np.log2(COUNTS), values)[0, 1] ** 2)
    assert fit_line([16, 32], [1.0, 2.0]) is None


def test_the_papers_own_fit_is_found_again():
    counts = [10, 50, 100, 300, 700, 1500, 4000, 16000]
    found = fit_decay(counts, [PAPER.at(n) for n in counts])
    assert found[:3] == pytest.approx(PAPER[:3], rel=1e-3)
    assert found.r2 == pytest.approx(1)
    assert fit_decay([1, 2, 3], [3.0, 2.0, 1.0]) is None


def test_a_decay_is_the_one_with_the_least_squares():
    random = np.random.default_rng(0)
    values = [20 + 90 * math.exp(-0.01 * n) + random.normal(0, 4) for n in COUNTS]
    found = fit_decay(COUNTS, values)
    wanted, _ = curve_fit(
        lambda n, a, b, d: a + b * np.exp(d * n), COUNTS, values, p0=(20, 90, -0.01)
    )
    assert found[:3] == pytest.approx(tuple(wanted), rel=2e-2)
    rest = np.array(values) - [found.at(n) for n in COUNTS]
    whole = np.array(values) - np.mean(values)
    assert found.r2 == pytest.approx(1 - (rest @ rest) / (whole @ whole))


def test_a_crossing_lies_on_the_line_between_two_validations():
    curve = [point(10, 4.0, 100.0), point(20, 3.6, 200.0), point(30, 3.2, 300.0)]
    assert crossing(curve, 3.5) == (pytest.approx(225.0), True)
    assert crossing(curve, 3.2) == (pytest.approx(300.0), True)
    assert crossing(curve, 4.5) == (100.0, False)
    assert crossing(curve, 3.0) is None
    # It is the first one that counts, and validations without such rows are passed over.
    back = [*curve, point(40, 3.9, 400.0), point(50, 3.1, 500.0)]
    assert crossing(back, 3.5) == crossing(curve, 3.5)
    assert crossing([point(5, None, 50.0), *curve], 3.5) == crossing(curve, 3.5)
    assert crossing([], 3.5) is None


def test_a_concept_of_several_seeds_counts_once():
    assert pooled([{"1": 2.0, "2": 4.0}, {"1": 3.0}]) == {"1": 2.5, "2": 4.0}


def test_spots_are_means_over_concepts():
    swept = made_up(settings=["a", "b"], concepts=[2, 4], seeds=[1, 2])
    found = {(one.setting, one.concepts): one for one in spots(swept)}
    assert list(found) == [("a", 2), ("a", 4), ("b", 2), ("b", 4)]
    runs = zip(swept.runs, swept.measured, strict=True)
    own = [m for r, m in runs if (r.setting.name, r.concepts) == ("b", 4)]
    assert len(own) == 2
    by_hand = np.mean(
        [np.mean([m.losses["held_out_loss"][id_] for m in own]) for id_ in ("10", "11", "12")]
    )
    assert found["b", 4].values["held_out_loss"].mean == pytest.approx(by_hand)
    assert found["b", 4].values["held_out_loss"].count == 3
    assert "held_out_score" in found["a", 4].values
    assert "held_out_score" not in found["a", 2].values
    folder = next(r.folder.name for r in swept.runs if r.judged and r.setting.name == "a")
    scores = [swept.scores[seed].get((folder, "held_in")) for seed in (1, 2)]
    assert any(scores)


def test_what_is_spent_is_divided_by_the_concepts():
    swept = made_up(settings=["a", "b"], concepts=[2, 4], seeds=[1, 2])
    found = {(one.setting, one.concepts): one for one in spending(swept)}
    runs = list(zip(swept.runs, swept.measured, strict=True))
    for (setting, count), one in found.items():
        own = [m for r, m in runs if (r.setting.name, r.concepts) == (setting, count)]
        crossed = [crossing(m.curve, REFT) for m in own]
        there = [c.flops for c in crossed if c is not None]
        assert one.reached == len(there)
        wanted = np.mean(there) if there else np.mean([m.flops for m in own])
        assert one.each == pytest.approx(wanted / count)
    assert {one.reached for one in found.values()} >= {0, 2}


def test_differences_are_taken_concept_by_concept():
    swept = made_up(settings=["a", "b", "c"], concepts=[], seeds=[1, 2])
    first, second, _ = ablations(swept)
    assert first.differences == {}
    ours, theirs = (measures_of(swept, name, None)["held_out_loss"] for name in ("b", "a"))
    each = [ours[id_] - theirs[id_] for id_ in ours]
    assert second.differences["held_out_loss"].mean == pytest.approx(np.mean(each))
    assert second.differences["held_out_loss"].count == 3
    means = [
        np.mean(list(m.losses["held_out_loss"].values()))
        for r, m in zip(swept.runs, swept.measured, strict=True)
        if r.setting.name == "b"
    ]
    assert second.by_seed["held_out_loss"] == pytest.approx(means)
    assert second.spread["held_out_loss"] == pytest.approx(max(means) - min(means))


def test_a_scaling_report_has_its_figures_numbers_and_fits(tmp_path, read_json):
    swept = made_up(settings=["a", "b <i>"], concepts=COUNTS, seeds=[1])
    done = report_scaling(swept, tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    figures = ("scaling_loss", "scaling_gap", "scaling_score", "cost_reft")
    assert {f"{one}.{form}" for one in figures for form in ("svg", "png")} <= names
    assert {path.name for path in done.files} | {"report.html"} == names
    numbers = read_json(tmp_path / "scaling.json")
    assert [one["concepts"] for one in numbers["points"]] == COUNTS * 2
    lines = numbers["lines_over_log2_of_concepts"]["held_out_loss"]
    spot = [one.values["held_out_loss"].mean for one in spots(swept) if one.setting == "a"]
    assert lines["a"]["slope"] == pytest.approx(np.polyfit(np.log2(COUNTS), spot, 1)[0])
    cost = read_json(tmp_path / "cost.json")
    assert cost["paper"]["tflops_a_b_exp_d_n"]["b"] == 1521.1495
    assert cost["reft_flops_per_concept"] == swept.references[1].flops
    page = (tmp_path / "report.html").read_text()
    assert "<i>" not in page
    assert "ReFT-r1" in page
    assert f"({lines['a']['slope']:+.3f}" in done.findings["scaling_loss"]


def test_an_ablation_report_has_one_table_in_three_forms(tmp_path, read_json):
    swept = made_up(settings=["a", "b|c"], concepts=[], seeds=[1, 2])
    done = report_ablations(swept, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "ablations.json", "ablations.md", "ablations.png", "ablations.svg", "report.html",
    }  # fmt: skip
    table = (tmp_path / "ablations.md").read_text()
    found = ablations(swept)
    value = found[1].values["held_out_loss"]
    shown = f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}]"
    assert r"| b\|c |" in table
    assert shown in table
    assert shown in (tmp_path / "report.html").read_text()
    numbers = read_json(tmp_path / "ablations.json")
    assert numbers["settings"][1]["values"]["held_out_loss"]["mean"] == value.mean
    assert numbers["compared_with"] == "a"
    assert done.findings["ablations"].startswith("Held-out loss against 'a': ")


def test_one_setting_alone_is_a_table_without_differences(tmp_path):
    report_ablations(made_up(settings=["a"], concepts=[], seeds=[1]), tmp_path)
    assert not (tmp_path / "ablations.png").exists()


def test_a_markdown_table_holds_what_would_break_it():
    listing = Listing("T", ["a", "b"], [["x|y", "1\n2"]])
    assert markdown(listing) == "**T**\n\n| a | b |\n| --- | --- |\n| x\\|y | 1 2 |"
