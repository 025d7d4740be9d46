"""The local judge: questions, scores, failures, and which judge settings get."""

import dataclasses
import math

import pytest

import tiny
from hypersteer.endpoint.replies import Failed
from hypersteer.errors import ConfigError
from hypersteer.judges.calibration import Scale
from hypersteer.judges.choose import ASKED, OTHER, SMALL
from hypersteer.judges.examples import EXAMPLES
from hypersteer.judges.judge import Answer, Failure, Judgement
from hypersteer.judges.lm_signals import SignalReader
from hypersteer.judges.local import (
    EMPTY,
    MOST_CHARACTERS,
    QUESTIONS,
    LocalJudge,
    background,
    in_order,
    question,
)
from hypersteer.judges.local_calibration import AskedScales, LocalCalibration, MeasuredScales

PIRATE = Answer("talk like a pirate", "How do I boil an egg?", "Arr, boil it nine minutes, matey!")
PLAIN = Answer("talk like a pirate", "Who wrote Faust?", "Goethe wrote the two parts of Faust.")


class Knows:
    """Answers questions from a table of texts; counts what it is asked."""

    name = "knows 0123abcd"

    def __init__(self, odds):
        self.odds = odds
        self.asked = []

    def ask(self, questions, done=None):
        texts = [one[-1]["content"] for one in questions]
        self.asked += texts
        if done is not None:
            for _ in texts:
                done(1)
        return [next((o for part, o in self.odds.items() if part in text), 0.0) for text in texts]


def scale(weight, *signals, bias=0.0):
    zeros, ones = (0.0,) * len(signals), (1.0,) * len(signals)
    return Scale(signals=signals, mean=zeros, std=ones, weights=(weight,) * len(signals), bias=bias)


def calibration(lm, weights=("0123abcd",)):
    asked = AskedScales(
        model="knows",
        weights=weights,
        concept=scale(0.5, "concept"),
        instruction=scale(1.0, "instruction", bias=1.0),
        fluency=scale(1.0, "fluency", "likelihood", "novelty", bias=2.0),
    )
    measured = MeasuredScales(
        base_lm=lm.name,
        identity=str(lm.identity),
        layers=(0, 1),
        plain_likelihood=-6.0,
        fluency=scale(1.0, "likelihood", "novelty", bias=4.0),
        asked=(asked,),
    )
    return LocalCalibration(data="a test", measuring=(measured,))


@pytest.fixture
def judge(tiny_llama):
    def build(odds, **changes):
        return LocalJudge(Knows(odds), tiny_llama, calibration(tiny_llama, **changes))

    return build


def test_scores_are_calibrated_log_odds(judge):
    (found,) = judge({"clearly do it": 2.0, "deal with": -1.0}).judge([PIRATE])
    assert isinstance(found, Judgement)
    assert found.concept.score == pytest.approx(1 + math.tanh(0.5 * 2.0 / 2))
    assert found.instruction.score == pytest.approx(1 + math.tanh((1.0 - 1.0) / 2))
    assert "Yes with probability 0.88" in found.concept.reason
    assert 0 < found.fluency.score < 2


def test_states_of_the_measuring_model_count_where_the_scale_reads_them(tiny_llama):
    made = calibration(tiny_llama)
    (entry,) = made.measuring
    concept = scale(1.0, "concept", "match", "gain")
    asked = dataclasses.replace(entry.asked[0], concept=concept)
    made = dataclasses.replace(made, measuring=(dataclasses.replace(entry, asked=(asked,)),))
    judge = LocalJudge(Knows({"clearly do it": 0.7}), tiny_llama, made)
    (found,) = judge.judge([PIRATE])
    (signals,) = SignalReader(tiny_llama, background(entry.layers)).read([PIRATE])
    logit = 0.7 + signals.match + signals.gain
    assert found.concept.score == pytest.approx(1 + math.tanh(logit / 2), abs=1e-3)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_signals_of_concepts_alone_are_those_of_a_whole_reading(family):
    lm = tiny.lm_of(family)
    answers = [PIRATE, PLAIN, PIRATE._replace(response="the sea " * 9), PIRATE]
    whole = SignalReader(lm, background((0, 1))).read(answers)
    alone = SignalReader(lm, background((0, 1)), concept_only=True).read(answers)
    for full, part in zip(whole, alone, strict=True):
        for name in ("match", "deep_match", "gain", "novelty", "own_words"):
            assert getattr(part, name) == pytest.approx(getattr(full, name), abs=1e-3), name
        assert part.task_match == part.task_gain == part.familiarity == 0.0


def test_a_model_without_scales_gives_its_probabilities_and_says_so(judge):
    uncalibrated = judge({"clearly do it": 2.0}, weights=("ffff",))
    (found,) = uncalibrated.judge([PIRATE])
    assert found.concept.score == pytest.approx(2 / (1 + math.exp(-2)))
    assert "not calibrated" in uncalibrated.name
    assert "not calibrated" not in judge({}).name


def test_fluency_is_asked_and_measured(judge):
    whole, bad = (judge({"well written": odds}).judge([PIRATE])[0].fluency for odds in (1.0, -9.0))
    assert bad.score < whole.score
    assert bad.reason == "Least good in what the judge says: -9.00."
    (unasked,) = judge({"well written": -9.0}, weights=("ffff",)).judge([PIRATE])
    assert unasked.fluency.score > whole.score


def test_questions_begin_with_examples_and_the_text_so_that_these_are_read_once():
    shared = f"Text:\n{PIRATE.response}\n\n"
    for name in QUESTIONS:
        *shown, asked = question(name, PIRATE)
        assert shown == question("concept", PLAIN)[:-1]
        assert [message["role"] for message in shown] == ["user", "assistant"] * len(EXAMPLES)
        assert asked["content"].startswith(shared)
        assert (PIRATE.concept in asked["content"]) == (name == "concept")
        assert (PIRATE.instruction in asked["content"]) == (name == "instruction")


@pytest.mark.parametrize("count", [0, 1, 4, 5, 11])
def test_the_order_asks_everything_once_and_keeps_a_text_at_hand(count):
    order = in_order(count)
    assert sorted(order) == sorted((i, name) for i in range(count) for name in QUESTIONS)
    for i in range(count):
        places = [place for place, (which, _) in enumerate(order) if which == i]
        assert places[-1] - places[0] == len(QUESTIONS) - 1


def test_texts_with_braces_are_shown_as_they_are():
    answer = Answer("a {concept}", "what is {x}?", "it is {instruction}")
    for name in QUESTIONS:
        asked = question(name, answer)[-1]
        assert "it is {instruction}" in asked["content"]
        assert ("a {concept}" in asked["content"]) == (name == "concept")
        assert ("what is {x}?" in asked["content"]) == (name == "instruction")


def test_long_texts_are_cut():
    asked = question("concept", PIRATE._replace(response="x" * 10 * MOST_CHARACTERS))[-1]
    assert len(asked["content"]) < MOST_CHARACTERS + 200


def test_empty_answers_score_0_and_are_not_asked_about(judge):
    local = judge({})
    told = []
    found = local.judge([PIRATE._replace(response=" \n"), PLAIN], told.append)
    assert tuple(found[0]) == (EMPTY,) * 3
    assert len(local._asker.asked) == len(QUESTIONS)
    assert sum(told) == 2


def test_a_failed_question_is_a_failure_and_never_a_score(judge):
    lost = Failed("the model begins with 'Sure'")
    found = judge({"nine minutes": lost}).judge([PIRATE, PLAIN])
    assert isinstance(found[0], Failure)
    assert "concept: the model begins with 'Sure'" in found[0].error
    assert isinstance(found[1], Judgement)


def test_fluency_falls_with_words_that_are_missing_and_with_loops(judge):
    texts = ("boil it for nine whole minutes", "boil it", "boil it " * 12)
    whole, short, loop = judge({}).judge([PIRATE._replace(response=text) for text in texts])
    assert short.fluency.score < whole.fluency.score
    assert loop.fluency.score < whole.fluency.score
    assert "2 of the 4 words" in short.fluency.reason
    assert "novelty" in loop.fluency.reason


def test_what_the_plain_model_says_is_the_measure(judge):
    """A text that is as likely as the plain answer loses nothing; the same text beside a likelier
    plain answer does."""
    text = "zq xv jw kp wq zx"
    (alike,) = judge({}).judge([PIRATE._replace(response=text, plain=text)])
    (usual,) = judge({}).judge([PIRATE._replace(response=text)])
    assert alike.fluency.score >= usual.fluency.score
    assert alike.fluency.score == pytest.approx(1 + math.tanh(1.0), abs=1e-6)


def test_equal_answers_get_equal_scores_wherever_they_stand(judge):
    local = judge({"nine minutes": 1.0})
    together = local.judge([PIRATE, PLAIN, PIRATE])
    (alone,) = local.judge([PIRATE])
    assert together[0] == together[2]
    for a, b in zip(together[0], alone, strict=True):
        assert a.score == pytest.approx(b.score, abs=1e-5)


def test_its_name_tells_all_that_decides(judge, tiny_llama):
    name = judge({}).name
    assert "knows 0123abcd" in name
    assert tiny_llama.fingerprint in name
    assert calibration(tiny_llama).version in name


def test_fluency_needs_a_scale_for_the_model_that_measures(tiny_llama):
    with pytest.raises(ConfigError, match=r"no scale .*take one of"):
        LocalJudge(Knows({}), tiny.lm_of("gpt2"), calibration(tiny_llama))


def test_a_calibration_survives_its_file(tiny_llama, tmp_path):
    made = calibration(tiny_llama)
    made.save(tmp_path / "calibration.json")
    found = LocalCalibration.load(tmp_path / "calibration.json")
    assert found == made
    assert found.version == made.version
    changed = dataclasses.replace(made, data="another")
    assert changed.version != made.version


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"format": 2', '"format": 9', "format is 9"),
        ('"instruction"', '"known"', ""),
        ('"novelty"', '"news"', "unknown signal 'news'"),
        ("-6.0", "NaN", ""),
        ('"measuring"', '"measured"', ""),
        ("{", "[", ""),
        ('"layers": [', '"layers": [0, ', "two layers"),
    ],
)
def test_a_damaged_calibration_is_told(tiny_llama, tmp_path, old, new, told):
    path = tmp_path / "calibration.json"
    calibration(tiny_llama).save(path)
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ConfigError, match="calibration") as caught:
        LocalCalibration.load(path)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_calibration_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="cannot read the calibration"):
        LocalCalibration.load(tmp_path / "none.json")


def test_the_bundled_calibration_is_for_the_models_that_are_taken():
    found = LocalCalibration.load()
    assert [entry.base_lm for entry in found.measuring] == [SMALL, OTHER]
    for entry in found.measuring:
        (asked,) = entry.asked
        assert asked.model.startswith(ASKED)
        for rising in (asked.concept, asked.instruction, asked.fluency, entry.fluency):
            assert sum(rising.weights) > 0
