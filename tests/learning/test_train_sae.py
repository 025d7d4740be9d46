"""The SAE trainer: planted features are recovered, and its folder is read back as a dictionary."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import tiny
from hypersteer.edits.sites import Site
from hypersteer.errors import ConfigError
from hypersteer.learning.dictionaries import read_dictionary
from hypersteer.learning.values import Asked
from hypersteer.lm.base import BaseLM
from hypersteer.methods.sae import Sae, SaeA
from methods.cases import concepts_of

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture(autouse=True)
def experiments(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))


def sparse_states(directions, count, active=3, seed=0):
    """Sums of a few of the directions with positive weights, far from the origin."""
    generator = torch.Generator().manual_seed(seed)
    size, width = directions.shape
    chosen = torch.rand(count, size, generator=generator).topk(active, dim=1).indices
    latents = torch.zeros(count, size).scatter(
        1, chosen, 5 + 5 * torch.rand(count, active, generator=generator)
    )
    return latents @ directions + 20 * torch.ones(width)


def test_planted_features_are_recovered():
    from sae_training import Recipe, figures, train

    directions = F.normalize(torch.randn(24, 16, generator=torch.Generator().manual_seed(1)), dim=1)
    states = sparse_states(directions, 6000)
    recipe = Recipe(
        features=32, active=3, epochs=20, batch=256, rate=1e-2, unused=2000, auxiliary=0.1
    )
    shares = []
    found = train(states, recipe, shares.append)
    nearest = (directions @ found.decoder.T).amax(1)
    assert (nearest > 0.9).float().mean() > 0.8
    start = F.normalize(torch.randn(32, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    assert ((directions @ start.T).amax(1) > 0.9).float().mean() < 0.2
    torch.testing.assert_close(found.decoder.norm(dim=-1), torch.ones(32))
    assert sum(shares) == pytest.approx(1)

    fresh = sparse_states(directions, 500, seed=7)
    told = figures(found, fresh, chunk=77)
    latents = found.latents(fresh)
    rebuilt = latents @ found.decoder + found.offset
    variance = 1 - (fresh - rebuilt).square().sum() / (fresh - fresh.mean(0)).square().sum()
    assert told.explained_variance == pytest.approx(float(variance), abs=1e-4)
    assert told.explained_variance > 0.8
    assert told.l0 == pytest.approx(float((latents > 0).sum(1).float().mean()), abs=1e-5)
    assert told.l0 == pytest.approx(3, abs=1)
    assert told.silent == float((latents.amax(0) == 0).float().mean())


def test_features_are_found_beside_two_massive_dimensions():
    """They hold all but a thousandth of the squared length, and mean nothing."""
    from sae_training import Recipe, figures, train

    directions = F.normalize(torch.randn(24, 16, generator=torch.Generator().manual_seed(1)), dim=1)

    def drawn(count, seed):
        noise = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed + 5))
        return torch.cat([sparse_states(directions, count, seed=seed), 600 * (10 + noise)], 1)

    recipe = Recipe(
        features=32, active=3, epochs=15, batch=256, rate=1e-2, unused=2000, auxiliary=0.1
    )
    found = train(drawn(6000, 0), recipe, lambda _: None)
    nearest = (directions @ F.normalize(found.decoder[:, :16], dim=-1).T).amax(1)
    assert (nearest > 0.9).float().mean() > 0.5
    fresh = drawn(500, 7)
    error = (fresh - found.decode(found.latents(fresh)))[:, :16].square().sum()
    assert error < 0.5 * (fresh - fresh.mean(0))[:, :16].square().sum()
    torch.testing.assert_close(found.decoder.norm(dim=-1), torch.ones(32))
    assert 0.5 < figures(found, fresh).explained_variance < 0.95


def test_training_repeats():
    from sae_training import Recipe, train

    states = torch.randn(600, 16, generator=torch.Generator().manual_seed(1))
    recipe = Recipe(features=32, active=3, epochs=2, batch=64, unused=100)
    first, second = (train(states, recipe, lambda _: None) for _ in range(2))
    assert torch.equal(first.encoder, second.encoder)
    assert torch.equal(first.threshold, second.threshold)


def test_the_largest_of_a_batch_are_kept():
    from sae_training import _pick

    raw = torch.tensor([[9.0, -1.0, 8.0, 7.0], [1.0, 6.0, -2.0, 0.5], [-1.0, -1.0, -1.0, -1.0]])
    picked, cut = _pick(raw, 1)  # three of all, of which no row holds more than four
    assert picked.features.tolist() == [0, 2, 3]
    assert picked.values.tolist() == [9, 8, 7]
    assert picked.starts.tolist() == [0, 3, 3]
    assert cut == 7
    picked, cut = _pick(raw, 2)
    assert picked.values.tolist() == [9, 8, 7, 6, 1, 0.5]
    assert picked.starts.tolist() == [0, 3, 6]


def test_words_are_whole():
    from train_sae import distinct, word_at

    pieces = [" the", " ho", "ney", ",", "comb", " x", "", " end", "\nNew"]
    words = ["the", "honey", "honey", "", "comb", "x", "", "end", "New"]
    assert [word_at(pieces, place) for place in range(len(pieces))] == words
    assert distinct([*words, "The"]) == ["the", "honey", "comb", "end", "new"]


def test_the_script_writes_a_folder_that_both_methods_use(tmp_path, monkeypatch, capsys):
    """From the bundled data to a steered tiny model, by the command of the docstring."""
    import train_sae

    lm = BaseLM.of(tiny.model_of("llama"), tiny.tokenizer(), name="llama")
    monkeypatch.setattr(train_sae, "load_lm", lambda name, dtype=None: lm)
    monkeypatch.delenv("HYPERSTEER_AXBENCH", raising=False)
    out = tmp_path / "runs" / "sae"
    asked = ["--out", str(out), "--tokens", "8000", "--features", "48", "--active", "4"]
    train_sae.main([*asked, "--batch", "128", "--layer", "2", "--epochs", "1"])
    assert "48 features at residual@2 of llama" in capsys.readouterr().out
    about = json.loads((out / "cfg.json").read_text(encoding="utf-8"))
    assert about["trained_on"]["sources"] == ["bundled"]
    assert 4000 < about["trained_on"]["tokens"] < 8000
    assert about["held_back_figures"]["explained_variance"] > 0.2
    dictionary = read_dictionary(str(out))
    assert (dictionary.site, dictionary.base_lm) == (Site(2), str(lm.identity))
    lines = (out / "labels.jsonl").read_text(encoding="utf-8").splitlines()
    labels = [json.loads(line) for line in lines]
    assert {label["index"] for label in labels} <= set(range(48))
    assert all(label["description"] and label["maxActApprox"] > 0 for label in labels)
    assert len(labels) == 48 - about["trained_on"]["dead_features"] > 24

    concepts = concepts_of(3, 2)
    for method in (Sae(dictionary=str(out)), SaeA(dictionary=str(out), mode="clamp")):
        learned = method.fit(lm, Site(2), concepts)
        (writer,) = method.steer(lm, Site(2), learned, [Asked(concepts[0].concept, "Hi")]).writers
        assert writer.site == Site(2)
    with pytest.raises(ConfigError, match="is there already; delete it"):
        train_sae.main(asked)
    with pytest.raises(ConfigError, match="--tokens is too small"):
        train_sae.main(["--out", str(tmp_path / "b"), "--tokens", "50"])
    assert not (tmp_path / "b").exists()
