"""Rules through vLLM have the texts and the decisions of `Steerer.generate`."""

import pytest
import torch

import hypersteer as hs
from hypersteer.config.vllm_plugin import PluginConfig
from hypersteer.errors import SteeringError
from hypersteer.lm.fetch import gguf_file
from hypersteer.lm.stored import converted_folder
from hypersteer.vllm_plugin.front import Front
from hypersteer.vllm_plugin.payload import KEY
from hypersteer.vllm_plugin.questions import METHOD, Question, answers_of, asked, rules_told
from vllm_plugin.engines import MARKS, answers, engine, firsts, worker_of

pytestmark = MARKS

MODEL = "smollm2-135m-instruct"
NEW = 24
DAY, KNEE, RICE = "Tell me about your day.", "My knee hurts. What helps?", "How do I cook rice?"
PIRATE, DOCTOR = "talk like a pirate", "answer as a doctor"
HEALTH = '"asks about health"'
INSIDE = ["My knee hurts.", "Is aspirin safe?", "I have a cough.", "What helps against a cold?"]
OUTSIDE = ["Name a river.", "Plan a trip.", "Tell a joke.", "How do I cook rice?"]


@pytest.fixture(scope="module")
def steerer():
    return hs.load(lm=hs.load_lm(MODEL, device="cpu", dtype="float32"))


@pytest.fixture(scope="module")
def known(steerer, tmp_path_factory):
    """A fitted condition and a stored edit, with the settings by which a server has them."""
    folder = tmp_path_factory.mktemp("known")
    lm = steerer.lm
    condition = hs.fit_condition(lm, INSIDE, OUTSIDE, name="ill")
    condition.save(folder / "ill.safetensors")
    torch.manual_seed(0)
    vector = 8.0 * torch.randn(lm.width) / lm.width**0.5
    edit = hs.VectorEdit(vector=vector, site=lm.site(12), base_lm=str(lm.identity))
    (folder / "edits").mkdir()
    edit.save(folder / "edits" / "noise.safetensors")
    settings = {
        "edits": str(folder / "edits"),
        "layers": [12],
        "max_parts": 3,
        "rules": True,
        "condition": [f"ill={folder / 'ill.safetensors'}"],
        "rule": ["guard=if ill then doctor at 0.8"],
        "steer": [f"doctor={DOCTOR}"],
    }
    return condition, edit, settings


@pytest.fixture(scope="module")
def folder(steerer):
    """The base LM as vLLM reads it."""
    return converted_folder(gguf_file(MODEL))


@pytest.fixture(scope="module")
def front(folder, known):
    return Front(PluginConfig(**known[2]), str(folder))


@pytest.fixture(scope="module")
def llm(folder, known):
    options = {"max_num_batched_tokens": 48, "additional_config": {"hypersteer": known[2]}}
    with engine(folder, block_size=32, **options) as found:
        yield found


def cases(known):
    """Requests: (prompt, the field `steering`, what `Steerer.generate` is given)."""
    condition, edit, _ = known
    named = {"conditions": {"ill": condition}}
    if_ill = f'if {HEALTH} then "{DOCTOR}"'
    two = f'if {HEALTH} then "{DOCTOR}" at 0.5; if not {HEALTH} then "{PIRATE}" at 0.8'
    both = "if ill then a, noise at 0.5; if not ill then noise at 0.5"
    edits = {"a": PIRATE, "noise": edit}
    sent = {"a": PIRATE, "noise": "edit:noise"}
    found = []

    def add(prompt, field, text, beside=(), strength=1.0, **given):
        rules = hs.rules(text, **given)
        found.append((prompt, field, [(rules, strength), *beside]))

    for prompt in (KNEE, DAY):
        add(prompt, {"rules": if_ill}, if_ill)
        add(prompt, {"rules": two, "strength": 0.7}, two, strength=0.7)
        low = if_ill.replace(HEALTH, f"{HEALTH} above 0.02")
        add(prompt, {"rules": low, "tokens": True}, low, tokens=True)
        guard = {"edits": {"doctor": DOCTOR}, **named}
        add(prompt, {"rule": "guard"}, "if ill then doctor at 0.8", **guard)
        add(prompt, {"rules": both, "edits": sent}, both, edits=edits, **named)
        parts = [{"text": PIRATE, "strength": 0.6}, {"rules": if_ill}]
        add(prompt, parts, if_ill, beside=[(PIRATE, 0.6)])
    add(RICE, {"rules": two, "strength": -0.5}, two, strength=-0.5)
    return found


def expected(steerer, cases):
    """Texts and decisions of our own engine."""
    log = hs.Decisions()
    texts = steerer.generate(
        [prompt for prompt, _, _ in cases],
        steer=[steer for _, _, steer in cases],
        decisions=log,
        max_new_tokens=NEW,
    )
    return texts, log.rows


def same(found, wanted):
    """Whether two decisions are the same, scores and shares up to the last digits."""
    one, other = found.as_dict(), wanted.as_dict()
    for name in ("scores", "probabilities", "tokens"):
        ours, theirs = one.pop(name, {}), other.pop(name, {})
        assert list(ours) == list(theirs)
        for key, value in ours.items():
            if name == "tokens":
                assert [text for text, _ in value] == [text for text, _ in theirs[key]]
                pairs = zip(value, theirs[key], strict=True)
                assert all(mine == pytest.approx(its, abs=1e-4) for (_, mine), (_, its) in pairs)
            else:
                assert value == pytest.approx(theirs[key], abs=1e-3)
    return one == other


def test_texts_and_decisions_of_mixed_requests_are_those_of_the_steerer(llm, front, steerer, known):
    mixed = cases(known)
    requests, logs = [], []
    for prompt, field, _ in mixed:
        logs.append(hs.Decisions())
        requests.append(front.request(prompt, field, llm=llm, decisions=logs[-1]))
    plain = [front.request(prompt, None) for prompt in (KNEE, DAY)]
    texts = firsts(llm, requests + plain, new=NEW)
    wanted, rows = expected(steerer, mixed)
    different = [
        (prompt, field, one, other)
        for (prompt, field, _), one, other in zip(mixed, texts, wanted, strict=False)
        if one != other
    ]
    assert not different
    assert texts[-2:] == [steerer.generate(one, max_new_tokens=NEW) for one in (KNEE, DAY)]
    for log, (check,) in zip(logs, rows, strict=True):
        ((found,),) = log.rows
        assert same(found, check)
    acted = {found.edits for log in logs for (found,) in log.rows}
    assert {(), (DOCTOR,), (PIRATE,), ("a", "noise"), ("noise",)} <= acted


def test_rules_that_fire_alike_are_one_request(llm, front):
    """Of one payload, so of one salt: they share the prefix cache, with the text itself too."""
    one = front.request(KNEE, {"rules": f'if {HEALTH} then "{DOCTOR}"'}, llm=llm)
    other = front.request(KNEE, {"rules": f'if not not {HEALTH} then "{DOCTOR}"'}, llm=llm)
    assert one == other == front.request(KNEE, DOCTOR)
    assert one[1][KEY]


def test_several_answers_have_one_decision(llm, front, steerer):
    field = {"rules": f'if {HEALTH} then "{DOCTOR}"'}
    request = front.request(KNEE, field, llm=llm)
    (texts,) = answers(llm, [request], new=NEW, n=2, temperature=1, top_k=1)
    rules = hs.rules(field["rules"])
    assert texts == [steerer.generate(KNEE, steer=rules, max_new_tokens=NEW)] * 2


def test_one_call_decides_many_and_tells_faults_alone(llm, front, steerer):
    told = rules_told(hs.rules(f'if {HEALTH} then "{DOCTOR}"'))
    late = rules_told(hs.rules(f'if "the answer lists things" then "{DOCTOR}"'))
    prompts = [steerer.lm.chat.prompt(one) for one in (KNEE, DAY, KNEE)]
    questions = [Question(prompts[0], told), Question(prompts[1], late), Question(prompts[1], told)]
    (text,) = llm.collective_rpc(METHOD, args=(asked(questions),))
    found = answers_of(text)
    assert found[0].edits == (DOCTOR,)
    assert found[2].edits == ()
    assert "is about the answer, which is not there when the prompt is checked" in found[1]
    assert "\n" not in found[1]
    with pytest.raises(SteeringError, match="is about the answer"):
        front.request(KNEE, {"rules": late.text}, llm=llm)


def test_the_blocks_that_conditions_read_stay_and_no_others(llm):
    worker = worker_of(llm)
    making = worker.running._making
    assert len(making.lm.blocks) == worker.deciding.blocks == 21
    modules = worker.model_runner.model.named_modules()
    tables = [one for name, one in modules if name.endswith("embed_tokens")]
    assert making.lm.embeddings.weight.data_ptr() == tables[0].weight.data_ptr()
