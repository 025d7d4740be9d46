"""A whole sweep: trained, measured, judged; killed and gone on with; runs that are shared."""

import pytest

from hypersteer.errors import ConfigError
from hypersteer.evaluation import run as evaluation
from hypersteer.judges.judge import Judgement, Rating
from hypersteer.locks import hold
from hypersteer.report.evaluate import write_report
from hypersteer.sweeps import run as sweeps
from hypersteer.sweeps.measured import NAME
from hypersteer.sweeps.run import go, plan_sweep


class LetterJudge:
    """Scores by the letters of a response."""

    name = "letters"

    def judge(self, answers, done=None):
        return [
            Judgement(*(Rating(float(n), "") for n in (1 + len(one.response) % 2, 1, 2)))
            for one in answers
        ]


@pytest.fixture
def judge(monkeypatch):
    monkeypatch.setattr(evaluation, "make_judge", lambda _config, _lm: LetterJudge())


@pytest.fixture
def trained(monkeypatch):
    """The folders that were trained into; `stop_at` kills the sweep before the n-th."""

    class Trained(list):
        stop_at = None

    found = Trained()
    real = sweeps.train

    def train(config, lm):
        if len(found) == found.stop_at:
            raise KeyboardInterrupt
        found.append(config.out)
        return real(config, lm)

    monkeypatch.setattr(sweeps, "train", train)
    return found


def test_a_killed_sweep_goes_on_to_the_same_end(swept_as, trained, judge, tmp_path):
    config = swept_as(judged_concepts=[4], rivals=["prompting"])
    trained.stop_at = 3
    with pytest.raises(KeyboardInterrupt):
        go(plan_sweep(config, compared=True), write_report)
    assert len(trained) == 3
    trained.stop_at = None
    planned = plan_sweep(config, compared=True)
    assert [task.state for task in planned.expected.tasks] == ["done"] * 3 + ["to do"] * 3
    assert planned.expected.known == 3
    swept = go(planned, write_report)
    assert len(trained) == len(set(trained)) == 6

    other = swept_as(judged_concepts=[4], rivals=["prompting"], runs=str(tmp_path / "other"))
    whole = go(plan_sweep(other, compared=True), write_report)
    for one, two in zip(swept.measured, whole.measured, strict=True):
        assert one.losses == two.losses
        assert one.curve == two.curve
    assert swept.references[3].forms == whole.references[3].forms
    assert list(swept.scores[3].values()) == list(whole.scores[3].values())
    assert [task.state for task in plan_sweep(config, compared=True).expected.tasks] == ["done"] * 6
    assert plan_sweep(config, compared=True).expected.teaching == 0


def test_a_run_that_was_cut_off_resumes(swept_as, trained, monkeypatch):
    config = swept_as(concepts=[2], settings=[{"name": "cross"}])
    real = sweeps.measure_run

    def killed(*_given):
        raise KeyboardInterrupt

    monkeypatch.setattr(sweeps, "measure_run", killed)
    with pytest.raises(KeyboardInterrupt):
        go(plan_sweep(config, compared=False), write_report)
    monkeypatch.setattr(sweeps, "measure_run", real)
    planned = plan_sweep(config, compared=False)
    assert [task.state for task in planned.expected.tasks] == ["begun"]
    (measured,) = go(planned, write_report).measured
    assert measured.curve[-1].step == 4
    folder = planned.runs[0].folder
    assert (folder / NAME).is_file()
    assert not (folder / "checkpoints").exists()
    assert (folder / "model.safetensors").is_file()


def test_judged_runs_have_scores_and_others_none(swept_as, judge):
    config = swept_as(
        concepts=[],
        settings=[
            {"name": "a", "judged": True},
            {"name": "b", "change": {"site": {"layer": 2}}},
        ],
    )
    swept = go(plan_sweep(config, compared=False), write_report)
    scores = swept.scores[3]
    judged, other = swept.runs[0].folder.name, swept.runs[1].folder.name
    assert {method for method, _ in scores} == {judged, "unsteered"}
    assert other not in str(scores)
    for held in ("held_in", "held_out"):
        assert len(scores[judged, held]) == 2
        assert all(0 <= value <= 2 for value in scores[judged, held].values())


def test_sweeps_share_runs(swept_as, trained):
    first = swept_as(concepts=[2, 3], settings=[{"name": "cross"}])
    go(plan_sweep(first, compared=False), write_report)
    second = swept_as(concepts=[3, 4], settings=[{"name": "other name"}])
    swept = go(plan_sweep(second, compared=False), write_report)
    assert len(trained) == 3
    assert [measured.concepts for measured in swept.measured] == [3, 4]


def test_held_in_is_measured_on_the_same_concepts_in_all_runs(swept_as):
    swept = go(plan_sweep(swept_as(settings=[{"name": "cross"}]), compared=True), write_report)
    validated = [set(one.losses["held_in_loss"]) for one in swept.measured]
    assert validated[0] == validated[1] == validated[2] == set(swept.references[3].losses)
    assert len(validated[0]) == 2
    assert [one.concepts for one in swept.measured] == [2, 3, 4]


def test_a_folder_that_another_sweep_works_in_is_refused(swept_as, tmp_path):
    config = swept_as()
    with hold(tmp_path / "runs"), pytest.raises(ConfigError, match="is in use by process"):
        go(plan_sweep(config, compared=False), write_report)
