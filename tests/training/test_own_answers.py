"""What the unsteered base LM answers itself: made once, kept with the run, learnt from."""

import json

import pytest
import torch

from hypersteer.config import TrainConfig, from_dict
from hypersteer.errors import CheckpointError, ConfigError
from hypersteer.training import own_answers
from hypersteer.training.devices import new_accelerator
from hypersteer.training.forward import steered_losses
from hypersteer.training.loop import _Run, train
from hypersteer.training.objectives import step_losses
from hypersteer.training.own_answers import NAME, PENALTY, make_own_answers, read_own_answers
from training.worlds import metrics, settings, step_lines

LIMIT = 12


def run_of(world, lm, out, **changes):
    config = settings(world, out, **changes)
    return _Run(config, new_accelerator("cpu", "no"), lm, extend=False)


@pytest.fixture
def rows(world, lm, tmp_path):
    return list(run_of(world, lm, tmp_path / "rows").rows.batches.each())


def make(lm, rows, folder, *, likelihoods=True, batch_size=5):
    folder.mkdir(exist_ok=True)
    make_own_answers(lm, rows, folder, tokens=LIMIT, batch_size=batch_size, likelihoods=likelihoods)
    return read_own_answers(folder)


def test_answers_and_likelihoods_against_the_model_itself(lm, rows, tmp_path):
    own = make(lm, rows, tmp_path / "own")
    assert set(own.answers) == {tuple(row.plain.ids) for row in rows}
    for row in rows[::9]:
        assert own.answer(row) == greedy(lm, row.plain.ids)
        for response in (row.response, own.answer(row)):
            ids = torch.tensor([[*row.plain.ids, *response]])
            logits = lm.model(ids).logits[0].log_softmax(-1)
            start = len(row.plain.ids)
            by_hand = sum(logits[start + i - 1, token].item() for i, token in enumerate(response))
            assert own.likelihood(row, response) == pytest.approx(by_hand, abs=2e-3)


def greedy(lm, ids):
    """Greedy text under transformers' rule of the repetition penalty, token by token."""
    ids, found = list(ids), []
    ends = set(lm.chat.end_of_turn) | {lm.chat.tokenizer.eos_token_id}
    for _ in range(LIMIT):
        with torch.no_grad():
            logits = lm.model(torch.tensor([ids])).logits[0, -1]
        for token in set(ids):
            logits[token] *= PENALTY if logits[token] < 0 else 1 / PENALTY
        token = int(logits.argmax())
        if token in ends:
            return [*found, lm.chat.end_of_turn[0]]
        ids.append(token)
        found.append(token)
    return found


def test_what_is_there_is_not_made_again(lm, rows, tmp_path, monkeypatch):
    """A command that was cut off goes on behind the last whole batch."""
    folder = tmp_path / "own"
    real, asked = own_answers.generate_ids, []

    def cut(lm, prompts, *rest):
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(len(prompts))
        return real(lm, prompts, *rest)

    monkeypatch.setattr(own_answers, "generate_ids", cut)
    with pytest.raises(KeyboardInterrupt):
        make(lm, rows, folder)
    before = read_own_answers(folder).answers
    assert len(before) == 10
    monkeypatch.setattr(own_answers, "generate_ids", real)
    whole = make(lm, rows, folder)
    assert whole == make(lm, rows, tmp_path / "straight")
    monkeypatch.setattr(own_answers, "generate_ids", None)
    monkeypatch.setattr(own_answers, "response_token_losses", None)
    assert make(lm, rows, folder) == whole


def test_a_damaged_file_is_named(lm, rows, tmp_path):
    folder = tmp_path / "own"
    make(lm, rows, folder, likelihoods=False)
    (folder / NAME).write_text('{"answers": [1]}')
    with pytest.raises(CheckpointError, match=NAME):
        read_own_answers(folder)


@pytest.mark.parametrize("objective", ["language-modelling", "preference"])
def test_runs_learn_from_own_answers_and_resume_exactly(world, lm, tmp_path, objective):
    loss = {"objective": objective, "negated": 0.3, "strengths": [0.5, 1.5], "prompted": True}
    out, straight = tmp_path / "cut", tmp_path / "straight"
    changes = {"loss": loss, "checkpoint_every": 4, "optim": {"steps": 12}}
    train(settings(world, straight, **changes), lm)
    cut = run_of(world, lm, out, **changes)
    for number in range(4):
        cut.step(number)
        cut.progress.step += 1
    cut.save()
    train(settings(world, out, **changes), lm)
    ends = [run / "checkpoints/step-0000012/model.safetensors" for run in (out, straight)]
    assert ends[0].read_bytes() == ends[1].read_bytes()
    assert json.loads((out / NAME).read_text()) == json.loads((straight / NAME).read_text())
    assert metrics(out)[-1]["held_in_loss"] == metrics(straight)[-1]["held_in_loss"]


def test_preference_makes_the_response_likelier_than_the_own_answer(world, lm, tmp_path):
    out = tmp_path / "run"
    loss = {"objective": "preference", "strengths": [0.5, 1.5]}
    train(settings(world, out, loss=loss, optim={"steps": 40}), lm)
    lines = step_lines(out)

    def mean(name, part):
        return sum(line[name] for line in part) / len(part)

    assert mean("training_gap", lines[-8:]) > mean("training_gap", lines[:8]) + 0.2
    assert mean("loss", lines[-8:]) < mean("loss", lines[:8])


def test_negated_edits_make_responses_less_likely_than_without(world, lm, tmp_path):
    """At a strength below 0 the response of the concept is less likely than unsteered."""
    out = tmp_path / "run"
    loss = {"strengths": [0.5, 1.5], "negated": 0.3}
    run = run_of(world, lm, out, loss=loss, optim={"steps": 60})
    run.go()
    rows = list(run.rows.batches.each())[:16]
    run.hypernet.eval()
    with torch.no_grad():
        found = [
            steered_losses(
                run.validated,
                [row.plain for row in rows],
                [row.response for row in rows],
                [[row.steering for row in rows]],
                strengths=[strength] * len(rows),
            ).mean()
            for strength in (-1.0, 0.0, 0.5, 1.0)
        ]
    assert found[0] > found[1] > found[2] > found[3]


@pytest.mark.parametrize("contrasted", [(), (0, 3), (0, 1, 2, 3)])
def test_contrast_on_a_share_of_the_rows(world, lm, tmp_path, contrasted):
    """The losses are those of all rows, the contrast that of some, or of none in this part."""
    run = run_of(world, lm, tmp_path / "run", loss={"contrast": 1.0, "contrast_share": 0.5})
    rows = run.rows.batches.batch(3)
    assert sum(row.contrast for row in rows) == pytest.approx(len(rows))
    assert sum(row.contrast > 0 for row in rows) == len(rows) / 2
    rows = [
        row._replace(contrast=4 / len(contrasted) if place in contrasted else 0.0)
        for place, row in enumerate(rows[:4])
    ]
    found = step_losses(run.trained, run.config.loss, rows)
    half = [rows[place]._replace(contrast=1.0) for place in contrasted]
    whole = from_dict(TrainConfig, {"loss": {"contrast": 1.0}}).loss
    plain = from_dict(TrainConfig, {}).loss
    assert found.shown["loss"].item() == pytest.approx(
        step_losses(run.trained, plain, rows).total.item(), abs=1e-5
    )
    for name in ("contrastive", "training_gap"):
        expected = step_losses(run.trained, whole, half).shown[name].item() if half else 0.0
        assert found.shown[name].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("loss", "named"),
    [
        ({"alone": 0.5}, "loss.alone 0.5"),
        ({"alone": 1.5, "prompted": True}, "loss.alone 1.5"),
        ({"negated": 1.0}, "loss.negated 1.0"),
        ({"negated": 0.2, "strengths": [0.0, 1.0]}, "loss.negated 0.2"),
        ({"negated": 0.2, "objective": "distillation"}, "loss.negated 0.2"),
        ({"diversity": 1.0, "contrast": 1.0}, "loss.diversity 1.0"),
        ({"diversity": 1.0, "objective": "preference"}, "loss.diversity 1.0"),
        ({"contrast_share": 0.0}, "loss.contrast_share 0.0"),
        ({"contrast": 1.0, "objective": "preference"}, "loss.contrast 1.0"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(loss, named):
    with pytest.raises(ConfigError, match=named):
        from_dict(TrainConfig, {"loss": loss})
