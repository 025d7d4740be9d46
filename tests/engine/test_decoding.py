"""How to decode: what is asked for is checked, and does what it does in transformers."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

import tiny
from hypersteer.config import HypernetConfig
from hypersteer.edits.sites import Site
from hypersteer.engine.decoding import Decoding
from hypersteer.engine.generate import generate_ids, join_pieces
from hypersteer.engine.guidance import guided_ids
from hypersteer.engine.sampling import Sampler
from hypersteer.engine.stopping import certain, cut_at, end_at
from hypersteer.errors import ConfigError, SteeringError
from hypersteer.hypernet.card import Card
from hypersteer.hypernet.network import new_hypernet
from hypersteer.lm.edited import edit_writers
from hypersteer.steering import Steerer

PROMPTS = ("Hi", "Tell me about your day at the sea, about the ship and the bees.", "Why?", "the")


@pytest.fixture(scope="module")
def endless():
    return tiny.ending_with(tiny.lm_of("llama"))


@cache
def reading_steerer(lm):
    """A steerer for whose edits the base LM itself reads the steering prompt beforehand."""
    config, site = HypernetConfig(variant="no-context", blocks=1, prior="activation"), Site(1)
    network = new_hypernet(lm, config, site, 0)
    about = {"base_lm": lm.name, "fingerprint": lm.fingerprint, "scope": "all"}
    return Steerer(lm, network.eval(), Card(site=site, hypernet=config, **about))


@pytest.fixture
def no_model_work(monkeypatch, endless):
    reading_steerer(endless)
    for variant in tiny.VARIANTS:
        tiny.steerer_of(endless, variant)
    monkeypatch.setattr("hypersteer.lm.base.BaseLM.forward", lambda *_a, **_k: pytest.fail("ran"))


def prompts_of(lm, texts=PROMPTS):
    return [lm.chat.prompt(text) for text in texts]


def test_numbers_of_numpy_and_torch_are_numbers():
    given = Decoding(
        max_new_tokens=np.int64(3),
        temperature=np.float32(0.5),
        top_p=torch.tensor(0.25),
        top_k=np.uint8(4),
        min_p=np.float64(0.125),
        repetition_penalty=torch.tensor(2),
        seed=np.int64(3),
    )
    plain = Decoding(
        max_new_tokens=3,
        temperature=0.5,
        top_p=0.25,
        top_k=4,
        min_p=0.125,
        repetition_penalty=2.0,
        seed=3,
    )
    assert given == plain
    for seeds in (np.array([3, 4]), torch.tensor([3, 4]), range(3, 5), [np.int32(3), 4]):
        assert Decoding(seed=seeds).seed == (3, 4)
    assert Decoding(stop="a") == Decoding(stop=["a"]) == Decoding(stop=("a",))
    assert Decoding(stop=None) == Decoding()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"max_new_tokens": True}, "max_new_tokens True"),
        ({"max_new_tokens": 2.5}, "max_new_tokens 2.5"),
        ({"max_new_tokens": np.int64(0)}, "max_new_tokens 0"),
        ({"temperature": "hot"}, "temperature 'hot'"),
        ({"temperature": np.float32("nan")}, "temperature nan"),
        ({"top_p": None}, "top_p None"),
        ({"top_k": -1}, "top_k -1"),
        ({"top_k": 1.5}, "top_k 1.5"),
        ({"min_p": 1.1}, "min_p 1.1"),
        ({"min_p": -0.1}, "min_p -0.1"),
        ({"repetition_penalty": 0}, "repetition_penalty 0"),
        ({"repetition_penalty": float("inf")}, "repetition_penalty inf"),
        ({"stop": ""}, "stop holds ''"),
        ({"stop": ["a", 3]}, "stop holds 3"),
        ({"stop": 3}, "stop 3"),
        ({"stop": b"a"}, "stop a bytes"),
        ({"seed": 99999999999999999999}, "seed 99999999999999999999 is out of range"),
        ({"seed": -(2**63) - 1}, "out of range"),
        ({"seed": [1, 2**64]}, "seed 18446744073709551616 is out of range"),
        ({"seed": 2**64 - 1}, "seed 18446744073709551616 is out of range"),
        ({"seed": 1.5}, "seed 1.5"),
        ({"seed": torch.tensor(0.5)}, "seed a Tensor"),
        ({"seed": "7"}, "seed '7'"),
        ({"seed": {1: 2}}, "seed a dict"),
        ({"seed": True}, "seed True"),
        ({"tempreature": 1}, "'tempreature'; did you mean 'temperature'?"),
        ({"topk": 1}, "did you mean 'top_k'?"),
        ({"strenght": 1}, "did you mean 'strength'?"),
        ({"xyz": 1}, "known: "),
    ],
)
@pytest.mark.usefixtures("no_model_work")
def test_bad_values_are_told_at_the_call(endless, options, word):
    """By `generate` and by `stream`, with a hypernetwork and without."""
    steerer = tiny.steerer_of(endless, "no-context")
    calls = [
        lambda: endless.generate(["Hi", "Why?"], **options),
        lambda: steerer.generate(["Hi", "Why?"], **options),
    ]
    if "seed" not in options:
        calls += [lambda: endless.stream("Hi", **options), lambda: steerer.stream("Hi", **options)]
    for call in calls:
        with pytest.raises(ConfigError) as caught:
            call()
        assert word in str(caught.value)
        assert "\n" not in str(caught.value)


def test_seeds_as_large_as_torch_takes(endless):
    assert Decoding(seed=2**64 - 2).seeds(2) == range(2**64 - 2, 2**64)
    assert len(endless.generate("Hi", seed=2**64 - 1, temperature=1, max_new_tokens=2)) > 0


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 1000),
    temperature=st.sampled_from([0.3, 1.0, 2.5]),
    top_k=st.sampled_from([0, 1, 3, 40, 500]),
    top_p=st.sampled_from([1.0, 0.9, 0.4, 1e-6]),
    min_p=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    penalty=st.sampled_from([1.0, 1.3, 0.7]),
)
def test_the_choice_is_narrowed_as_in_transformers(seed, temperature, top_k, top_p, min_p, penalty):
    """The tokens that can be drawn, and how likely each is."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(1, 50, generator=generator)
    held = torch.randint(0, 50, (12,), generator=generator).tolist()
    theirs = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(penalty)])
    theirs.append(TemperatureLogitsWarper(temperature))
    if top_k:
        theirs.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        theirs.append(TopPLogitsWarper(top_p))
    if min_p:
        theirs.append(MinPLogitsWarper(min_p))
    wanted = theirs(torch.tensor([held]), logits.clone()).softmax(-1)[0]
    sampler = Sampler(
        range(300),
        temperature,
        top_p,
        top_k=top_k,
        min_p=min_p,
        repetition_penalty=penalty,
        prompts=[held] * 300,
    )
    drawn = torch.bincount(sampler(logits.expand(300, 50)), minlength=50) / 300
    assert not drawn[wanted == 0].any()
    torch.testing.assert_close(drawn, wanted, rtol=0, atol=0.13)


def test_a_penalty_also_steers_the_greedy_choice(endless):
    """Over the prompt and what was generated, as in transformers; padding is no token of a row."""
    penalty, steps = 1.5, 12
    prompts, options = prompts_of(endless), {"repetition_penalty": penalty}
    found = generate_ids(endless, prompts, [], Decoding(max_new_tokens=steps, **options))
    for prompt, ids in zip(prompts, found, strict=True):
        theirs = endless.model.generate(
            torch.tensor([prompt.ids]),
            attention_mask=torch.ones(1, len(prompt.ids)),
            max_new_tokens=steps,
            do_sample=False,
            repetition_penalty=penalty,
            eos_token_id=None,
            pad_token_id=2,
        )
        assert ids == theirs[0, len(prompt.ids) :].tolist()
    assert found != generate_ids(endless, prompts, [], Decoding(max_new_tokens=steps))


def test_rows_that_are_dropped_take_their_penalties_along(endless):
    decoding = {"max_new_tokens": 10, "temperature": 1.0, "repetition_penalty": 1.4, "top_k": 30}
    whole = generate_ids(endless, prompts_of(endless), [], Decoding(seed=5, **decoding))
    ends = {whole[0][2], whole[1][3]}
    ending = tiny.ending_with(endless, *ends)
    found = generate_ids(ending, prompts_of(ending), [], Decoding(seed=5, **decoding))
    for ids, cut in zip(whole, found, strict=True):
        end = next((at for at, token in enumerate(ids) if token in ends), len(ids))
        assert cut == ids[:end]


def test_all_at_once_at_several_strengths_equals_one_after_another(endless):
    edits = [tiny.edit_of(endless, Site(1), seed) for seed in range(4)]
    options = {"repetition_penalty": 1.3, "temperature": 0.8, "min_p": 0.02, "max_new_tokens": 8}
    plain = generate_ids(
        endless, prompts_of(endless), edit_writers(endless, edits, [1.0] * 4), Decoding(**options)
    )
    options["stop"] = endless.chat.decode(plain[1][2:4])
    decoding = Decoding(seed=(1, 2, 3, 4) * 2, **options)
    writers = edit_writers(endless, edits, [1.0] * 4)
    together = generate_ids(endless, prompts_of(endless), writers, decoding, [1.0, -1.5])
    for number, strength in enumerate((1.0, -1.5)):
        alone = generate_ids(
            endless,
            prompts_of(endless),
            edit_writers(endless, edits, [strength] * 4),
            Decoding(seed=(1, 2, 3, 4), **options),
        )
        assert together[4 * number : 4 * number + 4] == alone


def test_a_text_ends_before_the_first_stop_string(endless):
    """In a batch, alone, and in a stream; the rows beside it go on."""
    texts = endless.generate(list(PROMPTS), max_new_tokens=24)
    assert len({len(text) for text in texts}) > 1
    stops = [texts[0][5:8], texts[1][9:11], "never in there"]
    wanted = [cut_at(text, stops) for text in texts]
    assert wanted[0] != texts[0]
    assert endless.generate(list(PROMPTS), max_new_tokens=24, stop=stops) == wanted
    for prompt, text in zip(PROMPTS, wanted, strict=True):
        assert endless.generate(prompt, max_new_tokens=24, stop=stops) == text
        pieces = list(endless.stream(prompt, max_new_tokens=24, stop=stops))
        assert "".join(pieces) == text
        assert all(pieces)


def test_a_row_that_stops_runs_no_further(endless):
    text = endless.generate("Hi", max_new_tokens=24)
    with tiny.logits_seen(endless) as seen:
        endless.generate("Hi", max_new_tokens=24, stop=text[3:5])
    assert len(seen) < 10


def test_guided_answers_stop_too(endless):
    asked, beside = prompts_of(endless), prompts_of(endless, ["Hm"] * 4)
    plain = guided_ids(endless, asked, beside, Decoding(max_new_tokens=12), 1.0)
    stop = endless.chat.decode(plain[0])[2:4]
    decoding = Decoding(max_new_tokens=12, stop=stop)
    for whole, ids in zip(plain, guided_ids(endless, asked, beside, decoding, 1.0), strict=True):
        assert whole[: len(ids)] == ids
        assert stop not in endless.chat.decode(ids[:-1])
        assert len(ids) == 12 or stop in endless.chat.decode(ids)


@settings(deadline=None, max_examples=200)
@given(
    text=st.text("ab\nc", max_size=14),
    stops=st.lists(st.text("ab\nc", min_size=1, max_size=4), max_size=3),
)
def test_pieces_join_to_the_text_before_the_stop(text, stops):
    """Nothing is sent that a later token takes back, and nothing read after the first stop."""
    lm = tiny.lm_of("llama")
    ids = [lm.chat.text(letter)[0] for letter in text]
    pieces = join_pieces(lm, ({0: token} for token in ids), stops)
    ended = (text[:size] for size in range(len(text)) if end_at(text[:size], stops) is not None)
    assert "".join(pieces) == cut_at(next(ended, text), stops)
    assert text.startswith(certain(text, stops))


def test_new_options_leave_the_old_texts_as_they_are(endless):
    """Off, they change nothing; values that keep everything change nothing either."""
    for temperature in (0.0, 1.0):
        options = {"max_new_tokens": 10, "temperature": temperature, "top_p": 0.9, "seed": 4}
        texts = endless.generate(list(PROMPTS), **options)
        assert texts == endless.generate(
            list(PROMPTS), top_k=tiny.VOCAB, min_p=0.0, repetition_penalty=1, stop=(), **options
        )


def test_sampling_stays_where_the_logits_are():
    """Only one number per row is made elsewhere: no probability is moved."""

    class Elsewhere(torch.Tensor):
        moved = 0

        def cpu(self):
            Elsewhere.moved += 1
            return super().cpu()

    logits = torch.randn(2, 50).as_subclass(Elsewhere)
    Sampler([1, 2], 0.7, 0.9, top_k=20)(logits)
    assert Elsewhere.moved == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_numbers_that_are_not_finite_are_told(dtype):
    """One line that names strength and dtype, before any model work where it can be."""
    model = tiny.model_of("llama").to(dtype)
    lm = tiny.ending_with(tiny.BaseLM.of(model, tiny.tokenizer(), name="llama"))
    name = str(dtype).removeprefix("torch.")
    edit = tiny.edit_of(lm, Site(1), size=100.0)
    steerer = tiny.steerer_of(lm, "no-context")
    with tiny.logits_seen(lm) as seen:
        for strength in (1e39, -1e39):
            for call in (
                lambda s=strength: lm.generate("Hi", edit=edit, strength=s),
                lambda s=strength: lm.stream("Hi", edit=edit, strength=s),
                lambda s=strength: steerer.generate("Hi", steer="be kind", strength=s),
            ):
                with pytest.raises(SteeringError, match=r"strength -?1e\+39 is beyond float32"):
                    call()
        large = 1e37 if dtype == torch.float32 else 3e4
        with pytest.raises(SteeringError, match=f"at strength .* what {name} can hold"):
            lm.generate(["Hi", "Why?"], edit=edit, strength=[1.0, large])
        assert seen == []
    for call in (
        lambda: steerer.generate("Hi", steer="be kind", strength=1e38),
        lambda: generate_ids(
            lm,
            prompts_of(lm),
            edit_writers(lm, [edit] * 4, [1.0] * 4),
            Decoding(),
            [1.0, large],
        ),
    ):
        with pytest.raises(SteeringError, match=f"at strength .*{name}") as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_are_told(temperature):
    model = tiny.model_of("llama")
    lm = tiny.ending_with(tiny.BaseLM.of(model, tiny.tokenizer(), name="llama"))
    options = {"temperature": temperature, "max_new_tokens": 4}
    prompts = prompts_of(lm)
    # The squares of such states overflow, so that norms make zeros of them.
    huge = tiny.scaled_writer(Site(1), 1e25, 4)
    with pytest.raises(SteeringError, match=r"at strength 0\.5 .*not finite in float32"):
        generate_ids(lm, prompts, [huge], Decoding(**options), strengths=[0.0, 0.5])
    with torch.no_grad():
        model.model.layers[2].mlp.down_proj.weight[0] = torch.nan
    edit = tiny.edit_of(lm, Site(1))
    with pytest.raises(SteeringError, match=r"at strength 1\.5 .*not finite in float32"):
        lm.generate(["Hi", "Why?"], edit=edit, strength=1.5, **options)
    with pytest.raises(SteeringError, match="not finite in float32, with no edit"):
        lm.generate("Hi", **options)
    with pytest.raises(SteeringError, match="not finite"):
        "".join(lm.stream("Hi", **options))
    with pytest.raises(SteeringError, match="not finite"):
        guided_ids(lm, prompts, prompts, Decoding(**options), 1.0)


@pytest.mark.parametrize("variant", [*tiny.VARIANTS, "prior"])
@pytest.mark.usefixtures("no_model_work")
def test_all_is_checked_before_any_model_work(endless, variant):
    """At the call, also of `stream`, whose first token may be asked for much later."""
    reads = variant == "prior"
    steerer = reading_steerer(endless) if reads else tiny.steerer_of(endless, variant)
    mask = (True,) * 5
    masked = tiny.edit_of(endless, Site(1), scope=mask)
    cases = [
        (lambda f: f("Hi", edit=masked), "5 entries.* tokens", endless),
        (lambda f: f("Hi", steer="be kind", scope=mask), "5 entries.* tokens", steerer),
        (lambda f: f("Hi", steer=masked), "5 entries.* tokens", steerer),
        (lambda f: f("Hi", max_new_tokens=250), "context window", endless),
        (lambda f: f("Hi", steer="be kind", max_new_tokens=250), "context window", steerer),
        (lambda f: f("Hi", steer="be kind " * 200), "steering prompt.* context window", steerer),
        (lambda f: f("Hi", steer=" "), "empty", steerer),
    ]
    for call, word, who in cases:
        for function in (who.generate, who.stream):
            with pytest.raises(SteeringError, match=word) as caught:
                call(function)
            assert "\n" not in str(caught.value)


def test_a_writer_that_is_used_again_starts_anew(endless):
    """Also after a generation that dropped rows."""
    for variant in ("cross-attention", "no-context"):
        case = tiny.case_of("llama", variant)
        steer = [case.steer[0], None, case.steer[1], case.steer[0]]
        first, second = prompts_of(case.lm), prompts_of(case.lm, PROMPTS[::-1])
        decoding = Decoding(max_new_tokens=6)
        writers = case.writers(PROMPTS, steer)
        alone = generate_ids(case.lm, first, case.writers(PROMPTS, steer), decoding)
        ending = tiny.ending_with(case.lm, *(alone[row][1] for row in (0, 1, 2)))
        cut = generate_ids(ending, first, writers, decoding)
        assert min(map(len, cut)) < 6
        assert generate_ids(case.lm, first, writers, decoding) == alone
    fixed = tiny.case_of("llama", "residual")
    writers = fixed.writers(PROMPTS, [fixed.steer[0], None, fixed.steer[1], None])
    wanted = generate_ids(fixed.lm, second, writers, decoding)
    ending = tiny.ending_with(fixed.lm, *(wanted[row][1] for row in (0, 1, 2)))
    assert generate_ids(ending, second, writers, decoding) != wanted
    assert generate_ids(fixed.lm, second, writers, decoding) == wanted


def test_the_edits_of_a_used_writer_are_those_of_the_new_prompts():
    case = tiny.case_of("llama", "cross-attention")
    (again,) = case.writers(["Hi"], [case.steer[0]])
    for text in ("Hi", PROMPTS[1]):
        tiny.decoded(case.lm, prompts_of(case.lm, [text]), [again], steps=1)
        wanted = case.steerer.edit(case.steer[0], text).vector
        torch.testing.assert_close(again.params["vector"][0], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prompt", [{"role": "user", "content": "Hi"}])
def test_one_message_is_one_prompt(endless, prompt):
    text = endless.generate("Hi", max_new_tokens=4)
    assert endless.generate(prompt, max_new_tokens=4) == text
    assert endless.generate([prompt, prompt][:1], max_new_tokens=4) == text
    assert endless.generate([[prompt], "Hi"], max_new_tokens=4) == [text, text]
    assert "".join(endless.stream(prompt, max_new_tokens=4)) == text
    steerer = tiny.steerer_of(endless, "no-context")
    assert steerer.generate(prompt, max_new_tokens=4) == text


@pytest.mark.parametrize("what", [5, None, 1.5, object(), torch.tensor(1.0), {"a": 1}, b"Hi"])
@pytest.mark.usefixtures("no_model_work")
def test_what_is_no_prompt_is_refused_in_one_line(endless, what):
    for value in (what, [what], ["Hi", what]):
        with pytest.raises(SteeringError) as caught:
            endless.generate(value)
        assert "\n" not in str(caught.value)
    with pytest.raises(SteeringError):
        endless.stream(what)


@pytest.mark.usefixtures("no_model_work")
def test_errors_speak_of_the_callers_own_arguments(endless):
    with pytest.raises(SteeringError, match="3 values of 'edit' for 2 prompts"):
        endless.generate(["Hi", "Why?"], edit=[None] * 3)
    with pytest.raises(SteeringError, match="3 values of 'steer' for 2 prompts"):
        tiny.steerer_of(endless, "no-context").generate(["Hi", "Why?"], steer=[None] * 3)
