"""The model provider of Inspect: requests run together, each steered and decoded in its own way."""

import asyncio
from importlib.metadata import entry_points

import pytest

import hypersteer.harnesses.steered as module
from harnesses.marks import INSPECT, ROOT
from hypersteer.engine.decoding import Decoding
from hypersteer.errors import ConfigError, SteeringError
from tiny import case_of, edit_of, ending_with, lm_of, site_of, steerer_of

pytestmark = INSPECT

TEXT, PROMPT = "sing of bees", "Tell me about the sea."


@pytest.fixture
def case(monkeypatch):
    """An endless base LM and its checkpoint, which is what every name stands for."""
    found = case_of("llama", "cross-attention")
    monkeypatch.setattr(module, "load_lm", lambda name, **_: found.lm)
    monkeypatch.setattr(module, "load", lambda name, **_: found.steerer)
    return found


@pytest.fixture
def api(case):
    """Make providers, which are closed at the end."""
    made = []

    def make(name="tiny", **model_args):
        from hypersteer.harnesses.inspect_model import SteeredAPI

        made.append(SteeredAPI(name, **model_args))
        return made[-1]

    yield make
    for one in made:
        one.close()


def ask(provider, *prompts, tools=(), messages=None, **config):
    """Ask at once, as Inspect does for all samples."""
    from inspect_ai.model import ChatMessageUser, GenerateConfig

    async def all_of_them():
        return await asyncio.gather(
            *(
                provider.generate(
                    messages or [ChatMessageUser(content=prompt)],
                    list(tools),
                    "auto",
                    GenerateConfig(**{"max_tokens": 8, **config}),
                )
                for prompt in prompts
            )
        )

    return asyncio.run(all_of_them())


def texts(outputs):
    return [one.completion for one in outputs]


def test_answers_are_those_of_the_steerer_whatever_runs_beside_them(api, case):
    provider = api(steer=TEXT, strength=0.8, batch_size=2)
    prompts = [PROMPT, "Why?", "Say why the sky is blue, and talk of the honey and the bees."]
    outputs = ask(provider, *prompts)
    wanted = case.steerer.generate(prompts, steer=TEXT, strength=0.8, max_new_tokens=8)
    assert texts(outputs) == wanted
    assert wanted != case.lm.generate(prompts, max_new_tokens=8)
    assert outputs[0].choices[0].stop_reason == "max_tokens"
    assert outputs[0].usage.output_tokens == 8
    assert outputs[0].usage.input_tokens == len(case.lm.chat.prompt(PROMPT).ids)
    assert outputs[0].metadata["steering"][0]["text"] == TEXT


@pytest.mark.parametrize("given", [0.0, None])
def test_strength_0_is_the_base_lm(given, api, case):
    provider = api(**({} if given is None else {"steer": TEXT, "strength": given}))
    assert texts(ask(provider, PROMPT)) == [case.lm.generate(PROMPT, max_new_tokens=8)]


def test_a_request_brings_its_own_steering(api, case):
    provider = api(steer=TEXT)
    plain = case.lm.generate(PROMPT, max_new_tokens=8)
    assert texts(ask(provider, PROMPT, extra_body={"steering": None})) == [plain]
    own = {"text": "talk like a pirate", "strength": -0.5}
    wanted = case.steerer.generate(
        PROMPT, steer="talk like a pirate", strength=-0.5, max_new_tokens=8
    )
    assert texts(ask(provider, PROMPT, extra_body={"steering": own})) == [wanted]
    assert texts(ask(provider, PROMPT, extra_body={"steering": "talk like a pirate"})) != [wanted]


def test_edits_by_file_and_by_name(api, case, tmp_path):
    edit = edit_of(case.lm, site_of(case.lm))
    path = edit.save(tmp_path / "bees.safetensors")
    wanted = [case.lm.generate(PROMPT, edit=edit, strength=0.5, max_new_tokens=8)]
    assert texts(ask(api(edit=str(path), strength=0.5), PROMPT)) == wanted
    alone = api("none", base="here", edits=str(tmp_path))
    steering = {"edit": "bees", "strength": 0.5}
    assert texts(ask(alone, PROMPT, extra_body={"steering": steering})) == wanted
    with pytest.raises(SteeringError, match="no edit is stored as 'beez'; did you mean 'bees'"):
        ask(alone, PROMPT, extra_body={"steering": {"edit": "beez"}})
    with pytest.raises(ConfigError, match="only edits steer llama"):
        ask(alone, PROMPT, extra_body={"steering": TEXT})


def test_words_are_said_where_they_are_wanted(api, case):
    said = api(steer=TEXT, prompted=True)
    wanted = case.steerer.generate(PROMPT, steer=TEXT, prompted=True, max_new_tokens=8)
    assert texts(ask(said, PROMPT)) == [wanted]


def test_decoding(api, case):
    provider = api(steer=TEXT)
    options = {"temperature": 1.3, "top_p": 0.9, "seed": 7}
    found = ask(provider, PROMPT, num_choices=2, **options)
    answers = [one.message.text for one in found[0].choices]
    wanted = case.steerer.generate([PROMPT] * 2, steer=TEXT, max_new_tokens=8, **options)
    assert answers == wanted
    assert len(set(texts(ask(provider, *[PROMPT] * 4, temperature=1.5)))) > 1
    whole = texts(ask(provider, PROMPT))[0]
    (cut,) = ask(provider, PROMPT, stop_seqs=[whole[3]])
    assert cut.completion == whole.partition(whole[3])[0]
    assert cut.choices[0].stop_reason == "stop"
    penalty = texts(ask(provider, PROMPT, extra_body={"repetition_penalty": 1.9}))
    assert penalty == [
        case.steerer.generate(PROMPT, steer=TEXT, repetition_penalty=1.9, max_new_tokens=8)
    ]


def test_log_probabilities(api, case):
    (found,) = ask(api(), PROMPT, logprobs=True, top_logprobs=2)
    told = found.choices[0].logprobs.content
    assert len(told) == 8
    for one in told:
        assert one.logprob == one.top_logprobs[0].logprob > one.top_logprobs[1].logprob
    assert "".join(one.token for one in told) == found.completion
    assert ask(api(), PROMPT)[0].choices[0].logprobs is None


def test_what_does_not_fit(api):
    provider = api()
    (found,) = ask(provider, PROMPT * 40)
    assert (found.completion, found.choices[0].stop_reason) == ("", "model_length")
    (found,) = ask(provider, PROMPT, max_tokens=10_000)
    room = found.usage.total_tokens
    assert room == provider._lm.context_window
    assert provider.max_tokens() == 512


def test_an_answer_that_ends_by_itself(monkeypatch):
    from hypersteer.harnesses.inspect_model import SteeredAPI

    lm = lm_of("llama")
    first = lm.chat.text(lm.generate(PROMPT, max_new_tokens=3))[-1]
    short = ending_with(lm, first)
    monkeypatch.setattr(module, "load", lambda name, **_: steerer_of(short, "no-context"))
    provider = SteeredAPI("tiny")
    (found,) = ask(provider, PROMPT)
    provider.close()
    assert found.choices[0].stop_reason == "stop"


def test_messages(api, case):
    from inspect_ai.model import (
        ChatMessageSystem,
        ChatMessageUser,
        ContentImage,
        ContentText,
    )

    messages = [
        ChatMessageSystem(content="Be brief."),
        ChatMessageUser(content=[ContentText(text="Tell me "), ContentText(text="why.")]),
    ]
    plain = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Tell me why."},
    ]
    provider = api(steer=TEXT)
    wanted = case.steerer.generate(plain, steer=TEXT, max_new_tokens=8)
    assert texts(ask(provider, "", messages=messages)) == [wanted]
    image = [ChatMessageUser(content=[ContentImage(image="data:image/png;base64,AAAA")])]
    with pytest.raises(SteeringError, match="only text can be read"):
        ask(provider, "", messages=image)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"extra_body": {"sterring": "x"}}, "unknown key 'sterring'; did you mean 'steering'"),
        ({"extra_body": {"steering": {"txt": "x"}}}, "'steering.txt' is not supported"),
        ({"extra_body": {"steering": {"text": " "}}}, "is empty"),
        ({"extra_body": {"min_p": 2}}, "min_p 2.0 is outside"),
        ({"frequency_penalty": 0.5}, "frequency_penalty is not supported"),
        ({"temperature": -1.0}, "temperature -1.0 is not 0 or more"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(config, told, api):
    with pytest.raises(SteeringError, match=told) as caught:
        ask(api(), PROMPT, **config)
    assert len(str(caught.value).splitlines()) == 1


def test_tools_are_refused(api):
    from inspect_ai.tool import ToolInfo

    tool = ToolInfo(name="bash", description="runs commands")
    with pytest.raises(SteeringError, match="the tool 'bash' is given"):
        ask(api(), PROMPT, tools=[tool])


@pytest.mark.parametrize(
    ("name", "args", "told"),
    [
        ("none", {}, "-M base=..."),
        ("none", {"base": "x", "steer": "y"}, "steer goes with a checkpoint"),
        ("tiny", {"strengh": 1}, "did you mean 'strength'"),
        ("tiny", {"batch_size": 0}, "below 1"),
    ],
)
def test_bad_model_args_are_told_in_one_line(name, args, told, api):
    with pytest.raises(ConfigError, match=told):
        api(name, **args)


def test_inspect_finds_the_provider_and_runs_the_task(case, tmp_path, monkeypatch):
    from inspect_ai import eval as run

    (entry,) = entry_points(group="inspect_ai")
    assert entry.value == "hypersteer.harnesses.inspect_provider"
    monkeypatch.chdir(ROOT)  # Inspect takes a task's file from below
    (log,) = run(
        "examples/harnesses/inspect_tasks.py",
        model="hypersteer/tiny",
        model_args={"steer": TEXT},
        max_tokens=4,
        limit=4,
        log_dir=str(tmp_path / "logs"),
        display="none",
    )
    assert log.status == "success", log.error
    assert {score.name for score in log.results.scores} == {"includes", "styled"}
    told = {sample.output.metadata["steering"][0]["text"] for sample in log.samples}
    assert told == {"talk like a pirate", "be gloomy and pessimistic"}
    assert {sample.output.usage.output_tokens for sample in log.samples} == {4}


def test_defaults_are_greedy_and_unpenalised():
    from inspect_ai.model import GenerateConfig

    from hypersteer.harnesses.inspect_model import _decoding

    assert _decoding(GenerateConfig(seed=0), {}, 9) == Decoding(max_new_tokens=9)
