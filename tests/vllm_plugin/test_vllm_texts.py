"""Through vLLM a request has the text that `Steerer.generate` gives, whatever runs beside it."""

import random

import pytest
import torch

import hypersteer as hs
from hypersteer.config.vllm_plugin import PluginConfig
from hypersteer.edits.edit_set import EditSet
from hypersteer.lm.fetch import gguf_file
from hypersteer.lm.stored import converted_folder
from hypersteer.vllm_plugin.front import Front
from hypersteer.vllm_plugin.payload import KEY
from vllm_plugin.engines import MARKS, answers, engine, firsts, scheduler_of, worker_of

pytestmark = MARKS

MODEL = "smollm2-135m-instruct"
NEW = 24
PROMPTS = [
    "Tell me about your day.",
    "Why is the sky blue?",
    "Give me one tip for cooking rice, and say why it helps.",
    "What should I pack for a week by the sea?",
    "How do I learn to play the piano?",
]
TEXTS = [
    "talk like a pirate",
    "answer as a doctor",
    "mention food and cooking",
    "be gloomy and pessimistic",
    "speak as a cowboy from the old West",
    "use very formal, legalistic language",
]
SCOPES = ["all", "prompt", "response", "last_prompt", "everywhere", "prompt_ends"]


@pytest.fixture(scope="module")
def steerer():
    return hs.load(lm=hs.load_lm(MODEL, device="cpu", dtype="float32"))


@pytest.fixture(scope="module")
def folder(steerer):
    """The base LM as vLLM reads it."""
    return converted_folder(gguf_file(MODEL))


@pytest.fixture(scope="module")
def stored(steerer, tmp_path_factory):
    """Two stored edits by name: a hypernetwork's gated ones, and vectors of another tool's kind."""
    kept = tmp_path_factory.mktemp("edits")
    lm = steerer.lm
    gated = steerer.edit("talk like a pirate")
    torch.manual_seed(0)
    size = {9: 8.0, 12: 10.0}
    vectors = [
        hs.VectorEdit(
            vector=size[layer] * torch.randn(lm.width) / lm.width**0.5,
            site=lm.site(layer),
            base_lm=str(lm.identity),
        )
        for layer in size
    ]
    found = {"pirate": gated, "vectors": EditSet(edits=tuple(vectors))}
    for name, edit in found.items():
        edit.save(kept / f"{name}.safetensors")
    return kept, found


@pytest.fixture(scope="module")
def settings(stored):
    return {"edits": str(stored[0]), "layers": [12], "max_parts": 2}


@pytest.fixture(scope="module")
def front(folder, settings):
    return Front(PluginConfig(**settings), str(folder))


@pytest.fixture(scope="module")
def llm(folder, settings):
    """Blocks of 32 tokens, prefill in chunks of at most 48, more requests than rows."""
    options = {"max_num_batched_tokens": 48, "additional_config": {"hypersteer": settings}}
    with engine(folder, block_size=32, **options) as found:
        yield found


def mixed(stored, count=50):
    """Requests of all kinds: (prompt, the field `steering`, what `Steerer.generate` is given)."""
    draw, found = random.Random(7), []
    for number in range(count):
        prompt, text = draw.choice(PROMPTS), draw.choice(TEXTS)
        strength = draw.choice([0.4, 0.7, 1.0, 1.3, -0.5])
        scope = draw.choice(SCOPES)
        kind = number % 5
        if kind == 0:
            found.append((prompt, None, {}))
        elif kind == 1:
            found.append((prompt, text, {"steer": text}))
        elif kind == 2:
            part = {"text": text, "strength": strength, "scope": scope}
            found.append((prompt, part, {"steer": text, "strength": strength, "scope": scope}))
        elif kind == 3:
            name = draw.choice(sorted(stored))
            part = {"edit": name, "strength": strength}
            found.append((prompt, part, {"steer": stored[name], "strength": strength}))
        else:
            both = [{"edit": "vectors", "strength": 0.5}, {"text": text, "prompted": False}]
            given = {"steer": [(stored["vectors"], 0.5), text], "prompted": False}
            found.append((prompt, both, given))
    return found


def ours(steerer, cases):
    """The texts of our own engine; requests that can be asked for together are one batch."""
    groups, found = {}, [""] * len(cases)
    for number, (_, given) in enumerate(cases):
        groups.setdefault((given.get("scope"), given.get("prompted")), []).append(number)
    for (scope, prompted), numbers in groups.items():
        own = [cases[number] for number in numbers]
        texts = steerer.generate(
            [prompt for prompt, _ in own],
            steer=[given.get("steer") for _, given in own],
            strength=[given.get("strength", 1.0) for _, given in own],
            scope=scope,
            prompted=prompted,
            max_new_tokens=NEW,
        )
        for number, text in zip(numbers, texts, strict=True):
            found[number] = text
    return found


def test_fifty_mixed_requests_have_the_texts_of_the_steerer(llm, front, steerer, stored):
    cases = mixed(stored[1])
    asked = [front.request(prompt, steering) for prompt, steering, _ in cases]
    found = firsts(llm, asked, new=NEW)
    wanted = ours(steerer, [(prompt, given) for prompt, _, given in cases])
    assert len(set(wanted)) > 30, "they differ, so equal texts say something"
    different = [
        (prompt, steering, one, other)
        for (prompt, steering, _), one, other in zip(cases, found, wanted, strict=True)
        if one != other
    ]
    assert not different


def test_steered_then_unsteered_with_the_prefix_cache_on(llm, front, steerer):
    """The same tokens, said in the prompt or not, steered by one text and another, and plain."""
    prompt = "Tell me in a few words what people do on a long and rainy Sunday afternoon in autumn."
    part = {"text": TEXTS[0], "prompted": False}
    ids, extra = front.request(prompt, part)
    other = front.request(prompt, {**part, "strength": 2.0})[1]
    plain = steerer.generate(prompt, max_new_tokens=NEW)
    steered = steerer.generate(prompt, steer=TEXTS[0], prompted=False, max_new_tokens=NEW)
    assert plain != steered
    for given, wanted in [(extra, steered), ({}, plain), (extra, steered), ({}, plain)]:
        assert firsts(llm, [(ids, given)]) == [wanted]
    stronger = steerer.generate(
        prompt, steer=TEXTS[0], strength=2.0, prompted=False, max_new_tokens=NEW
    )
    together = firsts(llm, [(ids, other), (ids, {}), (ids, extra)])
    assert together == [stronger, plain, steered]


def hits(llm, asked):
    """Tokens of a request that were read from the prefix cache."""
    from vllm import SamplingParams

    ids, extra = asked
    params = SamplingParams(temperature=0, max_tokens=1, extra_args=extra or None)
    (found,) = llm.generate([{"prompt_token_ids": ids}], params, use_tqdm=False)
    return found.num_cached_tokens


def test_the_prefix_cache_is_used_by_equals_only(llm, front):
    prompt = "Name five things that are found in every kitchen, and say for each what it is for."
    part = {"text": TEXTS[3], "prompted": False}
    steered, plain = front.request(prompt, part), front.request(prompt, None)
    weaker = front.request(prompt, {**part, "strength": 0.5})
    llm.reset_prefix_cache()
    assert hits(llm, plain) == 0
    assert hits(llm, steered) == 0
    assert hits(llm, weaker) == 0
    assert hits(llm, plain) >= 32
    assert hits(llm, steered) >= 32
    longer = front.request(prompt + " Then say which one is the oldest.", part)
    assert hits(llm, longer) >= 32, "one edit, one prefix: shared"


def test_a_clients_own_salt_neither_opens_nor_closes_ours(llm, front):
    from vllm import SamplingParams

    prompt = "Say in one sentence how a bicycle stays upright while it is ridden down a hill."
    ids, extra = front.request(prompt, {"text": TEXTS[1], "prompted": False})
    llm.reset_prefix_cache()
    assert hits(llm, (ids, extra)) == 0
    stolen = front.salt(extra[KEY], ids, None)
    params = SamplingParams(temperature=0, max_tokens=1)
    asked = [{"prompt_token_ids": ids, "cache_salt": stolen}]
    assert llm.generate(asked, params, use_tqdm=False)[0].num_cached_tokens == 0


def test_several_answers_to_one_request(llm, front, steerer):
    ids, extra = front.request(PROMPTS[1], TEXTS[4])
    always_the_first = {"temperature": 1, "top_k": 1}
    (texts,) = answers(llm, [(ids, extra)], new=NEW, n=3, **always_the_first)
    assert texts == [steerer.generate(PROMPTS[1], steer=TEXTS[4], max_new_tokens=NEW)] * 3


def test_what_no_front_made_steers_nothing_and_ends_nothing_else(llm, front, steerer):
    ids, extra = front.request(PROMPTS[0], TEXTS[0])
    found = firsts(llm, [(ids, {KEY: "nonsense"}), (ids, extra)], new=NEW)
    assert found[1] == steerer.generate(PROMPTS[0], steer=TEXTS[0], max_new_tokens=NEW)
    assert len(found[0]) < len(found[1])


def test_nothing_of_a_request_stays(llm, front):
    asked = [front.request(PROMPTS[n % 5], TEXTS[n % 6]) for n in range(20)]
    firsts(llm, asked, new=4)
    firsts(llm, [front.request(PROMPTS[0], None)], new=1)
    running = worker_of(llm).running
    assert not running._held
    assert not running._row_of
    assert len(running._free) == 16


def test_the_models_own_embeddings_are_read(llm):
    """Once in memory, not twice; of the base LM beside vLLM nothing else is left here."""
    making = worker_of(llm).running._making
    modules = worker_of(llm).model_runner.model.named_modules()
    tables = [one for name, one in modules if name.endswith("embed_tokens")]
    assert making.lm.embeddings.weight.data_ptr() == tables[0].weight.data_ptr()
    assert len(making.lm.blocks) == 0


def test_preempted_requests_are_steered_as_before(folder, front, settings, steerer):
    """So few blocks that requests must give theirs up and be computed again.

    The last test, since its engine ends what the other one stands on.
    """
    cases = [(prompt, TEXTS[n % 3]) for n, prompt in enumerate(PROMPTS)]
    asked = [front.request(prompt, text) for prompt, text in cases]
    longest = max(len(ids) for ids, _ in asked)
    new = 60
    blocks = 2 * ((longest + new) // 32 + 1) + 1
    options = {
        "block_size": 32,
        "num_gpu_blocks_override": blocks,
        "max_model_len": longest + new + 32,
        "additional_config": {"hypersteer": settings},
    }
    with engine(folder, **options) as llm:
        scheduler, count = scheduler_of(llm), [0]
        preempt = scheduler._preempt_request

        def counting(*args, **given):
            count[0] += 1
            return preempt(*args, **given)

        scheduler._preempt_request = counting
        found = firsts(llm, asked, new=new)
        assert count[0] > 0, "nothing was preempted, so nothing was tested"
    wanted = [steerer.generate(prompt, steer=text, max_new_tokens=new) for prompt, text in cases]
    assert found == wanted
