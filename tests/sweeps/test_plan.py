"""Which runs a sweep has, what names their folders, and what settings are refused."""

from dataclasses import replace
from pathlib import Path

import pytest

from hypersteer.config import load_toml
from hypersteer.config.sweeps import SweepConfig
from hypersteer.errors import ConfigError, SteeringError
from hypersteer.sweeps.plan import plan_runs, run_key
from hypersteer.sweeps.run import plan_sweep

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def test_small_runs_come_first_and_each_has_its_settings(swept_as):
    config = swept_as(seeds=[3, 4], judged_concepts=[4])
    runs = plan_runs(config)
    found = [(run.concepts, run.config.seed, run.setting.name) for run in runs]
    assert found == [(n, s, name) for n in (2, 3, 4) for s in (3, 4) for name in ("cross", "plain")]
    assert [run.judged for run in runs] == [False] * 8 + [True] * 4
    for run in runs:
        assert run.config.data.max_concepts == run.concepts
        assert run.config.best == "last"
        plain = run.setting.name == "plain"
        assert run.config.hypernet.variant == ("no-context" if plain else "cross-attention")
        assert run.config.hypernet.blocks == 1
    assert len({run.folder for run in runs}) == len(runs)


def test_a_run_is_named_by_what_decides_what_it_learns(swept_as):
    (first, *_) = plan_runs(swept_as())
    config = first.config
    assert first.folder.name == run_key(config)
    assert run_key(replace(config, out="elsewhere", keep=9, checkpoint_every=7)) == run_key(config)
    assert run_key(replace(config, seed=4)) != run_key(config)
    assert run_key(replace(config, site=replace(config.site, layer=2))) != run_key(config)


def test_settings_that_are_the_same_share_a_run(swept_as):
    same = {"name": "again", "change": {"hypernet": {"blocks": 1}}}
    runs = plan_runs(swept_as(concepts=[], settings=[{"name": "base"}, same]))
    assert runs[0].folder == runs[1].folder
    expected = plan_sweep(
        swept_as(concepts=[], settings=[{"name": "base"}, same]), compared=False
    ).expected
    assert [task.state for task in expected.tasks] == ["to do", "shared"]
    assert expected.tasks[1].seconds == 0


def test_the_estimate_counts_rows(swept_as):
    config = swept_as(seconds_per_row=2.0, judged_concepts=[2])
    expected = plan_sweep(config, compared=True).expected
    # 4 steps of 4 rows; at most 96 rows held in and held out, each validated twice, measured once,
    # and read by the base LM.
    rows = 4 * 4 + 2 * 96 * (1.3 + 0.7 * 3)
    assert [task.seconds for task in expected.tasks] == pytest.approx([2 * rows] * 6)
    # Two methods and the unsteered base LM answer 2 prompts of 2 + 2 concepts.
    assert expected.answers == 3 * 2 * 4
    # 2 concepts have 8 rows each, two of them kept back; as many without, at half a row each.
    assert expected.teaching == pytest.approx(2.0 * 0.5 * 2 * (6 + 6))
    assert expected.seconds == pytest.approx(12 * rows + 2.0 * 24 + expected.teaching)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "settings is empty"),
        ("settings = 3", "settings = 3 is not list"),
        ('[[settings]]\nname = " "', "settings.name is empty"),
        ('[[settings]]\nname = "a"\n[[settings]]\nname = "a"', "settings.name 'a' is there twice"),
        ('[[settings]]\nname = "a"\nchanges = 1', "unknown key 'changes'; did you mean 'change'?"),
        (
            '[[settings]]\nname = "a"\nchange.hypernet.block = 2',
            "settings 'a', change: hypernet: unknown key 'block'; did you mean 'blocks'?",
        ),
        (
            '[[settings]]\nname = "a"\nchange.hypernet = 2',
            "settings 'a', change: hypernet is a table of settings, not 2",
        ),
        (
            '[[settings]]\nname = "a"\nchange.hypernet.blocks = 0',
            "settings 'a', change: hypernet.blocks 0 is below 1",
        ),
        (
            '[[settings]]\nname = "a"\nchange.loss.objective = "reconstruction"',
            "reconstruction needs a targets file",
        ),
        ('[[settings]]\nname = "a"\ntargets = "reft"', "targets = 'reft' is unknown"),
        ('seeds = []\n[[settings]]\nname = "a"', "seeds is empty"),
        ('seeds = [1, 1]\n[[settings]]\nname = "a"', "seeds '1' is there twice"),
        ('seeds = [-1]\n[[settings]]\nname = "a"', "seeds holds -1"),
        ('concepts = [0]\n[[settings]]\nname = "a"', "concepts holds 0"),
        ('concepts = [4, 2]\n[[settings]]\nname = "a"', "concepts [4, 2] are not ascending"),
        ('judged_concepts = [2]\n[[settings]]\nname = "a"', "judged_concepts holds 2"),
        (
            'concepts = [4]\n[[settings]]\nname = "a"\n[train.data]\nheld_in_concepts = 5',
            "train.data.held_in_concepts 5 is more than the 4",
        ),
        ('seconds_per_row = 0\n[[settings]]\nname = "a"', "seconds_per_row 0.0 is not above 0"),
    ],
)
def test_bad_settings_are_told_in_one_line(tmp_path, text, told):
    file = tmp_path / "sweep.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_toml(file, SweepConfig)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_only_the_data_can_tell_is_told_before_any_model(swept_as):
    with pytest.raises(ConfigError, match=r"concepts holds 5, and .* has 4 to train on"):
        plan_sweep(swept_as(concepts=[2, 5]), compared=False)
    with pytest.raises(ConfigError, match=r"reft: unknown key 'epoch'; did you mean 'epochs'"):
        plan_sweep(swept_as(reft={"epoch": 1}), compared=True)
    with pytest.raises(ConfigError, match="concepts is empty"):
        plan_sweep(swept_as(concepts=[]), compared=True)
    several = swept_as(train={"data": {"held_in_concepts": None}})
    with pytest.raises(ConfigError, match=r"train\.data\.held_in_concepts is not set"):
        plan_sweep(several, compared=True)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"hypernet": {"more_layers": [1]}}, r"more_layers \[1\] must ascend from above layer 1"),
        ({"hypernet": {"more_layers": [99]}}, "99"),
        ({"site": {"layer": 99}}, "99"),
        ({"hypernet": {"cross_heads": 3}}, "3"),
    ],
)
def test_what_only_a_base_lm_can_tell_of_a_setting_is_told_before_any_run(swept_as, change, told):
    settings = [{"name": "fine"}, {"name": "odd one", "change": change}]
    with pytest.raises(SteeringError, match=rf"^setting 'odd one': .*{told}"):
        plan_sweep(swept_as(settings=settings), compared=False)


@pytest.mark.parametrize("name", ["scaling_cpu", "ablations_cpu"])
def test_the_experiments_can_be_planned(name, tmp_path):
    config = replace(load_toml(EXPERIMENTS / f"{name}.toml", SweepConfig), runs=str(tmp_path))
    expected = plan_sweep(config, compared=name == "scaling_cpu").expected
    assert {task.state for task in expected.tasks} == {"to do"}
    minutes = expected.seconds / 60
    assert minutes < (70 if name == "scaling_cpu" else 45)
