"""Checkpoints given away: saved to a folder, pushed to the Hub, and loaded at a revision."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig, AutoTokenizer

import hypersteer as hs
import tiny
from hypersteer import checkpoint
from hypersteer.checkpoint import FILES, write_folder
from hypersteer.errors import CheckpointError, ConfigError, ModelError, SteeringError
from hypersteer.lm import load as load_module


@pytest.fixture
def steerer(tiny_llama, tmp_path):
    made = tiny.steerer_of(tiny_llama)
    (tmp_path / "made").mkdir()
    write_folder(tmp_path / "made", made.hypernet.state_dict(), made.card)
    (tmp_path / "made" / "trainer").mkdir()
    return hs.load(tmp_path / "made", lm=tiny_llama)


def test_a_saved_checkpoint_is_the_same_one(steerer, tmp_path):
    folder = steerer.save(tmp_path / "deep" / "copy")
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    again = hs.load(folder, lm=steerer.lm)
    one, other = (each.edit("sing", "Hi") for each in (steerer, again))
    assert torch.equal(one.vector, other.vector)
    assert one.generator == other.generator
    assert again.card == steerer.card
    steerer.save(folder)  # over the old one
    steerer.save(steerer.folder)  # onto itself
    assert hs.load(steerer.folder, lm=steerer.lm).card == steerer.card


def test_what_cannot_be_saved_is_told(steerer, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    for place in (tmp_path / "file", "a\0b", ""):
        with pytest.raises(SteeringError) as caught:
            steerer.save(place)
        assert "\n" not in str(caught.value)

    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "publish", full)
    with pytest.raises(SteeringError, match="No space left"):
        steerer.save(tmp_path / "other")
    fresh = tiny.steerer_of(steerer.lm)
    with pytest.raises(SteeringError, match="came from no checkpoint"):
        fresh.save(tmp_path / "none")


class Hub:
    """What the Hub's client is asked for, kept; the calls and names are the client's own."""

    def __init__(self):
        self.calls = []

    def create_repo(self, repo_id, *, private=None, exist_ok=False):
        self.calls.append(("create", repo_id, private, exist_ok))

    def create_branch(self, repo_id, *, branch, exist_ok=False):
        self.calls.append(("branch", repo_id, branch, exist_ok))

    def upload_folder(self, *, repo_id, folder_path, allow_patterns, revision, commit_message):
        names = sorted(path.name for path in Path(folder_path).iterdir())
        self.calls.append(("upload", repo_id, [n for n in names if n in allow_patterns], revision))
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/1")


def test_a_checkpoint_is_pushed(steerer, monkeypatch):
    hub = Hub()
    monkeypatch.setattr(checkpoint, "HfApi", lambda: hub)
    assert steerer.push_to_hub("owner/name") == "https://hub/owner/name/commit/1"
    steerer.push_to_hub("owner/name", private=True, revision="v2")
    assert hub.calls == [
        ("create", "owner/name", None, True),
        ("upload", "owner/name", sorted(FILES), None),
        ("create", "owner/name", True, True),
        ("branch", "owner/name", "v2", True),
        ("upload", "owner/name", sorted(FILES), "v2"),
    ]
    for bad in ("name", "a/b/c", None):
        with pytest.raises(SteeringError, match="no Hub id"):
            steerer.push_to_hub(bad)


def test_the_client_has_the_calls_that_are_made():
    import inspect

    from huggingface_hub import HfApi

    for name, wanted in (
        ("create_repo", {"private", "exist_ok"}),
        ("create_branch", {"branch", "exist_ok"}),
        ("upload_folder", {"repo_id", "folder_path", "allow_patterns", "revision"}),
    ):
        assert wanted <= inspect.signature(getattr(HfApi, name)).parameters.keys()


def test_what_the_hub_refuses_is_one_line(steerer, monkeypatch):
    monkeypatch.setattr(
        Hub, "create_repo", lambda *_a, **_k: (_ for _ in ()).throw(ValueError("no\ntoken"))
    )
    monkeypatch.setattr(checkpoint, "HfApi", Hub)
    with pytest.raises(SteeringError, match="cannot push the checkpoint to 'owner/name'") as caught:
        steerer.push_to_hub("owner/name")
    assert "\n" not in str(caught.value)


def test_a_revision_is_asked_for(steerer, monkeypatch, tmp_path):
    asked = []

    def snapshot(name, revision, allow_patterns):
        asked.append((name, revision))
        return str(steerer.folder)

    monkeypatch.setattr(checkpoint, "snapshot_download", snapshot)
    hs.load("owner/name", lm=steerer.lm, revision="v2")
    assert asked == [("owner/name", "v2")]
    with pytest.raises(CheckpointError, match="is a folder, which has no revision 'v2'"):
        hs.load(steerer.folder, lm=steerer.lm, revision="v2")


@pytest.fixture
def model(tmp_path):
    tiny.model_of("llama").save_pretrained(tmp_path / "model")
    tiny.tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_base_lm_is_loaded_as_told(model):
    plain = hs.load_lm(model, device="cpu")
    eager = hs.load_lm(model, device="cpu", attn_implementation="eager")
    assert eager.model.config._attn_implementation == "eager"
    assert plain.model.config._attn_implementation != "eager"
    mapped = hs.load_lm(model, dtype="float32", device_map={"": "cpu"})
    assert mapped.generate("Hi", max_new_tokens=4) == plain.generate("Hi", max_new_tokens=4)
    with pytest.raises(ConfigError, match="device 'cpu' and a device_map"):
        hs.load_lm(model, device="cpu", device_map="auto")
    with pytest.raises(ModelError, match="no revision 'main'"):
        hs.load_lm(model, revision="main")
    with pytest.raises(ModelError, match="cannot load the base LM"):
        hs.load_lm(model, device="cpu", attn_implementation="nonsense")


def test_a_revision_of_a_base_lm_is_asked_for_everywhere(model, monkeypatch):
    """Configuration, tokenizer and weights come from the same one."""
    asked = []

    def local(kind, real):
        def load(_name, *args, revision=None, **options):
            asked.append((kind, revision))
            return real(model, *args, **options)

        return load

    monkeypatch.setattr(AutoConfig, "from_pretrained", local("config", AutoConfig.from_pretrained))
    monkeypatch.setattr(
        AutoTokenizer, "from_pretrained", local("tokenizer", AutoTokenizer.from_pretrained)
    )
    weights = load_module.load_weights

    def load_weights(_name, *, options, **more):
        asked.append(("weights", options.pop("revision")))
        return weights(model, options=options, **more)

    monkeypatch.setattr(load_module, "load_weights", load_weights)
    hs.load_lm("owner/name", device="cpu", revision="abc")
    assert {kind for kind, _ in asked} >= {"config", "tokenizer", "weights"}
    assert {revision for kind, revision in asked if kind in ("tokenizer", "weights")} == {"abc"}
    assert ("config", "abc") in asked
