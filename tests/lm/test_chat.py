"""Prompts and responses as ids: exact spans, one BOS, nothing merged across a border."""

import copy
import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing

import tiny
from hypersteer.engine.decoding import Decoding
from hypersteer.engine.generate import generate_ids
from hypersteer.errors import ModelError, SteeringError
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import Chat, PromptIds, collate, length_batches
from hypersteer.lm.control import end_of_turn
from hypersteer.lm.scopes import scope_mask
from lm.dialects import DIALECTS, appending

BOS, EOS, PAD = 0, 1, 2
LONG = Decoding(max_new_tokens=8)
HEADER = "<|bos|><|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
FOOTER = "<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def chat():
    return Chat(tiny.tokenizer(), [EOS])


def without_template(*, bos: bool):
    """The same tokenizer with no chat template, which adds a BOS or does not."""
    tokenizer = copy.deepcopy(tiny.tokenizer())
    tokenizer.chat_template = None
    if not bos:
        tokenizer._tokenizer.post_processor = TemplateProcessing(single="$A", special_tokens=[])
    return tokenizer


def with_template(template):
    tokenizer = copy.deepcopy(tiny.tokenizer())
    tokenizer.chat_template = template
    return Chat(tokenizer, [EOS])


def ids_of(text):
    """A whole text as a template's output is tokenised: its special tokens are tokens."""
    return tiny.tokenizer()(text, add_special_tokens=False)["input_ids"]


def text_of(ids):
    return tiny.tokenizer().decode(ids, skip_special_tokens=False)


def test_the_prefix_is_the_templates_fixed_header(chat):
    for prompt in ("Hi", "Tell me about your day.", "1", "2", "12"):
        ids, prefix, _ = chat.prompt(prompt)
        assert text_of(ids) == HEADER + prompt + FOOTER
        assert text_of(ids[:prefix]) == HEADER
        assert ids.count(BOS) == 1
        assert ids[0] == BOS


def test_a_prompt_that_merges_with_the_header_shortens_the_prefix(chat):
    """A token that holds a piece of the header and a piece of the prompt counts as prompt."""
    ids, prefix, _ = chat.prompt("\n\nHi")
    assert ids == ids_of(HEADER + "\n\nHi" + FOOTER)
    assert text_of(ids) == HEADER + "\n\nHi" + FOOTER
    merged = text_of(ids[:prefix])
    assert HEADER.startswith(merged)
    assert merged != HEADER


@settings(deadline=None, max_examples=40)
@given(prompt=st.text(min_size=1).filter(str.strip), response=st.text())
def test_prompt_and_response_are_joined_as_ids(prompt, response):
    chat = Chat(tiny.tokenizer(), [EOS])
    asked, answer = chat.prompt(prompt), chat.response(response, ends=True)
    assert answer[-1] == EOS
    batch = collate([asked], [answer], pad_id=PAD)
    assert batch.ids[0].tolist() == [*asked.ids, *answer]
    assert batch.spans.response[0].tolist() == [False] * len(asked.ids) + [True] * len(answer)
    assert chat.response(response) == answer[:-1]
    if all(ord(c) < 0xD800 for c in response) and "<|" not in response:
        assert chat.decode(answer) == response


def test_nothing_merges_across_the_border(chat):
    """The template ends with a line feed and two line feeds are one token, yet not here."""
    asked, answer = chat.prompt("Hi"), chat.response("\n\nArr")
    whole = ids_of(HEADER + "Hi" + FOOTER + "\n\nArr")
    assert [*asked.ids, *answer] != whole
    assert text_of([*asked.ids, *answer]) == text_of(whole)
    assert text_of(answer) == "\n\nArr"


def test_responses_and_bare_texts_have_no_special_tokens(chat):
    assert not {BOS, EOS, PAD} & set(chat.response("Arr!"))
    assert chat.text("talk like a pirate") == chat.response("talk like a pirate")
    assert Chat(tiny.tokenizer(), []).response("Arr!", ends=True) == chat.response("Arr!")


def test_many_turns_and_a_system_message(chat):
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Arr!"},
        {"role": "user", "content": "Why?"},
    ]
    ids, prefix, _ = chat.prompt(messages)
    turns = "Hi" + FOOTER + "Arr!<|im_end|>\n<|im_start|>user\nWhy?" + FOOTER
    assert text_of(ids) == HEADER + turns
    assert text_of(ids[:prefix]) == HEADER
    assert ids.count(BOS) == 1
    ids, prefix, _ = chat.prompt([{"role": "system", "content": "Be kind."}, *messages[:1]])
    whole = "<|bos|><|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi" + FOOTER
    assert text_of(ids) == whole
    assert text_of(ids[:prefix]) == "<|bos|><|im_start|>system\n"  # the user's own text is prompt
    assert chat.prompt([{"role": "user", "content": "Hi"}]) == chat.prompt("Hi")


def test_the_turn_is_the_users_last_message(chat):
    said = {"role": "user", "content": "Hi"}
    answered = {"role": "assistant", "content": "Arr!"}
    kind = {"role": "system", "content": "Be kind."}
    assert chat.prompt("Hi").turn is None
    assert chat.prompt([said]).turn is None
    assert chat.prompt([kind]).turn is None
    for messages in ([said, answered, said], [kind, said], [kind, said, answered, said]):
        asked = chat.prompt(messages)
        assert text_of(asked.ids[asked.turn :]) == "Hi" + FOOTER
        for side in ("left", "right"):
            batch = collate([asked, chat.prompt("Hi")], pad_id=PAD, side=side)
            for row in range(2):
                assert text_of(batch.ids[row][batch.spans.turn[row]].tolist()) == "Hi" + FOOTER
            assert torch.equal(batch.spans.turn[1], batch.spans.prompt[1])
    for content in ("1", "12 eggs", "2", "\u00e9t\u00e9"):
        asked = chat.prompt([said, answered, {"role": "user", "content": content}])
        assert text_of(asked.ids[asked.turn :]) == content + FOOTER
    asked = chat.prompt([said, answered, said, answered])
    assert text_of(asked.ids[asked.turn :]).startswith("Hi<|im_end|>\n<|im_start|>assistant\nArr!")


@pytest.mark.parametrize("bos", [True, False])
def test_a_tokenizer_without_a_template(bos):
    tokenizer = without_template(bos=bos)
    chat = Chat(tokenizer, [EOS])
    ids, prefix, _ = chat.prompt("Hi")
    plain = tiny.tokenizer()("Hi", add_special_tokens=False)["input_ids"]
    assert ids == [BOS] * bos + plain
    assert prefix == int(bos)
    several = chat.prompt([{"role": "user", "content": c} for c in ("Hi", "Why?")])
    assert several.ids == tokenizer("Hi\n\nWhy?")["input_ids"]


def test_a_prompt_keeps_at_least_one_token():
    """Even where a template hides what the user says."""
    chat = with_template("{{ bos_token }}the day")
    ids, prefix, _ = chat.prompt("Hi")
    assert prefix == len(ids) - 1


@pytest.mark.parametrize(
    ("prompt", "word"),
    [
        ("", "empty"),
        (" \n\t", "empty"),
        ([], "[]"),
        ([{"role": "user"}], "content"),
        ([{"content": "Hi"}], "role"),
        ([{"role": "user", "content": None}], "None"),
        (["Hi"], "'Hi'"),
        (None, "None"),
        (7, "not 7"),
        (b"Hi", "b'Hi'"),
        ({"Hi"}, "{'Hi'}"),
        ({"text": "Hi"}, "{'text': 'Hi'}"),
        (torch.zeros(2, 2), "tensor"),
        ([{"role": "user", "content": []}, {"role": 3, "content": "a"}], "role"),
        ([{"role": "user", "content": b"Hi"}], "content"),
        ([{"role": "user", "content": ["Hi"]}], "'Hi'"),
        ([{"role": "user", "content": [{"type": "text", "text": None}]}], "None"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}], "'image_url'"),
        ([{"role": "user", "content": [{"type": "Text", "text": "Hi"}]}], "did you mean 'text'"),
    ],
)
def test_bad_prompts_are_told_in_one_line(chat, prompt, word):
    with pytest.raises(SteeringError) as caught:
        chat.prompt(prompt)
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_single_message_is_one_prompt(chat):
    assert chat.prompt({"role": "user", "content": "Hi"}) == chat.prompt("Hi")


def test_text_parts_are_joined(chat):
    parts = [{"type": "text", "text": "Tell me "}, {"type": "text", "text": "all"}]
    for content in (parts, tuple(parts)):
        assert chat.prompt([{"role": "user", "content": content}]) == chat.prompt("Tell me all")


def test_a_message_keeps_what_else_it_has(chat):
    template = tiny.TEMPLATE.replace("{{ m['role'] }}", "{{ m['name'] }}")
    named = [{"role": "user", "name": "ann", "content": "Hi"}]
    ids = with_template(template).prompt(named).ids
    assert "<|im_start|>ann\nHi<|im_end|>" in text_of(ids)


def test_the_end_of_turn_follows_the_template():
    """What is taught and stops first is what the template puts after an answer."""
    ends = {
        "headers": ("<|eot_id|>", "<|im_end|>"),
        "turns": ("<end_of_turn>", "</s>"),
        "turns that are not special": ("<end_of_turn>", "</s>"),
        "chatml": ("<|im_end|>",),
        "no template": ("<|im_end|>",),
    }
    for name, texts in ends.items():
        tokenizer = DIALECTS[name]()
        wanted = tokenizer.convert_tokens_to_ids(list(texts))
        assert end_of_turn(tokenizer, None) == wanted
        assert end_of_turn(tokenizer, [17, wanted[0], 3]) == [*wanted, 17, 3]
        assert end_of_turn(tokenizer, 17) == [*wanted, 17]
        assert Chat(tokenizer, wanted).response("Hi", ends=True)[-1] == wanted[0]


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('never') }}",
        "{% for m in messages if m['role'] == 'user' %}{{ m['content'] }}{% endfor %}",
        "{% for m in messages %}{{ m['content'] }}\n{% endfor %}",
    ],
)
def test_a_template_that_does_not_say_how_turns_end_leaves_it_to_the_tokenizer(template):
    tokenizer = copy.deepcopy(tiny.tokenizer())
    tokenizer.chat_template = template
    assert end_of_turn(tokenizer, 2) == [EOS, 2]


def test_the_end_that_the_template_writes_ends_generation(tiny_llama):
    """It is no end for tokenizer or configuration."""
    tokenizer = copy.deepcopy(tiny.tokenizer())
    tokenizer.eos_token = "<|pad|>"
    model = tiny_llama.model
    lm = BaseLM.of(model, tokenizer)
    assert lm.chat.end_of_turn[:2] == (EOS, PAD)
    answer = generate_ids(tiny.ending_with(lm), [lm.chat.prompt("Hi")], [], LONG)[0]
    stopping = dataclasses.replace(lm, chat=Chat(tokenizer, [PAD, answer[3]]))
    assert generate_ids(stopping, [lm.chat.prompt("Hi")], [], LONG)[0] == answer[:3]


def test_padding_is_an_id_that_the_model_knows():
    """A pad token that was added to the tokenizer and not to the model."""
    tokenizer = copy.deepcopy(tiny.tokenizer())
    tokenizer.add_special_tokens({"pad_token": "<|padding|>"})
    assert tokenizer.pad_token_id == tiny.VOCAB
    assert Chat(tokenizer, [EOS], tiny.VOCAB).pad_id == EOS
    assert Chat(tokenizer, [], tiny.VOCAB).pad_id == 0
    assert Chat(tokenizer, [tiny.VOCAB, EOS], tiny.VOCAB).end_of_turn == (EOS,)
    lm = BaseLM.of(tiny.model_of("llama"), tokenizer)
    prompts = ["Hi", "Tell me about your day."]
    wanted = tiny.lm_of("llama").generate(prompts, max_new_tokens=4)
    assert lm.generate(prompts, max_new_tokens=4) == wanted


def test_tokens_that_the_model_does_not_know_are_told():
    tokenizer = copy.deepcopy(tiny.tokenizer())
    tokenizer.add_tokens(["pirate"])
    chat = Chat(tokenizer, [EOS], tiny.VOCAB)
    for ask in (chat.prompt, chat.text, chat.response):
        with pytest.raises(ModelError, match=r"'pirate' has id 300.* 300 ids") as caught:
            ask("talk like a pirate")
        assert "\n" not in str(caught.value)
        ask("talk like a sailor")
    assert Chat(tokenizer, [EOS]).text("a pirate")[-1] == tiny.VOCAB


def test_an_end_that_the_tokenizer_appends_is_left_out():
    """Else a base model is asked to go on after the end."""
    tokenizer = DIALECTS["no template, end appended"]()
    assert tokenizer("Hi")["input_ids"][-1] == EOS
    chat = Chat(tokenizer, [EOS])
    assert chat.prompt("Hi") == Chat(without_template(bos=True), [EOS]).prompt("Hi")
    for text in ("Hi<|im_end|>", "<|im_end|>"):
        ids = chat.prompt(text).ids
        assert ids == [BOS, *chat.text(text)]
        assert EOS not in ids
    templated = Chat(appending(tiny.TEMPLATE), [EOS])
    assert templated.prompt("Hi") == Chat(tiny.tokenizer(), [EOS]).prompt("Hi")
    assert templated.text("Hi") == chat.text("Hi")


@pytest.mark.parametrize("template", ["", "{{ '' }}"])
def test_a_template_that_makes_nothing_is_told(template):
    with pytest.raises(ModelError, match="makes nothing of"):
        with_template(template)


def test_a_template_that_refuses_is_told_in_one_line():
    system = "messages[0]['role'] == 'system'"
    strict = "{% if " + system + " %}{{ raise_exception('No system role') }}{% endif %}ok"
    with pytest.raises(SteeringError, match="No system role") as caught:
        with_template(strict).prompt([{"role": "system", "content": "Be kind."}])
    assert "\n" not in str(caught.value)


ROWS = [PromptIds([10, 11, 12, 13], 2), PromptIds([20], 0), PromptIds([30, 31, 32], 1)]
ANSWERS = [[14], [21, 22], []]


@pytest.mark.parametrize("side", ["left", "right"])
def test_collate_marks_every_token_once(side):
    ids, spans = batch = collate(ROWS, ANSWERS, pad_id=PAD, side=side)
    marks = torch.stack([*spans[:3], ~spans.real]).long().argmax(0)
    kinds = ["".join("xpr."[mark] for mark in row) for row in marks.tolist()]
    if side == "right":
        assert ids.tolist() == [[10, 11, 12, 13, 14], [20, 21, 22, 2, 2], [30, 31, 32, 2, 2]]
        assert kinds == ["xxppr", "prr..", "xpp.."]
        assert batch.positions.tolist()[1][:3] == [0, 1, 2]
    else:
        assert ids.tolist() == [[10, 11, 12, 13, 14], [2, 2, 20, 21, 22], [2, 2, 30, 31, 32]]
        assert kinds == ["xxppr", "..prr", "..xpp"]
        assert batch.positions.tolist()[1] == [0, 0, 0, 1, 2]
    assert torch.stack(spans[:3]).sum(0).max() == 1
    assert torch.equal(spans.real, ids != PAD)
    some = spans.rows(torch.tensor([2, 0]))
    assert torch.equal(some.prompt, spans.prompt[[2, 0]])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("length", range(1, 8))
def test_the_ends_of_a_prompt_are_two_tokens_each(side, length):
    rows = [PromptIds([10, *range(20, 20 + length)], 1), PromptIds(list(range(40, 50)), 3)]
    ids, spans = collate(rows, [[7, 8], [9]], pad_id=PAD, side=side)
    ends = sorted({*range(20, 20 + length)} & {20, 21, 20 + length - 2, 20 + length - 1})
    assert ids[scope_mask(["prompt_ends"] * 2, spans)].tolist() == [*ends, 43, 44, 48, 49]


@pytest.mark.parametrize("side", ["left", "right"])
def test_scopes_become_exact_masks(side):
    ids, spans = collate(ROWS, ANSWERS, pad_id=PAD, side=side)
    mask = scope_mask(["all", "all", "all"], spans)
    assert ids[mask].tolist() == [12, 13, 14, 20, 21, 22, 31, 32]
    assert torch.equal(scope_mask(["everywhere"] * 3, spans), spans.real)
    assert ids[scope_mask(["prompt"] * 3, spans)].tolist() == [12, 13, 20, 31, 32]
    assert ids[scope_mask(["response"] * 3, spans)].tolist() == [14, 21, 22]
    assert ids[scope_mask(["last_prompt"] * 3, spans)].tolist() == [13, 20, 32]
    assert ids[scope_mask(["prompt_ends"] * 3, spans)].tolist() == [12, 13, 20, 31, 32]
    mixed = scope_mask([(True, False, False, True), "response", (False, True, False)], spans)
    assert ids[mixed].tolist() == [10, 13, 21, 22, 31]
    with pytest.raises(SteeringError, match=r"3 entries.* 4 tokens"):
        scope_mask([(True, True, True), "all", "all"], spans)


@pytest.mark.parametrize("template", [True, False])
def test_tokenizers_do_not_warn_of_long_texts(template):
    """What does not fit is told in one line of our own; `silent_libraries` hears all others."""
    short = copy.deepcopy(tiny.tokenizer())
    short.model_max_length = 8
    short.chat_template = short.chat_template if template else None
    chat = Chat(short, (1,))
    for text in ("the sea and the ship and all the bees", "bees <|im_end|> and more of the bees"):
        assert len(chat.prompt(text).ids) > 8
        assert len(chat.text(text)) > 8


@pytest.mark.parametrize("tokens", [1, 7, 12, 1000])
def test_parts_cover_all_rows_within_the_limit(tokens):
    sizes = [5, 1, 9, 3, 3, 12, 2]
    parts = list(length_batches(sizes, tokens=tokens))
    assert sorted(position for part in parts for position in part) == list(range(7))
    for part in parts:
        assert len(part) == 1 or len(part) * max(sizes[p] for p in part) <= tokens
    ordered = [sizes[position] for part in parts for position in part]
    assert ordered == sorted(sizes)


def test_parts_hold_so_many_rows_at_most():
    assert list(length_batches([5, 1, 9, 3], rows=3)) == [[1, 3, 0], [2]]
