"""A whole evaluation of a tiny base LM: every stage, cut off and gone on with, and its refusals."""

import dataclasses
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from hypersteer.config import DataConfig, EvaluateConfig, LMConfig, ProtocolConfig, SiteConfig
from hypersteer.errors import ConfigError, SteeringError
from hypersteer.evaluation import answers, measures, run
from hypersteer.evaluation.probes import NEW_TOKENS, make_probes
from hypersteer.evaluation.records import Judged, Probed, from_table
from hypersteer.evaluation.selection import select
from hypersteer.judges.judge import Failure, Judgement, Rating
from hypersteer.report.evaluate import evaluate
from hypersteer.training.loop import train
from training.worlds import CONCEPTS, make_world, settings

METHODS = ("prompting", "diffmean", "random")
STRENGTHS = (0.5, 1.0, 2.0)
HELD_IN, HELD_OUT, PROMPTS = 4, 2, 2


class LetterJudge:
    """Scores by the letters of a response, so that every score can be worked out again."""

    name = "letters"

    def __init__(self):
        self.asked = []
        self.broken = False

    def judge(self, answers, done=None):
        self.asked += answers
        if self.broken:
            return [Failure("the judge is out") for _ in answers]
        return [self.one(answer.response) for answer in answers]

    @staticmethod
    def one(response):
        scores = [len(response) % 3, response.count("e") % 3, 2.0]
        return Judgement(*(Rating(float(score), f"score {score}") for score in scores))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    world = make_world(folder)
    (folder / "pool.jsonl").write_text(
        "".join(json.dumps({"instruction": f"Tell {n} more?"}) + "\n" for n in range(9))
    )
    lines = (world.data / "train_data.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    for concept_id in range(len(CONCEPTS)):
        others = [row for row in rows if row["concept_id"] != concept_id][:3]
        rows += [{**row, "category": "negative", "concept_id": concept_id} for row in others]
    (world.data / "latent_eval_data.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows)
    )
    return world


@pytest.fixture(scope="module")
def checkpoint(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "hypernet"
    config = settings(world, folder, seed=42, optim={"steps": 2}, hypernet={"blocks": 1})
    train(config, world.lm)
    return folder


@pytest.fixture(autouse=True)
def short_answers(monkeypatch):
    for measure, count in (("skills", 3), ("refusals", 4)):
        monkeypatch.setitem(NEW_TOKENS, measure, count)


@pytest.fixture
def judge(monkeypatch):
    made = LetterJudge()
    monkeypatch.setattr(run, "make_judge", lambda _config, _lm: made)
    return made


@pytest.fixture
def config(world, checkpoint, tmp_path):
    return EvaluateConfig(
        out=str(tmp_path / "out"),
        base_lm=LMConfig(name=str(world.model), device="cpu"),
        site=SiteConfig(layer=1),
        data=DataConfig(source=(str(world.data),), held_out_concepts=HELD_OUT, held_in_prompts=2),
        methods=(*METHODS, str(checkpoint)),
        protocol=ProtocolConfig(
            instructions=str(world.data.parent / "pool.jsonl"),
            prompts=PROMPTS,
            strengths=STRENGTHS,
            max_new_tokens=5,
            batch_size=20,
            gap_rows=2,
            skill_items=0,
            refusal_requests=0,
        ),
    )


def rows_of(result):
    return from_table(pq.read_table(result.rows), Judged)


def test_every_method_answers_what_it_can(config, judge):
    result = evaluate(config)
    rows = rows_of(result)
    once, each = HELD_IN + HELD_OUT, len(STRENGTHS)
    expected = {
        "unsteered": once * PROMPTS,
        "prompting": once * PROMPTS,
        "diffmean": HELD_IN * PROMPTS * each,
        "random": once * PROMPTS * each,
        "hypernet": once * PROMPTS * each,
    }
    assert {m: sum(row.method == m for row in rows) for m in expected} == expected
    assert len(rows) == sum(expected.values())
    assert not [row for row in rows if row.method == "diffmean" and row.held == "held_out"]
    for row in rows:
        again = LetterJudge.one(row.response)
        assert row.overall == again.overall
        assert row.concept_score == again.concept.score
        assert row.concept_reason == again.concept.reason
    report = result.markdown.read_text()
    for method in expected:
        assert method in report
    assert "<html" in result.html.read_text()
    gaps = json.loads((result.folder / "gaps" / "hypernet.json").read_text())
    assert len(gaps) >= HELD_IN
    detected = json.loads((result.folder / "detection" / "diffmean.json").read_text())
    assert len(detected) == HELD_IN


def test_what_is_finished_is_not_done_again(config, judge, monkeypatch):
    """Cut off between answers; the rows are those of one go, and each is judged once."""
    whole = rows_of(evaluate(dataclasses.replace(config, out=f"{config.out}-whole")))
    judge.asked.clear()
    generate, calls = answers.generate_ids, []

    def cut_off(lm, prompts, *rest):
        calls.append(len(prompts))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return generate(lm, prompts, *rest)

    monkeypatch.setattr(answers, "generate_ids", cut_off)
    with pytest.raises(KeyboardInterrupt):
        evaluate(config)
    first = sum(calls[:3])
    result = evaluate(config)
    total = len({(r.method, r.concept_id, r.prompt_id) for r in whole})
    assert first + sum(calls[4:]) == total
    key = lambda row: (row.method, row.concept_id, row.prompt_id, row.strength or 0)  # noqa: E731
    assert sorted(rows_of(result), key=key) == pytest.approx(sorted(whole, key=key), nan_ok=True)
    assert len(judge.asked) == len(whole)
    judge.asked.clear()
    calls.clear()
    evaluate(config)
    assert not judge.asked
    assert not calls


def with_probes(config, **counts):
    counts = {"skill_items": 7, "refusal_requests": 4} | counts
    return dataclasses.replace(config, protocol=dataclasses.replace(config.protocol, **counts))


def probed(result, measure, method):
    return from_table(pq.read_table(result.folder / measure / f"{method}.parquet"), Probed)


def test_every_method_that_steers_answers_the_probes(config, judge):
    config = with_probes(dataclasses.replace(config, methods=("bag-of-words", *config.methods)))
    result = evaluate(config)
    wanted = {
        measure: [p.id for p in some] for measure, some in make_probes(config.protocol).items()
    }
    chosen = {choice.key: choice.strength for choice in select(rows_of(result)).choices}
    for measure, ids in wanted.items():
        names = {"unsteered", *METHODS, "hypernet"}
        assert {file.stem for file in (result.folder / measure).glob("*.parquet")} == names
        for name in names:
            rows = probed(result, measure, name)
            assert [row.probe_id for row in rows] == ids
            if measure == "skills":
                held = {"held_in"} if name == "diffmean" else {"held_in", "held_out"}
                assert {row.held for row in rows} == held
            for row in rows:
                assert row.strength == chosen[name, row.held, row.concept_id]
                assert bool(row.given) == (name == "prompting")
    plain = probed(result, "skills", "unsteered")
    kept = json.loads((result.folder / "skills" / "random.json").read_text())
    assert kept["share"]["count"] == len(plain) == 7
    report = result.markdown.read_text()
    assert "Skill kept" in report
    assert "Refusals" in report


def test_probes_are_asked_once_and_may_be_added_or_left_out_later(config, judge, monkeypatch):
    """They change no answer of the protocol, so a folder takes any number of them."""
    config = dataclasses.replace(config, methods=("prompting", "random"))
    rows = rows_of(evaluate(config))
    generate, calls = measures.generate_ids, []

    def counted(lm, prompts, *rest):
        calls.append(len(prompts))
        return generate(lm, prompts, *rest)

    monkeypatch.setattr(measures, "generate_ids", counted)
    monkeypatch.setattr(answers, "generate_ids", lambda *_a: pytest.fail("answered again"))
    first = evaluate(with_probes(config))
    assert rows_of(first) == pytest.approx(rows, nan_ok=True)
    assert sum(calls) == 3 * (7 + 4)
    report = first.markdown.read_text()
    evaluate(with_probes(config))
    assert sum(calls) == 3 * (7 + 4)
    left_out = evaluate(config).markdown.read_text()
    assert "Skill kept" not in left_out
    assert evaluate(with_probes(config)).markdown.read_text() == report
    assert sum(calls) == 3 * (7 + 4)


def test_failed_judgements_are_no_scores_and_are_tried_again(config, judge):
    judge.broken = True
    with pytest.raises(SteeringError, match="no answer could be judged: the judge is out"):
        evaluate(config)
    judge.broken = False
    asked = len(judge.asked)
    rows = rows_of(evaluate(config))
    assert all(row.overall is not None and not row.error for row in rows)
    assert len(judge.asked) == 2 * asked


def test_a_method_may_be_added_later(config, judge):
    first = rows_of(evaluate(dataclasses.replace(config, methods=("prompting",))))
    judge.asked.clear()
    rows = rows_of(evaluate(dataclasses.replace(config, methods=("prompting", "random"))))
    assert {row.method for row in rows} == {"unsteered", "prompting", "random"}
    assert len(judge.asked) == len(rows) - len(first)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"methods": ("promptin",)}, "neither a method; did you mean 'prompting'"),
        ({"methods": ("prompting",), "compare_to": "diffmean"}, "'diffmean' is not evaluated"),
        ({"methods": ("diffmean", "ixg"), "compare_to": "ixg"}, "'ixg' only detects concepts"),
        (
            {"methods": ("prompting", "ig"), "protocol": ProtocolConfig(detection=False)},
            "'ig' only detects concepts, but protocol.detection is false",
        ),
        ({"settings": {"reft-r2": {"epochs": 1}}}, "settings.reft-r2 is for no method"),
        ({"settings": {"random": {"sed": 1}}}, "unknown key 'sed'; did you mean 'seed'"),
        ({"methods": ("prompting", "prompting")}, "names 'prompting' twice"),
        ({"data": DataConfig(source=("/nowhere",))}, "/nowhere"),
        ({"protocol": ProtocolConfig(skill_items=241)}, "skill_items 241 is more than the 240"),
    ],
)
def test_bad_settings_are_told_before_any_model_work(config, judge, monkeypatch, change, told):
    monkeypatch.setattr(run, "open_lm", lambda *_a, **_k: pytest.fail("a model was loaded"))
    with pytest.raises(SteeringError, match=told) as caught:
        evaluate(dataclasses.replace(config, **change))
    assert "\n" not in str(caught.value)


def test_a_checkpoint_trained_on_what_is_held_out_is_refused(config, judge):
    with pytest.raises(SteeringError, match=r"'hypernet' was trained on .* held out here"):
        evaluate(dataclasses.replace(config, seed=43))


def test_a_checkpoint_that_never_saw_what_is_held_in_is_refused(config, judge):
    data = dataclasses.replace(config.data, held_out_concepts=1)
    with pytest.raises(SteeringError, match=r"'hypernet' never saw .* held in here"):
        evaluate(dataclasses.replace(config, data=data))


def test_answers_of_other_hyperparameters_are_refused(config, judge):
    config = dataclasses.replace(config, methods=("prompting", "random"))
    evaluate(config)
    with pytest.raises(ConfigError, match="answers of 'random' with other settings"):
        evaluate(dataclasses.replace(config, settings={"random": {"seed": 5}}))


def test_data_without_a_test_split_are_told_and_evaluated(config, judge, world, tmp_path, capsys):
    for name in ("metadata.jsonl", "train_data.jsonl"):
        (tmp_path / name).write_bytes((world.data / name).read_bytes())
    data = dataclasses.replace(config.data, source=(str(tmp_path),))
    out = str(tmp_path / "results")
    config = dataclasses.replace(config, out=out, data=data, methods=("prompting", "diffmean"))
    assert rows_of(evaluate(config))
    told = " ".join(capsys.readouterr().err.split())
    assert f"detection is left out: {tmp_path} has no test split" in told


def test_what_only_detects_has_no_answers(config, judge):
    config = dataclasses.replace(config, methods=("bag-of-words", "prompting"))
    result = evaluate(config)
    assert {row.method for row in rows_of(result)} == {"unsteered", "prompting"}
    detected = json.loads((result.folder / "detection" / "bag-of-words.json").read_text())
    assert len(detected) == HELD_IN
    tables = [
        line for line in result.markdown.read_text().splitlines() if line.startswith("| bag-of-")
    ]
    assert len(tables) == 1
    learned = result.folder / "learned" / "bag-of-words.safetensors"
    before = learned.stat().st_mtime_ns
    evaluate(config)
    assert learned.stat().st_mtime_ns == before


def test_what_outgrows_the_window_is_told_before_anything_is_done(config, world, monkeypatch):
    """Instructions with their answers, with the concept before them; and rows of the gaps."""
    lm = world.lm
    monkeypatch.setattr(type(lm), "forward", lambda *_a, **_k: pytest.fail("the model ran"))
    monkeypatch.setattr(run, "make_judge", lambda _config, _lm: LetterJudge())
    instruction = len(lm.chat.prompt("Tell 0 more?").ids)
    room = lm.context_window - instruction
    row = dataclasses.replace(config.data, max_response_tokens=10_000)
    cases = [
        ({"max_new_tokens": room + 1}, config.data, "instruction 'Tell . more"),
        ({"max_new_tokens": room - 2}, config.data, "instruction 'Tell . more"),
        ({"gap_rows": 9}, row, "data row '"),
    ]
    for change, data, word in cases:
        changed = dataclasses.replace(
            config, data=data, protocol=dataclasses.replace(config.protocol, **change)
        )
        if data is row:
            monkeypatch.setattr(
                type(lm.chat), "response", lambda *_a, **_k: [5] * lm.context_window
            )
        with pytest.raises(SteeringError, match=f"{word}.*context window") as caught:
            evaluate(changed, lm)
        assert "\n" not in str(caught.value)
        assert not Path(config.out).exists()


@pytest.mark.parametrize("methods", [("random",), ("prompting",)])
def test_probes_that_outgrow_the_window_are_told_before_anything_is_done(
    config, world, monkeypatch, methods
):
    lm, probes = world.lm, make_probes(ProtocolConfig())["skills"]
    monkeypatch.setattr(type(lm), "forward", lambda *_a, **_k: pytest.fail("the model ran"))
    monkeypatch.setattr(run, "make_judge", lambda _config, _lm: LetterJudge())
    room = lm.context_window - max(len(lm.chat.prompt(probe.prompt).ids) for probe in probes)
    monkeypatch.setitem(NEW_TOKENS, "skills", room + (methods == ("random",)))
    config = with_probes(dataclasses.replace(config, methods=methods, compare_to=methods[0]))
    config = with_probes(config, skill_items=240)
    told = r"\w+-\d\d with its answer \(protocol\.skill_items = 0 leaves it out\) needs \d+ tokens"
    with pytest.raises(SteeringError, match=told):
        evaluate(config, lm)
    assert not Path(config.out).exists()
