"""The model `hypersteer` of lm-evaluation-harness, beside the harness's own `hf`."""

import sys
from functools import partial
from importlib.metadata import entry_points

import pytest

from children import ran
from e2e.real import REAL
from harnesses.marks import LM_EVAL, ROOT
from hypersteer.answering import Answerer
from hypersteer.errors import ConfigError, SteeringError
from hypersteer.harnesses.steered import Steered
from hypersteer.lm.chat import PromptIds
from hypersteer.lm.edited import edit_writers
from hypersteer.lm.likelihood import response_token_losses
from tiny import case_of, edit_of, lm_of, site_of, steerer_of

pytestmark = LM_EVAL


def real(test):
    """Mark a test that needs the real base LM."""
    for mark in REAL:
        test = mark(test)
    return test


CHAT = [{"role": "user", "content": "Tell me about the bees."}]
PAIRS = [
    ("Tell me about", " the sea"),
    ("Tell me about", " the ship"),
    ("Tell me ", "why"),
    ("", "the day"),
    ("the sea the ship", " the day the bees and the honey"),
]


def asked(kind, *arguments, doc=None):
    from lm_eval.api.instance import Instance

    return Instance(kind, doc or {}, arguments, 0, ("task", 0, 1))


likelihood, rolling, answer = (
    partial(asked, kind) for kind in ("loglikelihood", "loglikelihood_rolling", "generate_until")
)


def model(who, *, batch_size=3, steer=None, strength=1.0, prompted=False, **options):
    from hypersteer.harnesses.lm_eval_model import SteeredLM

    steered = Steered(who=who, steer=steer, strength=strength, prompted=prompted)
    return SteeredLM(steered=steered, batch_size=batch_size, **options)


def hf(lm, batch_size=3):
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=lm.model, tokenizer=lm.tokenizer, batch_size=batch_size)


@pytest.fixture(params=["llama", "qwen3", "gpt2"])
def plain(request):
    """Ours at strength 0, and the harness's own, on one base LM."""
    lm = lm_of(request.param)
    return model(steerer_of(lm), steer="sing of bees", strength=0.0), hf(lm)


def test_strength_0_scores_as_hf_does(plain):
    ours, theirs = plain
    requests = [likelihood(*pair) for pair in PAIRS]
    found, wanted = ours.loglikelihood(requests), theirs.loglikelihood(requests)
    for (mine, greedy), (own, own_greedy) in zip(found, wanted, strict=True):
        assert mine == pytest.approx(own, abs=1e-3)
        assert greedy is own_greedy


def test_strength_0_scores_whole_texts_as_hf_does(plain):
    """The second is longer than the context window of 256 tokens."""
    ours, theirs = plain
    requests = [rolling("the sea the bees"), rolling("the ship and the honey " * 60)]
    assert len(ours.lm.chat.text(requests[1].args[0])) > 2 * ours.max_length
    assert ours.loglikelihood_rolling(requests) == pytest.approx(
        theirs.loglikelihood_rolling(requests), rel=1e-5
    )


def test_a_context_that_is_too_long_is_cut_as_hf_cuts_it(plain, caplog):
    ours, theirs = plain
    requests = [likelihood("the ship and the honey " * 60, " the sea")]
    (found,), (wanted,) = ours.loglikelihood(requests), theirs.loglikelihood(requests)
    assert found[0] == pytest.approx(wanted[0], abs=1e-3)
    assert "is cut to its last" in caplog.text


def test_strength_0_answers_as_hf_does(plain):
    ours, theirs = plain
    texts = [ours.apply_chat_template(CHAT), "the sea the", "why"]
    assert texts[0] == theirs.apply_chat_template(CHAT)
    requests = [answer(text, {"until": ["\n\n"], "max_gen_toks": 12}) for text in texts]
    wanted = [theirs.generate_until([one])[0] for one in requests]
    assert ours.generate_until(requests) == wanted
    stop = next(text[2] for text in wanted if len(text) > 3)
    requests = [answer(text, {"until": [stop], "max_gen_toks": 12}) for text in texts]
    assert ours.generate_until(requests) == [text.partition(stop)[0] for text in wanted]


def test_steered_answers_are_those_of_the_steerer():
    case = case_of("llama", "cross-attention")
    ours = model(case.steerer, steer="sing of bees", prompted=None)
    wanted = case.steerer.generate(CHAT, steer="sing of bees", max_new_tokens=9)
    context = ours.apply_chat_template(CHAT)
    assert ours.generate_until([answer(context, {"max_gen_toks": 9})]) == [wanted]
    assert case.lm.generate(CHAT, max_new_tokens=9) != wanted


def test_words_are_said_in_chats_and_in_texts():
    case = case_of("llama", "no-context")
    ours = model(case.steerer, steer="sing of bees", prompted=True)
    wanted = case.steerer.generate(CHAT, steer="sing of bees", prompted=True, max_new_tokens=9)
    request = answer(ours.apply_chat_template(CHAT), {"max_gen_toks": 9})
    assert ours.generate_until([request]) == [wanted]
    said = "Follow this steering prompt in your answer: sing of bees\n\nthe sea"
    quiet = model(case.steerer, steer="sing of bees")
    assert ours.loglikelihood([likelihood("the sea", " the")]) == quiet.loglikelihood(
        [likelihood(said, " the")]
    )
    fresh = model(case.steerer, steer="sing of bees", prompted=True)
    with pytest.raises(ConfigError, match="rendered elsewhere"):
        fresh.generate_until([request])


def test_every_document_may_be_steered_in_its_own_way():
    case = case_of("llama", "cross-attention")
    ours = model(case.steerer, steer_field="style")
    styles = ["sing of bees", "", None, "talk like a pirate"]
    requests = [likelihood("the sea", " the day", doc={"style": one}) for one in styles]
    found = ours.loglikelihood(requests)
    for style, one in zip(styles, found, strict=True):
        alone = model(case.steerer, steer=style or None)
        assert one[0] == pytest.approx(
            alone.loglikelihood([likelihood("the sea", " the day")])[0][0], abs=1e-4
        )
    assert len({round(one[0], 4) for one in found}) == 3
    with pytest.raises(ConfigError, match="no field 'style'; did you mean 'styles'"):
        ours.loglikelihood([likelihood("a", "b", doc={"styles": "x"})])
    ours.cache_hook.dbdict = {}
    with pytest.raises(ConfigError, match="leave out one of them"):
        ours.loglikelihood(requests)


def test_an_edit_in_place_of_a_steering_prompt(tiny_llama):
    edit = edit_of(tiny_llama, site_of(tiny_llama))
    ours, plain = (model(Answerer(tiny_llama), steer=one) for one in (edit, None))
    requests = [likelihood("the sea", " the day"), likelihood("", " the day")]
    assert ours.loglikelihood(requests) != plain.loglikelihood(requests)
    wanted = tiny_llama.generate(CHAT, edit=edit, max_new_tokens=9)
    request = answer(ours.apply_chat_template(CHAT), {"max_new_tokens": 9})
    assert ours.generate_until([request]) == [wanted]


def test_sampling_depends_on_the_seed_and_the_request_only(tiny_llama):
    given = {"do_sample": True, "temperature": 1.5, "max_gen_toks": 8}
    requests = [answer("the sea", given), answer("the sea", given), answer("why " * 9, given)]
    ours = model(Answerer(tiny_llama), seed=3)
    found = ours.generate_until(requests)
    assert found[0] != found[1]
    assert found == model(Answerer(tiny_llama), seed=3, batch_size=1).generate_until(requests)
    assert found != model(Answerer(tiny_llama), seed=9).generate_until(requests)
    greedy = [answer("the sea", {**given, "do_sample": False})]
    assert ours.generate_until(greedy) == model(
        Answerer(tiny_llama), max_gen_toks=8
    ).generate_until([answer("the sea", {})])


def test_a_chat_may_begin_the_answer_and_have_a_system_message(tiny_llama):
    ours, theirs = model(Answerer(tiny_llama)), hf(tiny_llama)
    history = [{"role": "system", "content": "Be brief."}, *CHAT]
    assert ours.apply_chat_template(history) == theirs.apply_chat_template(history)
    history = [*CHAT, {"role": "assistant", "content": "Bees"}]
    begun = ours.apply_chat_template(history, add_generation_prompt=False)
    assert begun == theirs.apply_chat_template(history, add_generation_prompt=False)
    assert begun.endswith("Bees")
    assert ours.chat_template(True) == tiny_llama.tokenizer.chat_template


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"batch_size": "auto"}, "no search for the largest"),
        ({"batch_size": 0}, "not a number above 0"),
        ({"max_length": "much"}, "not a number above 0"),
        ({"steer_field": "style", "steer": "sing"}, "both steer_field and steer"),
    ],
)
def test_bad_options_are_told_in_one_line(options, told):
    with pytest.raises(ConfigError, match=told):
        model(steerer_of(lm_of("llama")), **options)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"num_beams": 4}, "unknown option 'num_beams'"),
        ({"max_gen_toks": 256}, "leaves no room"),
        ({"temperature": -1}, "temperature -1.0 is not 0 or more"),
    ],
)
def test_generation_settings_that_cannot_be_are_refused(given, told, tiny_llama):
    with pytest.raises(ConfigError, match=told):
        model(Answerer(tiny_llama)).generate_until([answer("the sea", given)])


def test_a_continuation_longer_than_the_window_is_refused_and_an_empty_one_is_certain(tiny_llama):
    ours = model(Answerer(tiny_llama))
    with pytest.raises(SteeringError, match="cannot be scored"):
        ours.loglikelihood([likelihood("a", " the" * 600)])
    assert ours.loglikelihood([likelihood("a", "")]) == [(0.0, True)]


def test_the_harness_runs_a_task_and_keeps_what_steered(tmp_path):
    import lm_eval
    from lm_eval.tasks import TaskManager

    case = case_of("llama", "no-context")
    found = lm_eval.simple_evaluate(
        model=model(case.steerer, steer="sing of bees", batch_size=8, max_gen_toks=4),
        tasks=["everyday_facts", "short_answers"],
        task_manager=TaskManager(include_path=str(ROOT / "examples/harnesses")),
        gen_kwargs={"max_gen_toks": 4},
        apply_chat_template=True,
        limit=4,
        bootstrap_iters=0,
    )
    assert set(found["results"]) == {"everyday_facts", "short_answers"}
    assert "styled,none" in found["results"]["short_answers"]


def test_releases_that_read_entry_points_find_the_model():
    from lm_eval.api.model import LM

    (entry,) = entry_points(group="lm_eval.models", name="hypersteer")
    assert issubclass(entry.load(), LM)


def command(*arguments, **options):
    code = "from hypersteer.harnesses.lm_eval_command import run; run()"
    return ran([sys.executable, "-c", code, *arguments], **options)


@pytest.mark.slow
def test_the_command_ends_in_one_line():
    done = command("--model", "hypersteer", "--model_args", "steer=a,edit=b", "--tasks", "arc_easy")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "error: both steer and edit are given; give one of them"
    )


@pytest.fixture(scope="module")
def shipped():
    import hypersteer as hs

    return hs.load()


@real
def test_strength_0_scores_as_hf_does_on_the_real_model(shipped):
    requests = [likelihood("The capital of France is", f" {city}") for city in ("Paris", "Rome")]
    ours = model(shipped, steer="talk like a pirate", strength=0.0)
    wanted = hf(shipped.lm).loglikelihood(requests)
    for (mine, _), (own, _) in zip(ours.loglikelihood(requests), wanted, strict=True):
        assert mine == pytest.approx(own, abs=1e-3)


@real
def test_strength_1_scores_as_the_package_does_alone(shipped):
    lm = shipped.lm
    edit = shipped.edit("talk like a pirate")
    ours = model(shipped, steer="talk like a pirate")
    for text, rest in [("The capital of France is", " Paris"), ("Ahoy", ", matey!")]:
        ((found, _),) = ours.loglikelihood([likelihood(text, rest)])
        prompt, ids = PromptIds(lm.chat.text(text), 0), lm.chat.text(rest)
        (losses,) = response_token_losses(lm, [prompt], [ids], edit_writers(lm, [edit], [1.0]))
        assert found == pytest.approx(-float(losses.sum()), abs=1e-3)
