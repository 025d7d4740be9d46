"""The base LM as its own teacher: what is kept, why the rest is dropped, and going on."""

import json

import pytest
from pyarrow.parquet import read_table

import tiny
from hypersteer.checkpoint import write_folder
from hypersteer.config.synthesis import DistillationConfig, FilterConfig, JudgedConfig
from hypersteer.data.sources import load_concepts
from hypersteer.errors import CheckpointError, ConfigError, DataError, SteeringError
from hypersteer.judges.judge import Judgement, Rating
from hypersteer.locks import hold
from hypersteer.steering import load
from hypersteer.synthesis import distillation, self_teaching
from hypersteer.synthesis.distillation import distil
from hypersteer.synthesis.filters import NO_CONCEPT, NOT_FLUENT, OFF_TASK, SURPLUS

CONCEPTS = ["speak of figs", "mention owls", "be blue"]
LOOSE = FilterConfig(min_words=1, max_overlap=1.0, max_echo=1.0)
ANY = {"min_concept": 0.0, "min_instruction": 0.0, "min_fluency": 0.0}


class Lengths:
    """Scores an answer by its length, so that what is kept can be worked out from the texts."""

    name = "lengths"

    def __init__(self, **scores):
        self.scores = scores
        self.seen = []

    def judge(self, answers, done=None):
        del done
        self.seen += answers
        found = []
        for answer in answers:
            scores = {"concept": 2.0, "instruction": 2.0, "fluency": 2.0} | self.scores
            scores["concept"] = min(scores["concept"], 0.1 + len(answer.response) / 100)
            found.append(Judgement(**{key: Rating(value, "") for key, value in scores.items()}))
        return found


def settings(tmp_path, **changes):
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join(CONCEPTS))
    return DistillationConfig(
        **{
            "out": str(tmp_path / "out"),
            "concepts": str(listed),
            "tried": 4,
            "kept": 2,
            "response_tokens": 12,
            "temperature": 1.0,
            "batch_size": 8,
            "filters": LOOSE,
            "judged": JudgedConfig(**ANY),
        }
        | changes
    )


def parts(folder):
    return [
        json.loads((folder / "build" / "positives" / f"{i}.json").read_text())
        for i in range(len(CONCEPTS))
    ]


def test_the_best_answers_are_kept_and_the_dataset_is_readable(tmp_path, lm, silent):
    judge = Lengths()
    folder, report = distil(settings(tmp_path), lm=lm, judge=judge, console=silent)
    data = load_concepts(str(folder))
    assert [concept.text for concept in data.concepts] == CONCEPTS
    for concept in data.concepts:
        tried = [a for a in judge.seen if a.concept == concept.text]
        assert len({a.instruction for a in tried}) == len(tried) > 2
        best = sorted(tried, key=lambda a: -len(a.response))[:2]
        kept = data.examples(data.rows(concept.id).tolist())
        assert sorted(len(e.response) for e in kept) == sorted(len(a.response) for a in best)
        assert {e.response for e in kept} <= {a.response for a in tried}
    reasons = report["dropped"]
    assert report["kept"] == 6
    assert report["kept"] + sum(reasons.values()) == report["tried"] == 12
    assert reasons[SURPLUS] >= 3


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        ({"concept": 0.5}, NO_CONCEPT),
        ({"instruction": 0.5}, OFF_TASK),
        ({"fluency": 0.5}, NOT_FLUENT),
    ],
)
def test_what_the_judge_finds_wanting_is_dropped(tmp_path, lm, silent, scores, reason):
    limits = JudgedConfig(**ANY | {f"min_{next(iter(scores))}": 0.8})
    with pytest.raises(DataError, match="no usable response"):
        distil(settings(tmp_path, judged=limits), lm=lm, judge=Lengths(**scores), console=silent)
    reasons = {one["reason"] for part in parts(tmp_path / "out") for one in part["dropped"]}
    assert reason in reasons
    assert SURPLUS not in reasons


def test_a_run_that_was_cut_off_goes_on_to_the_same_data(tmp_path, lm, silent, monkeypatch):
    elsewhere = settings(tmp_path, out=str(tmp_path / "whole"))
    whole, _ = distil(elsewhere, lm=lm, judge=Lengths(), console=silent)
    real, calls = self_teaching.guided_ids, []

    def breaks(*args):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(self_teaching, "guided_ids", breaks)
    with pytest.raises(KeyboardInterrupt):
        distil(settings(tmp_path), lm=lm, judge=Lengths(), console=silent)
    judge = Lengths()
    # A batch of another size, and the rest only: the answers are the same.
    distil(settings(tmp_path, batch_size=4), lm=lm, judge=judge, console=silent)
    assert parts(tmp_path / "out") == parts(whole)
    assert {a.concept for a in judge.seen} == {CONCEPTS[2]}


@pytest.mark.parametrize("prompted", [True, False])
def test_a_checkpoint_steers_at_each_strength_in_turn(tmp_path, lm, silent, monkeypatch, prompted):
    """What is tried is what the steerer itself answers, one at a time."""
    monkeypatch.setattr(distillation, "why_dropped", lambda *_a, **_k: None)
    made = tiny.steerer_of(lm)
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    write_folder(checkpoint, made.hypernet.state_dict(), made.card)
    judge, steerer = Lengths(), load(checkpoint, lm=lm)
    strengths = (0.5, 2.0)
    config = settings(
        tmp_path, checkpoint=str(checkpoint), strengths=strengths, prompted=prompted, tried=2
    )
    folder, _ = distil(config, lm=lm, judge=judge, console=silent)
    assert len(judge.seen) == 6
    for place, answer in enumerate(judge.seen):
        concept, number = divmod(place, 2)
        text = steerer.generate(
            answer.instruction,
            steer=CONCEPTS[concept],
            strength=strengths[number],
            prompted=prompted,
            max_new_tokens=12,
            temperature=1.0,
            seed=config.seed + 1000 * concept + number,
        )
        assert (answer.concept, answer.response) == (CONCEPTS[concept], text.strip())
    (teacher,) = set(read_table(folder / "provenance.parquet")["teacher"].to_pylist())
    assert f"{', prompted and' if prompted else ','} steered by {checkpoint}" in teacher
    write_folder(checkpoint, tiny.steerer_of(lm, seed=1).hypernet.state_dict(), made.card)
    with pytest.raises(ConfigError, match="checkpoint"):
        distil(config, lm=lm, judge=judge, console=silent)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        distil(settings(tmp_path, checkpoint="nowhere"), lm=lm, judge=judge, console=silent)


def test_a_folder_in_use_is_told(tmp_path, lm, silent):
    told = r"out' is in use by process \d+ on "
    with hold(tmp_path / "out"), pytest.raises(ConfigError, match=told):
        distil(settings(tmp_path), lm=lm, judge=Lengths(), console=silent)


@pytest.mark.parametrize("batch_size", [1, 3, 4, 100])
def test_a_batch_holds_no_more_answers_than_asked_for(
    tmp_path, lm, silent, monkeypatch, batch_size
):
    """Also where a concept has more; and the answers are the same whatever the batch."""
    elsewhere = settings(tmp_path, out=str(tmp_path / "whole"))
    whole, _ = distil(elsewhere, lm=lm, judge=Lengths(), console=silent)
    real, counts = self_teaching.guided_ids, []

    def counted(lm, prompts, *rest):
        counts.append(len(prompts))
        return real(lm, prompts, *rest)

    monkeypatch.setattr(self_teaching, "guided_ids", counted)
    distil(settings(tmp_path, batch_size=batch_size), lm=lm, judge=Lengths(), console=silent)
    assert sum(counts) == 12
    assert max(counts) == min(batch_size, 12)
    assert parts(tmp_path / "out") == parts(whole)


def test_a_folder_of_other_settings_is_refused(tmp_path, lm, silent):
    distil(settings(tmp_path), lm=lm, judge=Lengths(), console=silent)
    with pytest.raises(ConfigError, match="guidance"):
        distil(settings(tmp_path, guidance=0.1), lm=lm, judge=Lengths(), console=silent)


def test_a_folder_of_an_earlier_version_goes_on(tmp_path, lm, silent):
    """It lacks settings that have been added since; they had what is now the default."""
    folder, _ = distil(settings(tmp_path), lm=lm, judge=Lengths(), console=silent)
    path = folder / "build" / "settings.json"
    kept = json.loads(path.read_text())
    del kept["judge"], kept["judged"]["min_fluency"]
    path.write_text(json.dumps(kept))
    usual = {name: value for name, value in ANY.items() if name != "min_fluency"}
    config = settings(tmp_path, judged=JudgedConfig(**usual))
    distil(config, lm=lm, judge=Lengths(), console=silent)
    kept["guidance"] = 0.1
    path.write_text(json.dumps(kept))
    with pytest.raises(ConfigError, match="another guidance"):
        distil(config, lm=lm, judge=Lengths(), console=silent)
    path.write_text("[]")
    with pytest.raises(ConfigError, match="holds no settings"):
        distil(config, lm=lm, judge=Lengths(), console=silent)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"kept": 9}, "kept 9 is more than tried 4"),
        ({"guidance": -1.0}, "guidance -1.0 is not 0 or more"),
        ({"tried": 0}, "tried"),
        ({"checkpoint": "x", "strengths": ()}, "must be finite"),
        ({"strengths": (0.5, 1.0)}, "about a checkpoint's edits"),
        ({"prompted": False}, "about a checkpoint's edits"),
    ],
)
def test_bad_settings_are_told(tmp_path, changes, told):
    with pytest.raises(ConfigError, match=told):
        settings(tmp_path, **changes)


def test_what_outgrows_the_window_is_told_before_anything_is_answered(
    tmp_path, lm, silent, monkeypatch
):
    monkeypatch.setattr(type(lm), "forward", lambda *_a, **_k: pytest.fail("the model ran"))
    config = settings(tmp_path, response_tokens=lm.context_window - 20)
    with pytest.raises(SteeringError, match=r"instruction '.*context window") as caught:
        distil(config, lm=lm, judge=Lengths(), console=silent)
    assert "\n" not in str(caught.value)
