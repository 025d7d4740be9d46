"""From data to steered text with a real base LM: train, load, steer in every way, compare."""

import json

import pytest

import hypersteer as hs
from e2e.real import REAL
from hypersteer.config import (
    DataConfig,
    HypernetConfig,
    LMConfig,
    OptimConfig,
    SiteConfig,
    TrainConfig,
)

pytestmark = REAL

NAME = "smollm2-135m-instruct"
PROMPTS = [
    "Tell me about your day.",
    "Why is the sky blue?",
    [{"role": "user", "content": "Give me one tip for cooking rice, and say why it helps."}],
]
STEER = ["talk like a pirate", None, "answer in rhymes"]
STRENGTH = 3.0  # six steps teach little; what they teach must show
NEW = 12


@pytest.fixture(scope="module")
def lm():
    return hs.load_lm(NAME, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def trained(lm, tmp_path_factory):
    """A run folder after six steps on the bundled data."""
    out = tmp_path_factory.mktemp("real") / "run"
    config = TrainConfig(
        out=str(out),
        base_lm=LMConfig(name=NAME, device="cpu", dtype="float32"),
        site=SiteConfig(layer=12),
        hypernet=HypernetConfig(variant="cross-attention", blocks=2),
        data=DataConfig(
            source=("bundled",),
            held_out_concepts=2,
            held_in_prompts=1,
            max_concepts=6,
            max_held_out_rows=2,
            max_response_tokens=24,
        ),
        optim=OptimConfig(
            steps=6, batch_size=4, learning_rate=3e-4, mixed_precision="no", warmup_steps=1
        ),
    )
    return hs.train(config, lm)


@pytest.fixture(scope="module")
def steerer(trained, lm):
    return hs.load(trained.folder, lm=lm)


@pytest.fixture(scope="module")
def answers(steerer):
    """One batch with two steered rows and a plain one between them."""
    return steerer.generate(PROMPTS, steer=STEER, strength=STRENGTH, max_new_tokens=NEW)


def test_training_brings_the_loss_down(trained):
    assert trained.step == 6
    figures = trained.metrics
    assert figures["held_in_loss"] < figures["unsteered_held_in_loss"]
    # A pretrained base LM follows a prompt: the right one lowers the loss, a wrong one less so.
    assert figures["prompted_held_out_loss"] < figures["unsteered_held_out_loss"]
    assert figures["prompted_held_out_gap"] > 0
    text = (trained.folder / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["step"] for line in lines if "gradient_norm" in line] == [1, 2, 3, 4, 5, 6]


def test_an_unsteered_row_is_the_plain_model(lm, answers):
    assert answers[1] == lm.generate(PROMPTS[1], max_new_tokens=NEW)


def test_steered_rows_are_steered(lm, answers):
    plain = lm.generate(PROMPTS, max_new_tokens=NEW)
    assert answers[0] != plain[0]
    assert answers[2] != plain[2]
    assert all(answers)


@pytest.mark.parametrize("row", range(3))
def test_a_row_alone_answers_as_in_the_batch(steerer, answers, row):
    alone = steerer.generate(PROMPTS[row], steer=STEER[row], strength=STRENGTH, max_new_tokens=NEW)
    assert alone == answers[row]


@pytest.mark.parametrize("row", range(3))
def test_a_stream_joins_to_the_answer(steerer, answers, row):
    pieces = list(
        steerer.stream(PROMPTS[row], steer=STEER[row], strength=STRENGTH, max_new_tokens=NEW)
    )
    assert "".join(pieces) == answers[row]
    assert len(pieces) > 3


@pytest.mark.parametrize("row", [0, 2])
def test_an_edit_through_a_file_steers_like_the_words(steerer, lm, answers, tmp_path, row):
    edit = steerer.edit(STEER[row], prompt=PROMPTS[row])
    edit.save(tmp_path / "edit.safetensors")
    loaded = hs.load_edit(tmp_path / "edit.safetensors")
    assert loaded.vector.shape == (576,)
    assert str(loaded.site) == "residual@12"
    options = {"strength": STRENGTH, "max_new_tokens": NEW}
    assert steerer.generate(PROMPTS[row], steer=loaded, **options) == answers[row]
    assert lm.generate(PROMPTS[row], edit=loaded, **options) == answers[row]


def test_strength_zero_is_the_plain_model(steerer, lm):
    plain = lm.generate(PROMPTS, max_new_tokens=NEW)
    assert steerer.generate(PROMPTS, steer=STEER, strength=0.0, max_new_tokens=NEW) == plain
    mixed = steerer.generate(
        PROMPTS, steer=STEER, strength=[0.0, STRENGTH, STRENGTH], max_new_tokens=NEW
    )
    assert mixed[0] == plain[0]
    assert mixed[2] != plain[2]
