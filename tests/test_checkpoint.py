"""Checkpoint folders: exact round trips, and one line for everything that is not one of ours."""

import dataclasses
import hashlib
import json
import os
import pickle
import shutil

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

import tiny
from hypersteer import checkpoint, steering
from hypersteer.checkpoint import (
    FILES,
    export,
    find_checkpoint,
    generator_hash,
    publish,
    read_hypernet,
    write_folder,
)
from hypersteer.config import HypernetConfig, TrainConfig, to_dict
from hypersteer.edits.sites import Site
from hypersteer.errors import CheckpointError
from hypersteer.hypernet.card import Card, read_card
from hypersteer.hypernet.network import new_hypernet
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import collate

VARIANTS = ["cross-attention", "in-context", "no-context"]
DEFAULT_SITE = Site(1)
TEXTS = ["talk like a pirate", "be brief"]


def make(lm, folder, variant="cross-attention", site=DEFAULT_SITE, **card):
    """A checkpoint whose weights are nobody's defaults; the hypernetwork and the card."""
    config = HypernetConfig(variant=variant, blocks=2, head_width=24, init="pretrained")
    hypernet = new_hypernet(lm, config, site, seed=0)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in hypernet.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    described = Card(
        fingerprint=lm.fingerprint,
        site=site,
        hypernet=config,
        **{
            "base_lm": lm.name,
            "scope": "all",
            "training": to_dict(TrainConfig()),
            "step": 17,
            "metrics": {"held_out_gap": 0.25, "held_out_loss": 1.5},
            "concepts": ("talk like a pirate", 'say "aye" & co: <b>ünïcode</b>'),
            "held_out": ("be brief",),
            **card,
        },
    )
    folder.mkdir(parents=True)
    write_folder(folder, hypernet.state_dict(), described)
    return hypernet, described


def vectors(lm, hypernet, card):
    prompts = [lm.chat.prompt("Tell me about your day."), lm.chat.prompt("Why?")]
    batch = collate(prompts, pad_id=lm.chat.pad_id)
    with torch.no_grad():
        hidden = lm.states(batch, card.site)
        ids = [lm.chat.text(text) for text in TEXTS]
        return tiny.write_vectors(hypernet, lm, card.hypernet, ids, prompts, hidden, batch.spans)


def edit_json(folder, change):
    file = folder / "config.json"
    raw = json.loads(file.read_text())
    change(raw)
    file.write_text(json.dumps(raw))


def refused(action, *wanted):
    with pytest.raises(CheckpointError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    for part in wanted:
        assert part in message, message


# --- round trips --------------------------------------------------------------------------------


def test_save_and_load_is_exact_for_every_family(lm, tmp_path):
    hypernet, card = make(lm, tmp_path / "made")
    loaded = read_hypernet(tmp_path / "made", read_card(tmp_path / "made"), lm)
    ours, theirs = loaded.state_dict(), hypernet.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name].dtype == torch.float32
        assert torch.equal(ours[name], value), name
    assert torch.equal(vectors(lm, loaded, card), vectors(lm, hypernet, card))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("site", [Site(2), Site(0, "mlp"), Site(3, "attention")], ids=str)
def test_save_and_load_is_exact_for_every_variant(tiny_llama, tmp_path, variant, site):
    hypernet, card = make(tiny_llama, tmp_path / "made", variant, site)
    steerer = steering.load(tmp_path / "made", lm=tiny_llama)
    before = vectors(tiny_llama, hypernet, card)
    assert torch.equal(vectors(tiny_llama, steerer.hypernet, card), before)
    assert steerer.card == card
    assert before.abs().min() > 0


@pytest.mark.parametrize(
    "scope",
    ["all", "everywhere", "prompt", "response", "last_prompt", "prompt_ends", (True, False)],
)
def test_the_card_survives(tiny_llama, tmp_path, scope):
    _, card = make(tiny_llama, tmp_path / "made", scope=scope)
    assert read_card(tmp_path / "made") == card
    raw = json.loads((tmp_path / "made/config.json").read_text())
    assert raw["format"] == "hypersteer-checkpoint-1"
    assert raw["version"]


def test_what_is_loaded_is_for_use_not_for_training(tiny_llama, tmp_path):
    make(tiny_llama, tmp_path / "made")
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    loaded = read_hypernet(tmp_path / "made", read_card(tmp_path / "made"), tiny_llama)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert loaded.config.init == "pretrained"


def test_weights_are_float32_whatever_the_base_lm_is(tmp_path):
    low = BaseLM.of(tiny.model_of("llama").to(torch.bfloat16), tiny.tokenizer(), name="llama")
    hypernet, card = make(low, tmp_path / "made")
    stored = load_file(tmp_path / "made/model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float32}
    loaded = read_hypernet(tmp_path / "made", card, low)
    assert torch.equal(vectors(low, loaded, card), vectors(low, hypernet, card))


# --- what is in the files -----------------------------------------------------------------------


def test_no_token_embeddings_and_no_base_lm_in_the_file(lm, tmp_path):
    hypernet, _ = make(lm, tmp_path / "made")
    stored = load_file(tmp_path / "made/model.safetensors")
    assert stored.keys() == hypernet.state_dict().keys()
    assert not [name for name, value in stored.items() if lm.vocab in value.shape]
    assert not [name for name in stored if "embed_tokens" in name or "wte" in name]
    assert sum(value.numel() for value in stored.values()) == sum(
        value.numel() for value in hypernet.state_dict().values()
    )


def test_the_folder_holds_three_files_and_no_pickle(tiny_llama, tmp_path, monkeypatch):
    make(tiny_llama, tmp_path / "made")
    found = sorted(path.name for path in (tmp_path / "made").iterdir())
    assert found == ["README.md", "config.json", "model.safetensors"]

    def forbidden(*_args, **_kwargs):
        raise AssertionError("a pickle was read")

    monkeypatch.setattr(torch, "load", forbidden)
    monkeypatch.setattr(pickle, "load", forbidden)
    monkeypatch.setattr(pickle, "loads", forbidden)
    monkeypatch.setattr(pickle, "Unpickler", forbidden)
    steering.load(tmp_path / "made", lm=tiny_llama)


@pytest.mark.parametrize("mode", [0o755, 0o700])
def test_whoever_may_read_the_folder_may_read_all_of_it(tiny_llama, tmp_path, mode):
    """A checkpoint, what is given away of it, and an edit; safetensors itself lets nobody else."""
    hypernet, card = make(tiny_llama, tmp_path / "made")
    for name in ("shared", "given"):
        (tmp_path / name).mkdir()
    for folder in (tmp_path, *tmp_path.iterdir()):
        folder.chmod(mode)
    export(tmp_path / "made", tmp_path / "given")
    tiny.edit_of(tiny_llama, Site(1), 1).save(tmp_path / "shared/edit.safetensors")
    write_folder(tmp_path / "shared", hypernet.state_dict(), card)
    weights = [file for file in tmp_path.rglob("*.safetensors") if file.parent.name != "made"]
    assert len(weights) == 3
    assert {file.stat().st_mode & 0o777 for file in weights} == {mode & 0o666}


def test_a_pickle_in_the_weights_place_is_refused(tiny_llama, tmp_path):
    hypernet, _ = make(tiny_llama, tmp_path / "made")
    torch.save(hypernet.state_dict(), tmp_path / "made/model.safetensors")
    refused(lambda: steering.load(tmp_path / "made", lm=tiny_llama), "damaged or foreign")


def test_the_model_card_says_what_it_is(tiny_llama, tmp_path):
    _, card = make(tiny_llama, tmp_path / "made", site=Site(2, "mlp"), scope="response")
    text = (tmp_path / "made/README.md").read_text(encoding="utf-8")
    wanted = [
        "mlp@2",
        "`response`",
        "`cross-attention`",
        "17 training steps",
        card.fingerprint,
        tiny_llama.name,
        *card.concepts,
        "Held out: be brief",
        "| held_out_gap | 0.2500 |",
        "hs.load(",
    ]
    for part in wanted:
        assert part in text
    assert "more" not in text.split("## Trained on")[1]


@pytest.mark.parametrize("name", ["owner/name", "./models: old # 1", 'a "quoted" folder'])
def test_the_model_card_is_one_for_the_hub(tiny_llama, tmp_path, name):
    make(tiny_llama, tmp_path / "made", base_lm=name)
    data = ModelCard.load(tmp_path / "made/README.md").data
    assert data.library_name == "hypersteer"
    assert data.base_model == name
    assert "steering" in data.tags


def test_the_model_card_stays_short(tiny_llama, tmp_path):
    concepts = tuple(f"concept number {n}" for n in range(100))
    make(tiny_llama, tmp_path / "made", concepts=concepts, held_out=())
    text = (tmp_path / "made/README.md").read_text()
    assert "concept number 39" in text
    assert "concept number 40" not in text
    assert "and 60 more" in text
    assert "Held out: none" in text
    assert read_card(tmp_path / "made").concepts == concepts


def test_generator_hash_names_the_weights(tiny_llama, tmp_path):
    make(tiny_llama, tmp_path / "one")
    make(tiny_llama, tmp_path / "same", step=18)
    make(tiny_llama, tmp_path / "other", variant="no-context")
    digest = hashlib.sha256((tmp_path / "one/model.safetensors").read_bytes()).hexdigest()
    assert generator_hash(tmp_path / "one") == digest[:16]
    assert generator_hash(tmp_path / "same") == digest[:16]
    assert generator_hash(tmp_path / "other") != digest[:16]
    edit = steering.load(tmp_path / "one", lm=tiny_llama).edit("be brief", prompt="Why?")
    assert edit.generator == digest[:16]


# --- what is not one of ours --------------------------------------------------------------------


def test_a_foreign_base_lm_is_refused(tiny_llama, tmp_path):
    make(tiny_llama, tmp_path / "made")
    other = tiny.lm_of("llama", seed=1)
    refused(
        lambda: steering.load(tmp_path / "made", lm=other),
        str(tmp_path / "made"),
        tiny_llama.fingerprint,
        other.fingerprint,
        "train a hypernetwork for this one",
    )


def test_the_same_weights_in_another_dtype_are_no_foreigner(tiny_llama, tmp_path):
    make(tiny_llama, tmp_path / "made")
    model = tiny.model_of("llama").to(torch.bfloat16)
    low = BaseLM.of(model, tiny.tokenizer(), name="llama")
    assert low.fingerprint == tiny_llama.fingerprint
    assert steering.load(tmp_path / "made", lm=low).edit("be brief", prompt="Why?").norm > 0


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file_is_no_checkpoint(tiny_llama, tmp_path, missing):
    make(tiny_llama, tmp_path / "made")
    (tmp_path / "made" / missing).unlink()
    refused(
        lambda: steering.load(tmp_path / "made", lm=tiny_llama),
        "is no checkpoint",
        "it lacks config.json or model.safetensors",
        "'hypersteer train'",
    )


def test_an_empty_or_missing_folder_is_no_checkpoint(tmp_path):
    refused(lambda: find_checkpoint(tmp_path), "is no checkpoint")
    for name in (tmp_path / "nowhere", "nowhere", "./nowhere", "~/nowhere/at/all", "a/b/c"):
        refused(lambda name=name: find_checkpoint(name), "no checkpoint folder at", str(name))
    (tmp_path / "file").write_text("x")
    refused(lambda: find_checkpoint(tmp_path / "file"), "no checkpoint folder at")


def test_a_hub_id_is_fetched(tiny_llama, tmp_path, monkeypatch):
    make(tiny_llama, tmp_path / "made")
    asked = []

    def snapshot(name, revision, allow_patterns):
        asked.append((name, sorted(allow_patterns)))
        return str(tmp_path / "made")

    monkeypatch.setattr(checkpoint, "snapshot_download", snapshot)
    assert find_checkpoint("owner/name") == tmp_path / "made"
    assert asked == [("owner/name", sorted(checkpoint.GIVEN_AWAY))]


def test_a_hub_that_cannot_be_reached_is_told(monkeypatch):
    def snapshot(*_args, **_kwargs):
        raise ConnectionError("no route to host\nand more")

    monkeypatch.setattr(checkpoint, "snapshot_download", snapshot)
    refused(lambda: find_checkpoint("owner/name"), "owner/name", "no route to host")


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without_one(path):
    stored = load_file(path)
    del stored["head.0.weight"]
    save_file(stored, path)


def with_one_more(path):
    save_file({**load_file(path), "extra": torch.zeros(1)}, path)


def in_another_shape(path):
    save_file({**load_file(path), "head.0.weight": torch.zeros(3, 3)}, path)


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("not weights at all"),
        without_one,
        with_one_more,
        in_another_shape,
    ],
    ids=["cut", "empty", "text", "a tensor less", "a tensor more", "another shape"],
)
def test_corrupt_weights_are_refused(tiny_llama, tmp_path, damage):
    make(tiny_llama, tmp_path / "made")
    file = tmp_path / "made/model.safetensors"
    damage(file)
    refused(
        lambda: steering.load(tmp_path / "made", lm=tiny_llama), str(file), "damaged or foreign"
    )


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("{", "cannot read"),
        ("", "cannot read"),
        ("[1, 2]", "format None"),
        ('"hypersteer-checkpoint-1"', "format None"),
        ('{"model_type": "llama"}', "format None"),
        ('{"format": "hypersteer-checkpoint-99"}', "format 'hypersteer-checkpoint-99'"),
        ('{"format": "hypersteer-checkpoint-1"}', "is damaged"),
    ],
)
def test_a_foreign_config_is_refused(tiny_llama, tmp_path, text, wanted):
    make(tiny_llama, tmp_path / "made")
    (tmp_path / "made/config.json").write_text(text)
    refused(lambda: steering.load(tmp_path / "made", lm=tiny_llama), str(tmp_path / "made"), wanted)


def test_a_config_that_is_not_text_is_refused(tiny_llama, tmp_path):
    make(tiny_llama, tmp_path / "made")
    (tmp_path / "made/config.json").write_bytes(b"\xff\xfe\x00")
    refused(lambda: read_card(tmp_path / "made"), "cannot read")


# Earlier versions wrote no identity.
@pytest.mark.parametrize(
    "key", sorted({field.name for field in dataclasses.fields(Card)} - {"identity"})
)
def test_a_config_without_a_key_is_refused(tiny_llama, tmp_path, key):
    make(tiny_llama, tmp_path / "made")
    edit_json(tmp_path / "made", lambda raw: raw.pop(key))
    refused(lambda: read_card(tmp_path / "made"), str(tmp_path / "made"), "is damaged", key)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("site", "residual@1"),
        ("site", {"layer": 1}),
        ("site", {"layer": 1, "kind": "embedding"}),
        ("scope", "everything"),
        ("scope", None),
        ("hypernet", 3),
        ("hypernet", {"variant": "sideways"}),
        ("hypernet", {"blocks": 0}),
        ("hypernet", {"unheard_of": 1}),
        ("training", 3),
        ("metrics", [1]),
        ("step", "seventeen"),
        ("concepts", 3),
        ("concepts", [3]),
        ("held_out", [None]),
        ("base_lm", 5),
    ],
)
def test_a_config_with_a_bad_value_is_refused(tiny_llama, tmp_path, key, value):
    make(tiny_llama, tmp_path / "made")
    edit_json(tmp_path / "made", lambda raw: raw.update({key: value}))
    refused(lambda: read_card(tmp_path / "made"), str(tmp_path / "made"), "is damaged")


# --- publishing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("links", [True, False])
def test_publishing_makes_a_loadable_folder(tiny_llama, tmp_path, monkeypatch, links):
    """By hard links, or by copies where the disk has none; what was there is replaced."""

    def no_links(*_args):
        raise OSError("not on this disk")

    if not links:
        monkeypatch.setattr(os, "link", no_links)
    make(tiny_llama, tmp_path / "one", step=1)
    make(tiny_llama, tmp_path / "two", variant="no-context", step=2)
    before = (tmp_path / "one/model.safetensors").read_bytes()
    run = tmp_path / "run"
    run.mkdir()
    for name, step in (("one", 1), ("two", 2)):
        publish(tmp_path / name, run)
        assert steering.load(run, lm=tiny_llama).card.step == step
        assert generator_hash(run) == generator_hash(tmp_path / name)
    assert sorted(path.name for path in run.iterdir()) == sorted(checkpoint.FILES)
    assert (tmp_path / "one/model.safetensors").read_bytes() == before
    shutil.rmtree(tmp_path / "two")  # pruned later
    assert steering.load(run, lm=tiny_llama).card.step == 2


# --- giving away --------------------------------------------------------------------------------


def test_an_exported_checkpoint_is_half_the_size_and_steers_alike(tiny_llama, tmp_path):
    hypernet, card = make(tiny_llama, tmp_path / "made")
    (tmp_path / "made" / "trainer").mkdir()
    target = export(tmp_path / "made", tmp_path / "given", "## Scores\n\nconcept 1.5 of 2")
    assert {file.name for file in target.iterdir()} == set(FILES)
    assert not list(tmp_path.glob("tmp*"))
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("made", "given")]
    assert sizes[1] < 0.6 * sizes[0]
    assert "concept 1.5 of 2" in (target / "README.md").read_text()

    loaded = read_hypernet(target, read_card(target), tiny_llama)
    assert {value.dtype for value in loaded.state_dict().values()} == {torch.float32}
    ours, theirs = vectors(tiny_llama, loaded, card), vectors(tiny_llama, hypernet, card)
    assert 0 < (ours - theirs).norm() < 0.02 * theirs.norm()

    export(tmp_path / "made", tmp_path / "stronger", strength=1.5)
    loaded = read_hypernet(tmp_path / "stronger", read_card(tmp_path / "stronger"), tiny_llama)
    torch.testing.assert_close(vectors(tiny_llama, loaded, card), 1.5 * ours, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tiny_llama, tmp_path, value):
    make(tiny_llama, tmp_path / "made")
    file = tmp_path / "made" / "model.safetensors"
    weights = load_file(file)
    weights["head.0.weight"][3, 2] = value
    save_file(weights, file)
    card = read_card(tmp_path / "made")
    refused(
        lambda: read_hypernet(tmp_path / "made", card, tiny_llama),
        str(file),
        "NaN or infinite values in head.0.weight",
    )


def test_export_replaces_an_older_one_and_refuses_what_is_no_checkpoint(tiny_llama, tmp_path):
    make(tiny_llama, tmp_path / "first")
    make(tiny_llama, tmp_path / "second", step=99)
    export(tmp_path / "first", tmp_path / "given")
    export(tmp_path / "second", tmp_path / "given")
    assert read_card(tmp_path / "given").step == 99
    refused(lambda: export(tmp_path / "none", tmp_path / "given"), "none")
    assert read_card(tmp_path / "given").step == 99


@pytest.mark.parametrize(
    "name", ["x" * 300, "~nobody-of-that-name/x", "a\0b", "", "\ud800", None, 3, torch.ones(2)]
)
def test_what_can_be_no_checkpoint_is_told_in_one_line(name):
    with pytest.raises(CheckpointError, match="the checkpoint") as caught:
        find_checkpoint(name)
    assert str(caught.value).isprintable()
