"""Settings: TOML in, checked against the dataclasses, resolved JSON out and in again."""

import dataclasses
import json
import tomllib
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hypersteer.config import (
    DataConfig,
    EvaluateConfig,
    HypernetConfig,
    LMConfig,
    LossConfig,
    OptimConfig,
    PlanConfig,
    ProtocolConfig,
    SiteConfig,
    TrainConfig,
    check_choices,
    from_dict,
    load_toml,
    to_dict,
)
from hypersteer.config.conditions import ConditionConfig
from hypersteer.config.sweeps import SweepConfig
from hypersteer.config.synthesis import DistillationConfig, SynthesisConfig, TeacherConfig
from hypersteer.errors import ConfigError
from hypersteer.files import cache_folder

EXPERIMENTS = Path(__file__).parents[1] / "experiments"

EVERYTHING = """\
out = "runs/all"
seed = 7
start = "runs/earlier"
validate_every = 10
checkpoint_every = 20
keep = 3
best = "held_in_loss"
patience = 4
tensorboard = true

[base_lm]
name = "gemma-2-2b-it"
device = "cuda"
dtype = "bfloat16"
quantization = "8bit"
revision = "main"
device_map = "auto"
attn_implementation = "eager"

[site]
layer = 12
kind = "mlp"
scope = "response"

[hypernet]
variant = "no-context"
blocks = 6
init = "random"
cross_heads = 2
cross_key_heads = 1
cross_head_width = 12
edit = "another"
self_attention = true
rank = 3
more_layers = [14, 16]
head_width = 64
learned_strength = true
prior = "activation"
style = true

[data]
source = ["bundled", "axbench:concept10/2b/l20"]
held_out_concepts = [1, 5]
held_in_prompts = 2
held_in_concepts = 5
max_concepts = 9
max_examples_per_concept = 8
max_held_out_rows = 7
max_validation_rows = 11
max_prompt_tokens = 100
max_response_tokens = 50

[loss]
objective = "reconstruction"
targets = "targets.safetensors"
weight = 0.5
contrast = 0.5
contrast_beta = 2.0

[optim]
steps = 30
batch_size = 12
accumulation = 3
learning_rate = 1e-4
warmup_steps = 5
weight_decay = 0.1
clip = 2.0
gradient_checkpointing = true
mixed_precision = "no"

[plan]
processes = 4
utilisation = 0.5
prompt_tokens = 20
prefix_tokens = 3
response_tokens = 100
steering_tokens = 9
"""

RESOLVED = TrainConfig(
    out="runs/all",
    seed=7,
    start="runs/earlier",
    validate_every=10,
    checkpoint_every=20,
    keep=3,
    best="held_in_loss",
    patience=4,
    tensorboard=True,
    base_lm=LMConfig(
        name="gemma-2-2b-it",
        device="cuda",
        dtype="bfloat16",
        quantization="8bit",
        revision="main",
        device_map="auto",
        attn_implementation="eager",
    ),
    site=SiteConfig(layer=12, kind="mlp", scope="response"),
    hypernet=HypernetConfig(
        variant="no-context",
        blocks=6,
        init="random",
        cross_heads=2,
        cross_key_heads=1,
        cross_head_width=12,
        edit="another",
        self_attention=True,
        rank=3,
        more_layers=(14, 16),
        head_width=64,
        learned_strength=True,
        prior="activation",
        style=True,
    ),
    data=DataConfig(
        source=("bundled", "axbench:concept10/2b/l20"),
        held_out_concepts=(1, 5),
        held_in_prompts=2,
        held_in_concepts=5,
        max_concepts=9,
        max_examples_per_concept=8,
        max_held_out_rows=7,
        max_validation_rows=11,
        max_prompt_tokens=100,
        max_response_tokens=50,
    ),
    loss=LossConfig(
        objective="reconstruction",
        targets="targets.safetensors",
        weight=0.5,
        contrast=0.5,
        contrast_beta=2.0,
    ),
    optim=OptimConfig(
        steps=30,
        batch_size=12,
        accumulation=3,
        learning_rate=1e-4,
        warmup_steps=5,
        weight_decay=0.1,
        clip=2.0,
        gradient_checkpointing=True,
        mixed_precision="no",
    ),
    plan=PlanConfig(
        processes=4,
        utilisation=0.5,
        prompt_tokens=20,
        prefix_tokens=3,
        response_tokens=100,
        steering_tokens=9,
    ),
)


def read(tmp_path, text, into=TrainConfig):
    file = tmp_path / "settings.toml"
    file.write_text(text, encoding="utf-8")
    return load_toml(file, into)


def refused(tmp_path, text, *wanted):
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    message = str(caught.value)
    assert "\n" not in message
    for part in wanted:
        assert part in message, message
    return message


def test_every_setting_can_be_given(tmp_path):
    config = read(tmp_path, EVERYTHING)
    assert config == RESOLVED
    tables = (config.base_lm, config.site, config.hypernet, config.data, config.loss, config.plan)
    for table in (config, *tables):
        for field in dataclasses.fields(table):  # so that EVERYTHING stays true to its name
            default = getattr(type(table)(), field.name) if table is not config.loss else None
            assert getattr(table, field.name) != default, field.name


def test_an_empty_file_is_all_defaults(tmp_path):
    assert read(tmp_path, "") == TrainConfig()


def test_what_is_not_said_keeps_its_default(tmp_path):
    config = read(tmp_path, "[optim]\nsteps = 5\n")
    assert config == TrainConfig(optim=OptimConfig(steps=5))


@pytest.mark.parametrize("config", [TrainConfig(), RESOLVED], ids=["defaults", "everything"])
def test_resolved_settings_survive_json(config):
    text = json.dumps(to_dict(config))
    assert from_dict(TrainConfig, json.loads(text)) == config


@given(
    steps=st.integers(1, 10**9),
    rate=st.none() | st.floats(min_value=1e-300, max_value=1e300),
    source=st.lists(st.text(), min_size=1, max_size=3).map(tuple),
    held_out=st.integers(0, 1000) | st.lists(st.integers(0, 1000), max_size=4).map(tuple),
    contrast=st.floats(min_value=0, max_value=1e300),
)
def test_any_valid_settings_survive_json(steps, rate, source, held_out, contrast):
    config = TrainConfig(
        data=DataConfig(source=source, held_out_concepts=held_out),
        loss=LossConfig(contrast=contrast),
        optim=OptimConfig(steps=steps, learning_rate=rate),
    )
    assert from_dict(TrainConfig, json.loads(json.dumps(to_dict(config)))) == config


def test_a_whole_number_does_for_a_float(tmp_path):
    config = read(tmp_path, "[optim]\nlearning_rate = 1\nclip = 2\n")
    assert config.optim.learning_rate == 1.0
    assert type(config.optim.learning_rate) is float
    assert type(config.optim.clip) is float


def test_one_source_may_stand_without_a_list(tmp_path):
    assert read(tmp_path, '[data]\nsource = "bundled"\n').data.source == ("bundled",)


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("sed = 1", ["unknown key 'sed'", "did you mean 'seed'?"]),
        ("[optim]\nbatchsize = 1", ["optim", "unknown key 'batchsize'", "'batch_size'"]),
        ("[hypernet]\nblock = 1", ["hypernet", "unknown key 'block'", "'blocks'"]),
        ("[optimiser]\nsteps = 1", ["unknown key 'optimiser'", "did you mean 'optim'?"]),
        ("[data]\nzzz = 1", ["unknown key 'zzz'", "known: held_in_concepts"]),
        ('[hypernet]\nvariant = "cross-atention"', ["variant", "did you mean 'cross-attention'"]),
        ('[site]\nkind = "residuals"', ["kind", "did you mean 'residual'?"]),
        ('[optim]\nmixed_precision = "int8"', ["mixed_precision", "'int8'"]),
        ('best = "held_out"', ["best", "'held_out'"]),
    ],
)
def test_unknown_names_are_told_with_the_nearest(tmp_path, text, wanted):
    refused(tmp_path, text, "settings.toml", *wanted)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('seed = "1"', ["seed = '1' is not int"]),
        ("seed = true", ["seed = True is not int"]),
        ("seed = 1.5", ["seed = 1.5 is not int"]),
        ("out = 3", ["out = 3 is not str"]),
        ('tensorboard = "yes"', ["tensorboard = 'yes' is not bool"]),
        ("tensorboard = 1", ["tensorboard = 1 is not bool"]),
        ("optim = 3", ["optim is a table of settings, not 3"]),
        ("[optim]\nclip = true", ["clip = True is not float"]),
        ('[optim]\nlearning_rate = "fast"', ["learning_rate = 'fast' is not float or none"]),
        ('[site]\nlayer = "top"', ["layer = 'top' is not int or none"]),
        ("[data]\nsource = 3", ["source = 3 is not list of str"]),
        ("[data]\nsource = [3]", ["source = 3 is not str"]),
        ('[data]\nheld_out_concepts = "two"', ["held_out_concepts", "list of int or 'marked'"]),
        ("[data]\nheld_out_concepts = [1, 2.5]", ["held_out_concepts", "list of int or 'marked'"]),
        ("[site]\nkind = 3", ["kind = 3 is unknown"]),
        ('[site]\nkind = ["mlp"]', ["kind = ['mlp'] is unknown"]),
    ],
)
def test_wrong_types_are_told(tmp_path, text, wanted):
    refused(tmp_path, text, "settings.toml", *wanted)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("seed = -1", ["seed -1 is below 0"]),
        ("validate_every = 0", ["validate_every 0 is below 1"]),
        ("checkpoint_every = 0", ["checkpoint_every 0 is below 1"]),
        ("keep = 0", ["keep 0 is below 1"]),
        ("patience = 0", ["patience 0 is below 1"]),
        ("[hypernet]\nblocks = 0", ["hypernet.blocks 0 is below 1"]),
        ("[hypernet]\ncross_heads = 0", ["hypernet.cross_heads 0 is below 1"]),
        ("[hypernet]\nhead_width = -4", ["hypernet.head_width -4 is below 1"]),
        ("[data]\nheld_in_prompts = -1", ["data.held_in_prompts -1 is below 0"]),
        ("[data]\nheld_out_concepts = -1", ["data.held_out_concepts -1 is below 0"]),
        ("[data]\nmax_concepts = 0", ["data.max_concepts 0 is below 1"]),
        ("[data]\nmax_prompt_tokens = 0", ["data.max_prompt_tokens 0 is below 1"]),
        ("[data]\nmax_response_tokens = -1", ["data.max_response_tokens -1 is below 1"]),
        ("[data]\nmax_held_out_rows = 0", ["data.max_held_out_rows 0 is below 1"]),
        ("[data]\nmax_examples_per_concept = 0", ["data.max_examples_per_concept 0"]),
        ("[loss]\ncontrast = -0.1", ["loss.contrast -0.1"]),
        ("[loss]\ncontrast = nan", ["loss.contrast nan"]),
        ("[loss]\ncontrast = inf", ["loss.contrast inf"]),
        ("[loss]\nweight = -1.0\ncontrast = 1.0", ["loss.weight -1.0"]),
        ("[loss]\nweight = 0.0", ["loss.weight 0.0", "no loss.contrast"]),
        ('[loss]\nobjective = "distillation"\nguidance = -1.0', ["loss.guidance -1.0"]),
        ("[loss]\nguidance = 1.0", ["loss.guidance 1.0", "language-modelling"]),
        ("[loss]\ncontrast_beta = 0", ["loss.contrast_beta 0.0"]),
        ("[loss]\ncontrast_beta = inf", ["loss.contrast_beta inf"]),
        ("[loss]\nstrengths = [2, 1]", ["loss.strengths [2.0, 1.0]"]),
        ("[loss]\nstrengths = [0, 0]", ["loss.strengths [0.0, 0.0]"]),
        ("[loss]\nstrengths = [1, inf]", ["loss.strengths [1.0, inf]"]),
        ("[loss]\nstrengths = [1, 2, 3]", ["strengths = [1, 2, 3]", "float, 2 of them"]),
        ("[optim]\nsteps = 0", ["optim.steps 0 is below 1"]),
        ("[optim]\nbatch_size = 0", ["optim.batch_size 0 is below 1"]),
        ("[optim]\naccumulation = 0", ["optim.accumulation 0 is below 1"]),
        (
            "[optim]\nbatch_size = 8\naccumulation = 3",
            ["optim.accumulation 3 does not divide optim.batch_size 8"],
        ),
        ("[optim]\nlearning_rate = 0", ["optim.learning_rate 0.0 is not a positive number"]),
        ("[optim]\nlearning_rate = -1e-4", ["optim.learning_rate -0.0001"]),
        ("[optim]\nlearning_rate = nan", ["optim.learning_rate nan"]),
        ("[optim]\nlearning_rate = inf", ["optim.learning_rate inf"]),
        ("[optim]\nwarmup_steps = -1", ["optim.warmup_steps -1 is below 0"]),
        ("[optim]\nweight_decay = -0.1", ["optim.weight_decay -0.1"]),
        ("[optim]\nweight_decay = nan", ["optim.weight_decay nan"]),
        ("[optim]\nclip = 0", ["optim.clip 0.0 is not above 0"]),
        ("[optim]\nclip = nan", ["optim.clip nan is not above 0"]),
        ('[loss]\nobjective = "reconstruction"', ["reconstruction needs a targets file"]),
        ('[loss]\ntargets = "t.safetensors"', ["reconstruction needs a targets file"]),
        (
            '[loss]\nobjective = "reconstruction"\ntargets = "t"\nprompted = true',
            ["loss.prompted", "reads no base prompt"],
        ),
        (
            '[loss]\nobjective = "reconstruction"\ntargets = "t"',
            ["needs hypernet.variant 'no-context', not 'cross-attention'"],
        ),
    ],
)
def test_values_out_of_range_are_told(tmp_path, text, wanted):
    refused(tmp_path, text, *wanted)


@pytest.mark.parametrize(
    "text",
    [
        "seed = 0",
        "patience = 1",
        "[data]\nheld_in_prompts = 0\nheld_out_concepts = 0\nmax_prompt_tokens = 1",
        "[optim]\nclip = inf",
        "[optim]\nwarmup_steps = 0\nweight_decay = 0",
        "[optim]\nbatch_size = 8\naccumulation = 8",
        "[loss]\ncontrast = 0",
    ],
)
def test_values_at_the_edge_are_taken(tmp_path, text):
    read(tmp_path, text)


@pytest.mark.parametrize("text", ["seed = ", "[optim\n", "seed = 1\nseed = 2"])
def test_broken_toml_is_told(tmp_path, text):
    refused(tmp_path, text, "settings.toml", "is not valid TOML")


def test_toml_that_is_not_utf8_is_told(tmp_path):
    file = tmp_path / "settings.toml"
    file.write_bytes(b'out = "\xff"')
    with pytest.raises(ConfigError, match="is not valid TOML"):
        load_toml(file, TrainConfig)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.toml': No such file"):
        load_toml(tmp_path / "nowhere.toml", TrainConfig)
    with pytest.raises(ConfigError, match="Is a directory"):
        load_toml(tmp_path, TrainConfig)


def test_every_field_is_documented():
    """The string under a field is its help text; a field without one would have none."""
    import ast
    import inspect

    from hypersteer.config import base_lm, evaluation, training

    trees = [ast.parse(inspect.getsource(module)) for module in (base_lm, training, evaluation)]
    classes = [node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)]
    assert len(classes) >= 10
    for node in classes:
        for statement, following in zip(node.body, node.body[1:], strict=False):
            if not isinstance(statement, ast.AnnAssign):
                continue
            is_text = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            is_table = "Config" in ast.unparse(statement.annotation)
            assert is_text or is_table, f"{node.name}.{ast.unparse(statement.target)}"


@pytest.mark.parametrize("file", sorted(EXPERIMENTS.rglob("*.toml")), ids=lambda path: path.stem)
def test_every_experiment_parses(file):
    raw = tomllib.loads(file.read_text(encoding="utf-8"))
    kinds = {"methods": EvaluateConfig, "tried": DistillationConfig, "train": SweepConfig}
    kind = next((kinds[key] for key in kinds if key in raw), TrainConfig)
    config = load_toml(file, kind)
    assert config.out.startswith("runs/")
    assert from_dict(kind, to_dict(config)) == config


def test_the_cache_folder_can_be_moved(monkeypatch, tmp_path):
    monkeypatch.setenv("HYPERSTEER_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.setenv("HYPERSTEER_CACHE", "~/elsewhere")
    assert cache_folder() == Path.home() / "elsewhere"
    monkeypatch.delenv("HYPERSTEER_CACHE")
    assert cache_folder().name == "hypersteer"


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"way": "up"}, None),
        ({"way": "donw"}, "way = 'donw' is unknown; did you mean 'down'"),
        ({"ways": ("up", "left")}, "ways = 'left' is unknown; known: down, up"),
        ({"size": "wide"}, None),  # only choices are looked at
    ],
)
def test_choices_of_a_dataclass_made_in_code_are_checked(values, told):
    @dataclasses.dataclass
    class Moves:
        way: Literal["up", "down"] = "up"
        ways: tuple[Literal["up", "down"], ...] = ()
        size: int = 0

    with nullcontext() if told is None else pytest.raises(ConfigError, match=told):
        check_choices(Moves(**values))


@pytest.mark.parametrize("kind", [TrainConfig, EvaluateConfig, DistillationConfig, SynthesisConfig])
def test_settings_from_code_are_brought_in(kind, tmp_path):
    """Numbers of numpy and torch, lists and paths: all become what a file would have given."""
    config = kind(seed=np.int64(3), out=tmp_path / "a", base_lm={"name": "x"})
    assert (type(config.seed), type(config.out)) == (int, str)
    assert from_dict(kind, to_dict(config)) == config
    for seed in (2**63, -1, True, "3", 1.5, None, np.array([1, 2])):
        with pytest.raises(ConfigError, match="seed"):
            kind(seed=seed)


def test_numbers_from_code_are_checked():
    optim = OptimConfig(steps=torch.tensor(3), clip=np.float32(2), learning_rate=1)
    assert (optim.steps, optim.clip, optim.learning_rate) == (3, 2.0, 1.0)
    assert [type(v) for v in (optim.steps, optim.clip, optim.learning_rate)] == [int, float, float]
    assert DataConfig(source="a", held_out_concepts=[np.int32(1)]).held_out_concepts == (1,)
    for wrong, told in [
        (lambda: OptimConfig(steps="many"), "optim.steps = 'many' is not int"),
        (lambda: OptimConfig(clip=float("nan")), "optim.clip"),
        (lambda: SiteConfig(layer=1.5), "site.layer = 1.5"),
        (lambda: LMConfig(name="\ud800"), "not valid Unicode"),
        (lambda: TrainConfig(optim=3), "optim is a table of settings, not 3"),
        (lambda: TrainConfig(optim={"stps": 3}), "did you mean 'steps'"),
        (lambda: TeacherConfig(input_price=float("nan"), output_price=1.0), "input_price nan"),
        (lambda: TeacherConfig(timeout_s=float("nan")), "timeout_s"),
        (lambda: ProtocolConfig(temperature=float("inf")), "temperature"),
        (lambda: ConditionConfig(layers=("a",)), "layers"),
        (lambda: ConditionConfig(seed=2**63), "seed"),
        (lambda: from_dict(TrainConfig, [1]), "table of settings"),
    ]:
        with pytest.raises(ConfigError, match=told) as caught:
            wrong()
        assert "\n" not in str(caught.value)


def test_free_settings_of_methods_are_kept_as_json():
    config = EvaluateConfig(settings={"random": {"seed": np.int64(3)}})
    assert to_dict(config)["settings"] == {"random": {"seed": 3}}
    with pytest.raises(ConfigError, match="neither a text, a number nor a list"):
        to_dict(EvaluateConfig(settings={"random": {"seed": object()}}))


def test_toml_from_windows_is_read(tmp_path):
    file = tmp_path / "settings.toml"
    file.write_bytes(b"\xef\xbb\xbfseed = 3\r\n[optim]\r\nsteps = 4\r\n")
    config = load_toml(file, TrainConfig)
    assert (config.seed, config.optim.steps) == (3, 4)


@pytest.mark.parametrize("text", ["a = " + "[" * 100_000, "seed = " + "9" * 5000, "a = '\0'"])
def test_hostile_toml_is_told(tmp_path, text):
    refused(tmp_path, text, "settings.toml", "is not valid TOML")


@pytest.mark.parametrize("name", ["x" * 300, "~nobody-of-that-name/x", "a\0b", ""])
def test_a_settings_file_that_can_be_none_is_told(name):
    with pytest.raises(ConfigError, match="the settings file"):
        load_toml(name, TrainConfig)
