"""Prompting in other turns, and beside an edit: what is said, and what is edited."""

import dataclasses

import pytest

import tiny
from hypersteer.checkpoint import write_folder
from hypersteer.concepts import Concept
from hypersteer.config import EvaluateConfig
from hypersteer.engine.decoding import Decoding
from hypersteer.engine.generate import generate_ids
from hypersteer.errors import ConfigError, SteeringError
from hypersteer.evaluation.answers import rewritten
from hypersteer.evaluation.protocol import ways_to_ask
from hypersteer.learning.values import Asked
from hypersteer.lm.messages import prompted
from hypersteer.methods.hypernetwork import Hypersteer
from hypersteer.methods.prompting import FewShotPrompting, Prompting, SystemPrompting
from hypersteer.methods.registry import check_split, make_methods, recipe
from hypersteer.methods.together import Together
from methods.cases import concepts_of

ASKED = Asked(Concept(id=7, text="speak of owls"), "Why is the sky blue?")
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi."},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Why is the sky blue?"},
]


def methods_of(*names):
    return make_methods(EvaluateConfig(methods=["prompting", *names], compare_to="prompting"))


def given(method, prompt):
    return method.given(prompt, ASKED.concept.text)


def test_the_last_user_turn_of_a_chat_gets_the_steering_prompt():
    found = prompted(CHAT, "speak of owls")
    assert found[:3] == CHAT[:3]
    assert found[3]["content"] == prompted(CHAT[3]["content"], "speak of owls")
    assert CHAT[3]["content"] == "Why is the sky blue?"
    with pytest.raises(SteeringError, match="no message of the role 'user'"):
        prompted(CHAT[:1], "speak of owls")


def test_the_system_turn_says_it_after_what_it_says_already():
    plain, chat = (given(SystemPrompting(), prompt) for prompt in (ASKED.prompt, CHAT))
    assert [one["role"] for one in plain] == ["system", "user"]
    assert "speak of owls" in plain[0]["content"]
    assert plain[1]["content"] == ASKED.prompt
    assert chat[0]["content"] == f"Be brief.\n\n{plain[0]['content']}"
    assert chat[1:] == CHAT[1:]


def test_few_shots_are_answers_to_other_steering_prompts():
    messages = given(FewShotPrompting(shots=2), ASKED.prompt)
    assert [one["role"] for one in messages] == ["user", "assistant"] * 2 + ["user"]
    assert messages[-1]["content"] == given(Prompting(), ASKED.prompt)
    assert all("speak of owls" not in one["content"] for one in messages[:-1])
    pirate = FewShotPrompting().given(ASKED.prompt, " talk like a pirate")
    assert not any("matey" in one["content"] for one in pirate[:-1])
    whole = given(FewShotPrompting(), CHAT)
    assert whole[0] == CHAT[0]
    assert whole[-3:-1] == CHAT[1:3]
    assert len(whole) == len(CHAT) + 2 * 3


@pytest.mark.parametrize("shots", [0, 99])
def test_shots_that_there_are_not(shots):
    with pytest.raises(ConfigError, match=f"shots {shots} is not between 1 and"):
        FewShotPrompting(shots=shots)


@pytest.mark.parametrize("said", ["prompting", "prompting-system"])
def test_prompting_beside_an_edit_is_the_edit_on_the_prompt_that_says_it(said, tiny_llama):
    """At strength 0 it is prompting; else what the edit does to that prompt, alone."""
    site, concepts = tiny.site_of(tiny_llama), concepts_of(4)
    method = methods_of(f"{said}+diffmean")[f"{said}+diffmean"]
    assert isinstance(method, Together)
    assert (method.learns, method.scales) == (True, True)
    learned = method.fit(tiny_llama, site, concepts)
    asked = ASKED._replace(concept=concepts[0].concept)
    steering = method.steer(tiny_llama, site, learned, [asked])
    prompt = method.prompting.given(asked.prompt, asked.concept.text)
    assert list(steering.prompts) == [prompt]
    ids = [tiny_llama.chat.prompt(prompt)]
    decoding = Decoding(max_new_tokens=8)
    plain, both = generate_ids(tiny_llama, ids, steering.writers, decoding, [0.0, 1.0])
    assert plain == generate_ids(tiny_llama, ids, [], decoding)[0]
    alone = method.edited.steer(tiny_llama, site, learned, [asked._replace(prompt=prompt)])
    assert both == generate_ids(tiny_llama, ids, alone.writers, decoding)[0]
    assert both != plain


def test_what_is_asked_is_measured_in_every_way_it_is_asked(tiny_llama):
    methods = methods_of("prompting-system", "prompting-system+actadd", "random")
    asked = [way(ASKED.prompt, "speak of owls") for way in ways_to_ask(methods)]
    assert asked[0] == ASKED.prompt
    assert asked[1] == given(Prompting(), ASKED.prompt)
    assert asked[2] == asked[3] == given(SystemPrompting(), ASKED.prompt)
    assert len(asked) == 4


def test_the_recipe_of_both_is_that_of_either():
    method = methods_of("prompting-few-shot+actadd")["prompting-few-shot+actadd"]
    assert recipe(method) == {
        "said": recipe(method.prompting),
        "edited": recipe(method.edited),
    }


def test_a_checkpoint_learnt_beside_the_prompt_is_said(tiny_llama, tmp_path):
    """However it is to be said; one that was not is left alone."""
    made = tiny.steerer_of(tiny_llama)
    for name, loss in ("alone", {}), ("beside", {"prompted": True}):
        folder = tmp_path / name
        folder.mkdir()
        card = dataclasses.replace(made.card, training={"loss": loss})
        write_folder(folder, made.hypernet.state_dict(), card)
    alone, beside = str(tmp_path / "alone"), str(tmp_path / "beside")
    methods = methods_of(alone, beside, f"prompting-system+{beside}", f"prompting+{alone}")
    assert isinstance(methods["alone"], Hypersteer)
    for name, said in (
        ("beside", Prompting),
        ("prompting-system+beside", SystemPrompting),
        ("prompting+alone", Prompting),
    ):
        assert type(methods[name].prompting) is said
        assert isinstance(methods[name].edited, Hypersteer)
    check_split(methods, [], ["owls"])
    with pytest.raises(ConfigError, match="joins prompting with an edit"):
        methods_of(f"prompting+prompting+{beside}")
    assert isinstance(methods_of(f"alone+{beside}")["alone+beside"], Hypersteer)
    for other in (alone, "prompting", "actadd", f"prompting+{beside}"):
        with pytest.raises(ConfigError, match="no checkpoint that was learnt beside the prompt"):
            methods_of(f"alone+{other}")


@pytest.mark.parametrize("edited", ["prompting", "sft", "ixg", "prompting+actadd"])
def test_what_makes_no_edit_cannot_go_beside_prompting(edited):
    with pytest.raises(ConfigError, match=r"joins prompting with an edit"):
        methods_of(f"prompting-system+{edited}")


def test_chat_messages_are_kept_as_text_with_their_roles():
    assert rewritten(given(SystemPrompting(), "Hi."), "Hi.").startswith("system: Follow")
    assert rewritten("Hi.", "Hi.") == ""
