"""What a judge drops of a build's positives: counted, asked for again, and judged once."""

import json
from collections import Counter

import pyarrow.parquet as pq
import pytest

from endpoint.server import said
from hypersteer.config.synthesis import DistillationConfig, JudgedConfig
from hypersteer.errors import ConfigError, DataError, EndpointError
from hypersteer.judges.judge import Answer, Failure, Judgement, Rating
from hypersteer.synthesis import build as building
from hypersteer.synthesis import distillation, sieve
from hypersteer.synthesis.build import build
from hypersteer.synthesis.filters import NO_CONCEPT, NOT_FLUENT, NOT_JUDGED, OFF_TASK
from hypersteer.synthesis.folder import BuildFolder
from hypersteer.synthesis.sieve import Sieve, Verdict
from synthesis.teachers import prose, settings, step_of, teach

COUNTS = {"hard_negatives": 1}
POSITIVES = 18
GOOD = (2.0, 2.0, 2.0)


class Scripted:
    """Scores answers as a function of them says; None is a failure. Notes what it is asked."""

    def __init__(self, scores=lambda answer: GOOD, name="scripted"):
        self.scores = scores
        self.name = name
        self.seen = []

    def judge(self, answers, done=None):
        del done
        self.seen += answers
        found = [self.scores(answer) for answer in answers]
        return [
            Failure("no idea") if one is None else Judgement(*(Rating(score, "") for score in one))
            for one in found
        ]


def once(scores):
    """Gives the first answer to each instruction under a concept these scores, later ones good."""
    seen = set()

    def score(answer):
        key = answer.concept, answer.instruction
        first = key not in seen
        seen.add(key)
        return scores if first else GOOD

    return score


def various(asked):
    """A teacher whose samples differ; the server sees no number, so the count of equal texts."""
    various.seen[asked.text] += 1
    if step_of(asked.text) != "positive":
        return teach(asked)
    return said(prose(f"{asked.text} {various.seen[asked.text]}"))


@pytest.fixture
def config(server, listed, tmp_path):
    various.seen = Counter()
    server.script = various
    return lambda out="d", **changes: settings(
        tmp_path / out, server, concepts=listed, **{"counts": COUNTS, **changes}
    )


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        ((0.5, 2.0, 2.0), NO_CONCEPT),
        ((2.0, 0.5, 2.0), OFF_TASK),
        ((2.0, 2.0, 0.5), NOT_FLUENT),
        (None, NOT_JUDGED),
    ],
)
def test_what_is_dropped_is_counted_and_asked_again(config, silent, tmp_path, scores, reason):
    judge = Scripted(once(scores))
    report = build(config(), judge=judge, console=silent).report
    stages = report["stages"]
    assert stages["positives"] == {
        "wanted": POSITIVES,
        "kept": POSITIVES,
        "dropped": {reason: POSITIVES},
    }
    assert stages["negatives"]["dropped"] == stages["hard negatives"]["dropped"] == {}
    assert report["judge"] == "scripted"
    assert len(judge.seen) == 2 * POSITIVES, "positives only"
    assert report["examples"][reason][0]["text"]
    kept = {
        (row["input"], row["output"])
        for name in ("train_data", "latent_eval_data")
        for row in pq.read_table(tmp_path / "d" / f"{name}.parquet").to_pylist()
        if row["category"] == "positive"
    }
    last = {(a.concept, a.instruction): a for a in judge.seen}
    assert kept == {(a.instruction, a.response) for a in last.values()}


def test_the_limits_are_those_of_the_settings(config, silent):
    judge = Scripted(lambda _answer: (0.5, 0.5, 0.5))
    low = {"min_concept": 0.5, "min_instruction": 0.5, "min_fluency": 0.5}
    report = build(config(judged=low), judge=judge, console=silent).report
    assert report["stages"]["positives"]["dropped"] == {}


def test_a_judge_that_lets_nothing_pass(config, silent, tmp_path):
    judge = Scripted(lambda _answer: (0.0, 2.0, 2.0))
    with pytest.raises(DataError, match=r"no usable response .*report\.json.*filters, judged"):
        build(config(), judge=judge, console=silent)
    stage = json.loads((tmp_path / "d" / "report.json").read_text())["stages"]["positives"]
    assert stage["dropped"] == {NO_CONCEPT: 3 * POSITIVES}
    assert stage["kept"] == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt(), EndpointError("the engine ended")])
def test_an_interrupted_build_judges_nothing_twice(config, silent, monkeypatch, error):
    monkeypatch.setattr(sieve, "AT_ONCE", 2)
    whole, half = Scripted(once((0.5, 2.0, 2.0))), Scripted(once((0.5, 2.0, 2.0)))
    real = half.judge

    def breaks(answers, done=None):
        if len(half.seen) >= POSITIVES:
            raise error
        return real(answers, done)

    half.judge = breaks
    with pytest.raises(type(error)):
        build(config(), judge=half, console=silent)
    half.judge = real
    before = len(half.seen)
    result = build(config(), judge=half, console=silent)
    assert len(half.seen) == 2 * POSITIVES > before
    assert max(Counter(half.seen).values()) == 1
    assert result.report["stages"]["positives"]["kept"] == POSITIVES
    build(config(), judge=whole, console=silent)
    assert not whole.seen, "a finished build judges nothing"


def test_a_dropped_response_is_no_earlier_one_that_others_may_repeat(server, config, silent):
    """Asked again, the teacher says almost the same as before; now the judge lets it pass."""

    def almost(asked):
        various.seen[asked.text] += 1
        same = prose(asked.text)
        return (
            said(f"{same} {various.seen[asked.text]}") if "let the" in asked.text else teach(asked)
        )

    server.script = almost
    report = build(config(), judge=Scripted(once((0.5, 2.0, 2.0))), console=silent).report
    assert report["stages"]["positives"]["dropped"] == {NO_CONCEPT: POSITIVES}
    assert report["stages"]["positives"]["kept"] == POSITIVES


def answers(count, concept="c"):
    return [Answer(concept, f"i{n}", f"response {n}") for n in range(count)]


@pytest.fixture
def folder(config):
    found = BuildFolder(config(), {})
    found.start()
    return found


def test_scores_of_another_judge_count_for_nothing(folder):
    for name in ("one", "two"):
        judge = Scripted(name=name)
        for _ in range(2):
            Sieve(judge, JudgedConfig(), folder).sift(answers(3))
        assert len(judge.seen) == 3


def test_verdicts_stand_in_the_order_of_answers_and_failures_are_tried_again(folder):
    scores = {"i0": GOOD, "i1": None, "i2": (0.1, 1.0, 1.0), "i3": (1.0, 1.0, 1.0)}
    judge = Scripted(lambda answer: scores[answer.instruction])
    told = []
    found = Sieve(judge, JudgedConfig(), folder).sift(answers(4), told.append)
    assert [one.reason for one in found] == [None, NOT_JUDGED, NO_CONCEPT, None]
    assert [one.overall for one in found] == pytest.approx([2.0, 0.0, 3 / 12, 1.0])
    assert sum(told) == 4
    scores["i1"] = GOOD
    again = Sieve(judge, JudgedConfig(), folder).sift(answers(4))
    assert again[1] == Verdict(None, 2.0)
    assert len(judge.seen) == 5
    assert Sieve(judge, JudgedConfig(), folder).sift([]) == []


def test_settings_choose_the_judge(config, silent, lm, model, monkeypatch):
    made = []
    monkeypatch.setattr(building, "make_judge", lambda *asked: made.append(asked) or Scripted())
    changes = {"base_lm": {"name": str(model)}, "counts": {**COUNTS, "pool_negatives": 0}}
    assert build(config(**changes), lm=lm, console=silent).report["judge"] is None
    assert not made, "a teacher at a server is trusted"
    wanted = config("other", **changes, judging="on", judge={"kind": "likelihood"})
    assert build(wanted, lm=lm, console=silent).report["judge"] == "scripted"
    assert made == [(wanted.judge, lm)]


def test_a_judge_that_cannot_be_had_may_be_changed(server, config, silent, lm, model, monkeypatch):
    def make(wanted, _lm):
        if wanted.kind == "local":
            raise ConfigError("no calibration")
        return Scripted()

    monkeypatch.setattr(building, "make_judge", make)
    changes = {"base_lm": {"name": str(model)}, "counts": {**COUNTS, "pool_negatives": 0}}
    with pytest.raises(ConfigError, match="no calibration"):
        build(config(**changes, judging="on", judge={"kind": "local"}), lm=lm, console=silent)
    assert not server.asked
    again = config(**changes, judging="on", judge={"kind": "likelihood"})
    assert build(again, lm=lm, console=silent).report["judge"] == "scripted"


def test_distillation_takes_the_judge_of_its_settings(tmp_path, lm, silent, monkeypatch):
    made = []
    monkeypatch.setattr(distillation, "make_judge", lambda *asked: made.append(asked) or Scripted())
    listed = tmp_path / "list.txt"
    listed.write_text("speak of figs\n")
    config = DistillationConfig(
        out=str(tmp_path / "out"), concepts=str(listed), tried=2, kept=1, response_tokens=12
    )
    loose = {"min_words": 1, "max_overlap": 1.0, "max_echo": 1.0}
    object.__setattr__(config, "filters", type(config.filters)(**loose))
    _, report = distillation.distil(config, lm=lm, console=silent)
    assert made == [(config.judge, lm)]
    assert config.judge.kind == "auto"
    assert report["judge"] == "scripted"
