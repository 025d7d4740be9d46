"""The checkpoint that ships with the package: small, honest about its data, and it steers."""

import io
import sys

import pytest
import torch

import hypersteer as hs
from e2e.real import REAL
from hypersteer.checkpoint import BUNDLED, find_checkpoint
from hypersteer.cli.main import main
from hypersteer.cli.options import Sampling
from hypersteer.data.sources import load_concepts
from hypersteer.hypernet.card import read_card
from hypersteer.lm.messages import prompted
from hypersteer.training.forward import Steered, steered_losses

pytestmark = REAL

MIB = 2**20
PENALTY = {"repetition_penalty": Sampling().repetition_penalty}


@pytest.fixture(scope="module")
def steerer():
    return hs.load(lm=hs.load_lm("smollm2-135m-instruct", device="cpu", dtype="float32"))


def test_it_is_small_and_never_saw_a_held_out_concept():
    folder = find_checkpoint(BUNDLED)
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 40 * MIB
    card = read_card(folder)
    concepts = load_concepts("bundled").concepts
    held_out = {concept.text.casefold() for concept in concepts if concept.held_out}
    seen = {text.casefold() for text in card.concepts}
    assert len(held_out) == 40
    assert len(seen) > 1500
    assert not seen & held_out
    assert {text.casefold() for text in card.held_out} == held_out
    about = (folder / "README.md").read_text()
    for word in ("Data", "Scores", "Strength", "Fail", "Apache-2.0"):
        assert word in about, word


@pytest.mark.parametrize(("wrong_words", "least", "share"), [(True, 0.2, 0.9), (False, 0.03, 0.6)])
@pytest.mark.parametrize("concepts", [12, pytest.param(None, marks=pytest.mark.exhaustive)])
def test_the_right_steering_prompt_beats_a_wrong_one_on_held_out_concepts(
    steerer, concepts, wrong_words, least, share
):
    """One evaluation answer of each held-out concept, against another held-out concept's prompt.

    Either it is said and steers, or it only steers, and what is said stays right.
    """
    data = load_concepts("bundled", split="test")
    held_out = [c for c in data.concepts if c.held_out][:concepts]
    rows = [data.example(int(data.rows(concept.id)[0])) for concept in held_out]
    texts = [concept.text for concept in held_out]
    others = texts[len(texts) // 2 :] + texts[: len(texts) // 2]
    lm, card = steerer.lm, steerer.card
    setup = Steered(lm, steerer.hypernet, card.hypernet, steerer.hypernet.sites, card.scope)

    def losses(part, said, steering):
        prompts = [
            lm.chat.prompt(prompted(row.prompt, text))
            for row, text in zip(rows[part], said[part], strict=True)
        ]
        responses = [lm.chat.response(row.response)[:48] for row in rows[part]]
        ids = [lm.chat.text(text) for text in steering[part]]
        return steered_losses(setup, prompts, responses, [ids])[0]

    gaps = []
    with torch.no_grad():
        for start in range(0, len(rows), 8):
            part = slice(start, start + 8)
            right = losses(part, texts, texts)
            wrong = losses(part, others if wrong_words else texts, others)
            gaps += (wrong - right).tolist()
    assert sum(gaps) / len(gaps) > least, gaps
    assert sum(gap > 0 for gap in gaps) >= share * len(gaps), gaps


def test_an_unseen_steering_prompt_works_from_the_command_line(steerer, monkeypatch, capsys):
    """At strength 1, no checkpoint named; the library gives the same text."""
    asked = ["Give me a tip for a rainy Sunday."]
    argv = ["generate", *asked, "--steer", "bring up dinosaurs and fossils"]
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    main([*argv, "--max-new-tokens", "40", "--dtype", "float32", "--device", "cpu"])
    shown = capsys.readouterr().out.strip()
    ours = steerer.generate(
        asked, steer="bring up dinosaurs and fossils", max_new_tokens=40, **PENALTY
    )[0]
    assert shown == ours.strip()
    plain = steerer.generate(asked, max_new_tokens=40, **PENALTY)[0]
    assert shown != plain.strip()
