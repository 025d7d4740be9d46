"""Which judge settings get, and what is said where something is missing."""

import dataclasses

import pytest

from hypersteer.config import JudgeConfig
from hypersteer.errors import ModelError
from hypersteer.judges import choose
from hypersteer.judges.choose import ASKED, OTHER, SMALL, make_judge, open_asker
from hypersteer.judges.likelihood import LikelihoodJudge
from hypersteer.judges.llm import LLMJudge
from hypersteer.judges.local import LocalJudge
from hypersteer.judges.yes_no import EndpointAsker, ModelAsker
from hypersteer.lm.catalogue import names_gguf
from judges.test_local import calibration


@pytest.fixture
def asked(monkeypatch):
    """Takes the place of the models that ask and measure; says which are wanted."""
    wanted = []

    class Asker:
        name = "asker 0123abcd"

    monkeypatch.setattr(choose, "open_asker", lambda config: wanted.append(config) or Asker())
    return wanted


@pytest.fixture
def with_scales(tiny_llama, tmp_path):
    path = tmp_path / "calibration.json"
    calibration(tiny_llama).save(path)
    return str(path)


def test_auto_is_local_where_models_and_engine_are_at_hand(
    tiny_llama, asked, with_scales, monkeypatch
):
    monkeypatch.setattr(choose, "load_lm", lambda *_args, **_options: tiny_llama)
    monkeypatch.setattr(choose, "_at_hand", lambda _config, _lm: True)
    judge = make_judge(JudgeConfig(calibration=with_scales), tiny_llama)
    assert isinstance(judge, LocalJudge)
    assert "measures fluency by the steered model" in judge.name
    assert len(asked) == 1


def test_auto_is_likelihood_elsewhere_and_says_how_to_get_better(tiny_llama, monkeypatch, capsys):
    monkeypatch.setattr(choose, "_at_hand", lambda _config, _lm: False)
    made = []
    monkeypatch.setattr(
        LikelihoodJudge, "from_config", lambda config, lm: made.append((config, lm)) or "judge"
    )
    assert make_judge(JudgeConfig(), tiny_llama) == "judge"
    err = capsys.readouterr().err
    assert f"hypersteer models get {ASKED}" in err
    assert "hypersteer[local]" in err
    make_judge(JudgeConfig(kind="likelihood"), tiny_llama)
    assert capsys.readouterr().err == ""
    assert len(made) == 2


def test_llm_asks_an_endpoint(tiny_llama, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    judge = make_judge(JudgeConfig(kind="llm"), tiny_llama)
    assert isinstance(judge, LLMJudge)
    assert "gpt-4o-mini" in judge.name


@pytest.mark.parametrize(("steered", "measuring"), [(SMALL, OTHER), (OTHER, SMALL), ("x", SMALL)])
def test_who_measures_is_not_who_is_steered(
    tiny_llama, asked, with_scales, monkeypatch, steered, measuring
):
    loaded = []

    def load(name, **_options):
        loaded.append(name)
        return tiny_llama

    monkeypatch.setattr(choose, "load_lm", load)
    lm = dataclasses.replace(tiny_llama, name=steered)
    make_judge(JudgeConfig(kind="local", calibration=with_scales), lm)
    assert loaded == [measuring]
    assert len(asked) == 1


def test_a_model_with_the_steered_ones_weights_is_told_in_the_name(tiny_llama, asked, with_scales):
    config = JudgeConfig(
        kind="local", model=tiny_llama.name, fluency_lm=tiny_llama.name, calibration=with_scales
    )
    judge = make_judge(config, tiny_llama)
    assert judge.name.endswith("; asks and measures fluency by the steered model)")
    assert asked == [config]


def test_a_server_is_asked_under_its_own_name():
    config = JudgeConfig(kind="local", model="served", base_url="http://127.0.0.1:9/v1")
    asker = open_asker(config)
    assert isinstance(asker, EndpointAsker)
    assert asker.name == "served"


def test_a_folder_is_read_in_this_process(tmp_path, tiny_llama):
    tiny_llama.model.save_pretrained(tmp_path / "lm")
    tiny_llama.tokenizer.save_pretrained(tmp_path / "lm")
    asker = open_asker(JudgeConfig(kind="local", model=str(tmp_path / "lm")))
    assert isinstance(asker, ModelAsker)


def test_a_missing_gguf_file_is_told(tmp_path):
    with pytest.raises(ModelError, match="no such file"):
        open_asker(JudgeConfig(kind="local", model=str(tmp_path / "none.gguf")))


@pytest.mark.parametrize("missing", ["nothing", "engine", "asks", "measures"])
def test_what_must_be_at_hand_for_auto(tiny_llama, monkeypatch, missing):
    monkeypatch.setattr(choose, "PACKAGE", "none" if missing == "engine" else "json")
    there = {ASKED, SMALL} - {{"asks": ASKED, "measures": SMALL}.get(missing)}
    monkeypatch.setattr(
        choose, "stored_gguf", lambda model: "file" if model.alias in there else None
    )
    assert choose._at_hand(JudgeConfig(), tiny_llama) == (missing == "nothing")


@pytest.mark.parametrize(
    ("name", "runs"),
    [
        (ASKED, True),
        (SMALL, True),
        ("folder/model.gguf", True),
        ("gemma-2-2b-it", False),
        ("gpt-4o-mini", False),
        ("", False),
    ],
)
def test_which_names_an_engine_of_ours_can_run(name, runs):
    assert names_gguf(name) is runs
