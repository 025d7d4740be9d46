"""User text never becomes a control token, and what holds none is tokenised as it always was."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from hypersteer.lm.chat import Chat
from hypersteer.lm.control import end_of_turn
from lm import dialects
from lm.dialects import DIALECTS, HEADERS, TURNS, bytelevel


@pytest.fixture(scope="module", params=DIALECTS)
def chat(request):
    return chat_of(DIALECTS[request.param]())


def chat_of(tokenizer):
    return Chat(tokenizer, end_of_turn(tokenizer, None))


def controls(chat):
    """Ids that no user text may yield; an unknown character is no control."""
    tokenizer = chat.tokenizer
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if len(token.content) > 1}
    return added - {tokenizer.unk_token_id}


def hostile(chat):
    """Every control token's text."""
    decoder = chat.tokenizer.added_tokens_decoder
    return [decoder[i].content for i in sorted(controls(chat))]


def counted(chat, ids):
    return [i for i in ids if i in controls(chat)]


def test_user_text_never_yields_control_tokens(chat):
    for token in hostile(chat):
        for text in (token, f"a{token}b", f" {token}{token} ", f"{token[0]}{token}", token * 3):
            plain = chat.prompt("ab").ids
            assert counted(chat, chat.prompt(text).ids) == counted(chat, plain), text
            assert not counted(chat, chat.text(text)), text
            assert not counted(chat, chat.response(text)), text
            ending = chat.response(text, ends=True)
            assert counted(chat, ending) == list(chat.end_of_turn[:1])


def test_nothing_is_lost_of_it(chat):
    """What is tokenised says what the user said."""
    for token in hostile(chat):
        text = f"ab{token} de {token}f"
        for ids in (chat.text(text), chat.response(text)):
            assert chat.decode(ids).strip() == text
        assert text in chat.decode(chat.prompt(text).ids)


def test_every_message_is_guarded(chat):
    """Also system messages and earlier answers, and the role."""
    harmless = [{"role": r, "content": "ab"} for r in ("user", "assistant", "user")]
    wanted = counted(chat, chat.prompt(harmless).ids)
    for place in range(3):
        for token in hostile(chat):
            messages = [dict(message) for message in harmless]
            messages[place]["content"] = f"a{token}b"
            assert counted(chat, chat.prompt(messages).ids) == wanted
    if chat.tokenizer.chat_template not in (None, TURNS):
        for token in hostile(chat):
            for key in ("role", "content"):
                system = {"role": "system", "content": "ab"}
                two = [system, harmless[0]]
                odd = [{**system, key: f"system{token}"}, harmless[0]]
                # ChatML puts a system message of its own where the first one is none.
                if key == "content" or chat.tokenizer.chat_template == HEADERS:
                    found = counted(chat, chat.prompt(odd).ids)
                    assert found == counted(chat, chat.prompt(two).ids)


def test_harmless_text_is_tokenised_as_it_always_was(chat):
    tokenizer = chat.tokenizer
    for text in ("Hi", "<|", "a < b | c > d", "\n\nTell me <s", " naïve", "<start of turn>"):
        assert chat.text(text) == tokenizer(text, add_special_tokens=False)["input_ids"]
        assert chat.response(text) == chat.text(text)
        messages = [{"role": "user", "content": text}]
        if tokenizer.chat_template is not None:
            theirs = tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, return_dict=False
            )
            assert chat.prompt(text).ids == theirs


@settings(deadline=None, max_examples=60)
@given(
    parts=st.lists(
        st.one_of(
            st.sampled_from(["<|im_end|>", "<|im_start|>", "<|bos|>", "<|pad|>", "<|", "|>", " "]),
            st.text(max_size=4),
        ),
        min_size=1,
        max_size=8,
    ).filter(lambda parts: "".join(parts).strip())
)
def test_any_text_is_itself(parts):
    chat, text = chat_of(tiny.tokenizer()), "".join(parts)
    plain = chat.prompt("ab")
    prompt = chat.prompt(text)
    assert counted(chat, prompt.ids) == counted(chat, plain.ids)
    assert not counted(chat, chat.text(text))
    if all(ord(c) < 0xD800 for c in text):
        assert chat.decode(chat.text(text)) == text
        whole = chat.tokenizer.decode(prompt.ids, skip_special_tokens=False)
        head = chat.tokenizer.decode(plain.ids, skip_special_tokens=False)
        assert whole == head.replace("user\nab<", f"user\n{text}<")


def test_a_text_may_hold_any_character_that_could_mark_a_cut():
    chat = chat_of(tiny.tokenizer())
    text = "\U000f0000<|im_end|>\U000f0001"
    assert chat.decode(chat.text(text)) == text
    assert chat.decode(chat.prompt(text).ids).count(text) == 1


def test_tokens_within_tokens_are_found():
    """Cutting one must not leave another whole."""
    tokenizer = bytelevel(None, more=("[a<|im_end|>b]",))
    tokenizer.add_special_tokens({"additional_special_tokens": ["[a<|im_end|>b]", "<|im_end|>b"]})
    chat = chat_of(tokenizer)
    for text in ("[a<|im_end|>b]", "<<|im_end|>b", "[a<|im_end|>"):
        assert not counted(chat, chat.text(text))
        assert chat.decode(chat.text(text)) == text


def test_letters_that_fold_into_a_token_are_none():
    chat = chat_of(dialects.folding())
    text = "a\uff1c|end|\uff1eb"
    assert counted(chat, chat.tokenizer(text, add_special_tokens=False)["input_ids"])
    assert not counted(chat, chat.text(text))
    assert counted(chat, chat.prompt(text).ids) == counted(chat, chat.prompt("ab").ids)


def test_plain_added_tokens_stay_what_they_are_unless_the_template_writes_them():
    """Added words are vocabulary; a template's marks are not the user's, special or not."""
    words = bytelevel(HEADERS, special=False, more=("pirate", "<tool>"))
    chat = chat_of(words)
    for word in ("pirate", "<tool>"):
        assert words.convert_tokens_to_ids(word) in chat.text(f"a {word}!")
        assert words.convert_tokens_to_ids(word) in chat.prompt(f"a {word}!").ids
    for mark in dialects.MARKS[HEADERS]:
        number = words.convert_tokens_to_ids(mark)
        assert number not in chat.text(f"a {mark}!")
        ids, plain = chat.prompt(f"a{mark}").ids, chat.prompt("a").ids
        assert ids.count(number) == plain.count(number)


def test_a_template_may_look_for_marks_in_the_models_own_turns():
    """Thoughts of earlier turns are left out, as the template has it; a user's are text."""
    tokenizer = bytelevel(TURNS, more=("<think>", "</think>"))
    chat, end = chat_of(tokenizer), tokenizer.convert_tokens_to_ids("</think>")
    asked = {"role": "user", "content": "Hi"}
    thought = {"role": "assistant", "content": "<think>hm, <start_of_turn></think>Aye."}
    plain = {"role": "assistant", "content": "Aye."}
    assert chat.prompt([asked, thought, asked]) == chat.prompt([asked, plain, asked])
    assert end in chat.response("hm</think>Aye.")
    assert end not in chat.prompt("hm</think>Aye.").ids
    assert end not in chat.text("hm</think>Aye.")
