"""Who answers a harness: settings, checks, and what is written."""

import pytest

import hypersteer.harnesses.steered as module
from hypersteer.answering import Answerer
from hypersteer.config import from_dict
from hypersteer.config.harnesses import SteeredConfig
from hypersteer.errors import ConfigError, SteeringError
from hypersteer.harnesses.steered import Steered, open_steered
from tiny import case_of, edit_of, lm_of, site_of, steerer_of


@pytest.fixture
def loaded(monkeypatch):
    """Base LMs and checkpoints come from here, and what was asked for is kept."""
    asked = []

    def load_lm(name, **options):
        asked.append(("base", name, options))
        return lm_of("llama")

    def load(name, **options):
        asked.append(("checkpoint", name, options))
        return steerer_of(lm_of("llama"), "no-context")

    monkeypatch.setattr(module, "load_lm", load_lm)
    monkeypatch.setattr(module, "load", load)
    return asked


def test_the_checkpoint_that_ships_is_the_default(loaded):
    steered = open_steered(SteeredConfig(steer="talk like a pirate", strength=2, device="cpu"))
    assert loaded == [("checkpoint", "bundled", {"lm": None, "device": "cpu", "dtype": None})]
    assert (steered.steer, steered.strength) == ("talk like a pirate", 2.0)
    assert not steered.reads_prompts


def test_a_base_lm_answers_alone_or_in_place_of_the_checkpoints_own(loaded):
    alone = open_steered(SteeredConfig(base="here"))
    assert isinstance(alone.who, Answerer)
    assert alone.steer is None
    both = open_steered(SteeredConfig(base="here", checkpoint="there", steer="sing"))
    assert [one[:2] for one in loaded[1:]] == [("base", "here"), ("checkpoint", "there")]
    assert loaded[2][2]["lm"] is both.lm


def test_an_edit_comes_from_its_file(loaded, tmp_path, tiny_llama):
    path = tmp_path / "edit.safetensors"
    edit_of(tiny_llama, site_of(tiny_llama)).save(path)
    steered = open_steered(SteeredConfig(base="here", edit=str(path), strength=0.5))
    assert len(steered.writers([tiny_llama.chat.prompt("Hi.")], [steered.steer])) == 1
    assert steered.about()["steer"] is None


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"steer": "a", "edit": "b"}, "both steer and edit"),
        ({"base": "here", "steer": "a"}, "steer goes with a checkpoint"),
        ({"base": "here", "prompted": True}, "prompted goes with a checkpoint"),
        ({"strenght": 1}, "did you mean 'strength'"),
        ({"strength": "much"}, "--model_args: strength = 'much' is not float"),
        ({"edit": "no such file"}, "no such file"),
        ({"scope": "evrywhere"}, "did you mean 'everywhere'"),
        ({"strength": float("inf")}, "not finite"),
        ({"steer": " "}, "is empty"),
    ],
)
def test_bad_settings_are_told_in_one_line(given, told, loaded):
    with pytest.raises(SteeringError, match=told) as caught:
        open_steered(from_dict(SteeredConfig, given, "--model_args"))
    assert len(str(caught.value).splitlines()) == 1


def test_several_processes_are_refused(loaded, monkeypatch):
    monkeypatch.setattr(module, "neighbours", lambda: 2)
    with pytest.raises(ConfigError, match="several processes"):
        open_steered(SteeredConfig())
    assert not loaded


def test_a_base_lm_alone_takes_no_steering_prompt(tiny_llama):
    steered = Steered(who=Answerer(tiny_llama))
    with pytest.raises(ConfigError, match="needs a checkpoint"):
        steered.check("talk like a pirate")
    with pytest.raises(ConfigError, match="needs a checkpoint"):
        Steered(who=Answerer(tiny_llama), steer="talk like a pirate")


def test_an_edit_of_another_base_lm_is_refused(tiny_llama):
    other = lm_of("qwen3")
    with pytest.raises(SteeringError, match="another"):
        Steered(who=Answerer(tiny_llama), steer=edit_of(other, site_of(other)))


def test_nothing_is_written_at_strength_0():
    case = case_of("llama", "cross-attention")
    prompt = case.lm.chat.prompt("Hi.")
    steered = Steered(who=case.steerer, steer="sing", strength=0.0)
    assert steered.writers([prompt], ["sing"]) == []
    assert steered.writers([prompt], [None]) == []
    assert not steered.says("sing")
    assert Steered(who=case.steerer, prompted=True).says("sing")
