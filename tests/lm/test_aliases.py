"""Where a base LM of a short name comes from: this disk, the Hub, or wheels."""

import sys

import pytest

import tiny
from gguf_files import write_gguf
from hypersteer.errors import ModelError
from hypersteer.lm import fetch as fetch_module
from hypersteer.lm import load as load_module
from hypersteer.lm.fetch import gguf_file
from hypersteer.lm.load import load_lm
from hypersteer.lm.stored import converted_form, fetched_gguf, remove, stored
from wheels import files


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """The GGUF file of the tiny Llama."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path, tiny.model_of("llama"), tiny.tokenizer())
    return path.read_bytes()


@pytest.fixture
def model(index, known, content):
    """The tiny Llama under a short name, in two wheels."""
    made = index.model([content[:50_000], content[50_000:]], alias="tiny-lm")
    known(made)
    return made


@pytest.fixture
def no_fetch(monkeypatch):
    """Whatever asks the Hub or pip fails the test."""
    monkeypatch.setattr(load_module, "hub_answers", lambda *_: pytest.fail("the Hub was asked"))
    monkeypatch.setattr(fetch_module, "download", lambda *_: pytest.fail("pip was asked"))


def kinds(model):
    return [form.kind for form in stored(model)]


def test_where_no_hub_is_it_comes_from_wheels_and_then_from_the_disk(
    model, tiny_llama, capfd, request, tmp_path
):
    lm = load_lm("tiny-lm", device="cpu")
    assert lm.name == "tiny-lm"
    assert lm.fingerprint == tiny_llama.fingerprint
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("fetching tiny-lm: ")
    assert "GGUF tensors" not in err
    assert kinds(model) == ["fetched", "converted"]
    request.getfixturevalue("no_fetch")
    assert load_lm("tiny-lm").fingerprint == lm.fingerprint
    assert gguf_file("tiny-lm") == fetched_gguf(model)
    fetched_gguf(model).unlink()
    assert load_lm("tiny-lm").fingerprint == lm.fingerprint
    assert capfd.readouterr() == ("", "")
    assert remove(model) > 100_000
    assert kinds(model) == []
    assert files(tmp_path / "cache") == {}


def test_a_file_of_ones_own_is_not_taken_for_it(model, tmp_path, content):
    """It may have the same name; what is converted goes by what is in it."""
    load_lm("tiny-lm")
    other = tmp_path / model.file
    other.write_bytes(content[:100])
    with pytest.raises(ModelError, match="cannot convert"):
        load_lm(other)


def test_what_a_conversion_left_that_was_killed_is_removed(model, tmp_path, monkeypatch):
    load_lm("tiny-lm")
    folder = converted_form(model)
    folder.rename(f"{folder}.unfinished-abc")
    assert kinds(model) == ["fetched"]
    remove(model)
    assert files(tmp_path / "cache") == {}


def test_where_the_hub_answers_it_comes_from_there(model, monkeypatch):
    monkeypatch.setattr(load_module, "hub_answers", lambda *_: True)
    monkeypatch.setattr(load_module, "fetch", lambda *_: pytest.fail("wheels were fetched"))
    assert load_module.locate("tiny-lm") == (model.hub, None)
    assert load_module.locate("tiny-lm", "v1") == (model.hub, None)


def test_a_hub_that_refuses_is_not_gone_round(model, monkeypatch):
    def refuses(*_):
        raise ModelError("accept its terms")

    monkeypatch.setattr(load_module, "hub_answers", refuses)
    monkeypatch.setattr(load_module, "fetch", lambda *_: pytest.fail("wheels were fetched"))
    with pytest.raises(ModelError, match="accept its terms"):
        load_lm("tiny-lm")


def hub_cache(folder, repo):
    """A base LM as the Hugging Face libraries keep it, with its commit."""
    snapshot = folder / f"models--{repo.replace('/', '--')}" / "snapshots" / ("0" * 40)
    tiny.model_of("llama", seed=1).save_pretrained(snapshot)
    tiny.tokenizer().save_pretrained(snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    return snapshot


def test_what_the_hub_gave_once_is_taken_before_wheels(model, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    snapshot = hub_cache(tmp_path / "hub", model.hub)
    monkeypatch.setattr(load_module, "fetch", lambda *_: pytest.fail("wheels were fetched"))
    lm = load_lm("tiny-lm", device="cpu")
    assert lm.fingerprint == tiny.lm_of("llama", seed=1).fingerprint
    assert kinds(model) == ["Hub cache"]
    remove(model)
    assert kinds(model) == ["Hub cache"]
    (snapshot / "model.safetensors").unlink()  # a download that was cut off
    assert kinds(model) == []


def test_a_revision_comes_from_the_hub_only(model, monkeypatch):
    gguf_file("tiny-lm", progress=False)
    with pytest.raises(ModelError, match="'tiny-lm': it comes from the Hugging Face Hub"):
        load_lm("tiny-lm", revision="v1")


def test_what_only_the_hub_has_is_told_at_once_where_no_hub_is(index):
    for name in ("qwen3-0.6b", "llama-3.1-8b-instruct"):
        with pytest.raises(ModelError, match="which does not answer"):
            load_lm(name)


def test_an_installed_package_is_taken_first_and_not_imported(
    index, known, no_fetch, tmp_path, monkeypatch, content, tiny_llama
):
    """As that of the default."""
    model = index.model([content], alias="packed-lm")
    known(model)
    place = tmp_path / "installed" / model.wheels[0].member
    place.parent.mkdir(parents=True)
    place.write_bytes(content)
    package = tmp_path / "installed" / "packed_lm_part0"
    (package / "__init__.py").write_text("raise ImportError('imported')")
    monkeypatch.syspath_prepend(tmp_path / "installed")
    assert gguf_file("packed-lm") == place
    assert load_lm("packed-lm").fingerprint == tiny_llama.fingerprint
    assert package.name not in sys.modules
    assert kinds(model) == ["package", "converted"]
    remove(model)
    assert kinds(model) == ["package"]
