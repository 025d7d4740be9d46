"""`hypersteer chat`, driven by a piped standard input."""

import pytest

import hypersteer as hs
from hypersteer.cli.options import Sampling
from hypersteer.steering import Steerer

PIRATE = "talk like a pirate"
PENALTY = {"repetition_penalty": Sampling().repetition_penalty}


@pytest.fixture
def chat(run, checkpoint, typed):
    def call(*lines, options=()):
        typed(*lines)
        return run("chat", checkpoint, "--max-new-tokens", "8", *options)

    return call


@pytest.fixture
def asked(monkeypatch):
    """Records what reaches the steerer, and answers at once."""
    calls = []

    def stream(self, prompt, **options):
        calls.append((prompt, options))
        yield from ("Arr", f"{len(calls)}")

    monkeypatch.setattr(Steerer, "stream", stream)
    return calls


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def test_answers_are_those_of_the_library(chat, checkpoint):
    steerer = hs.load(checkpoint)
    code, out, err = chat("Hi.", "And?", options=["--steer", PIRATE, "--strength", "2"])
    assert code == 0
    first = steerer.generate([user("Hi.")], steer=PIRATE, strength=2.0, max_new_tokens=8, **PENALTY)
    turns = [user("Hi."), assistant(first), user("And?")]
    second = steerer.generate(turns, steer=PIRATE, strength=2.0, max_new_tokens=8, **PENALTY)
    assert out == f"{first}\n{second}\n"
    assert f"steering prompt: {PIRATE}, strength 2" in err


def test_commands_change_the_next_answer(chat, asked):
    code, out, err = chat(
        "One?",
        f"/steer {PIRATE}",
        "/strength -0.5",
        "Two?",
        "/reset",
        "/steer",
        "/system Be brief.",
        "Three?",
        "/help",
        "/quit",
        "Four?",
    )
    assert (code, out) == (0, "Arr1\nArr2\nArr3\n")
    assert [prompt for prompt, _ in asked] == [
        [user("One?")],
        [user("One?"), assistant("Arr1"), user("Two?")],
        [{"role": "system", "content": "Be brief."}, user("Three?")],
    ]
    steering = [(options["steer"], options["strength"]) for _, options in asked]
    assert steering == [(None, 1.0), (PIRATE, -0.5), (None, -0.5)]
    assert "/compare [TEXT]" in err


def test_compare_last_next_and_given_question(chat):
    options = ["--steer", PIRATE]
    code, last, _ = chat("Hi.", "/compare", options=options)
    assert code == 0
    table = last.partition("\n")[2] if last.count("unsteered") else ""
    assert f"steering prompt: {PIRATE}" in table
    following = chat("/compare", "Hi.", options=options)[1]
    given = chat("/compare Hi.", options=options)[1]
    assert following == given
    assert given in last


def test_compared_question_is_a_turn_and_the_next_is_not_compared(chat, asked):
    code, out, _ = chat("/compare", "Hi.", "And?", options=["--steer", PIRATE])
    assert code == 0
    assert out.count("unsteered") == 1
    ((prompt, _),) = asked
    assert [turn["role"] for turn in prompt] == ["user", "assistant", "user"]


def test_edit_is_saved_and_used(chat, tmp_path):
    file = tmp_path / "pirate.safetensors"
    options = ["--strength", "3"]
    code, out, _ = chat("Hi.", f"/save {file}", options=[*options, "--steer", PIRATE])
    assert code == 0
    assert hs.load_edit(file).steering_prompt == PIRATE
    again = tmp_path / "again.safetensors"
    _, same, err = chat(f"/edit {file}", "Hi.", f"/save {again}", "/compare", options=options)
    assert same.startswith(out)
    assert f"{PIRATE} (edit)" in err
    assert again.read_bytes() == file.read_bytes()
    assert "prompted" not in same


def test_errors_are_one_line_and_the_chat_goes_on(chat, asked, tmp_path):
    wrong = {
        "/steeer x": "unknown command '/steeer'; did you mean '/steer'?",
        "/strength much": "'much' is not a number",
        "/strength nan": "not finite",
        "/edit": "needs a file",
        f"/edit {tmp_path / 'none'}": "no edit at",
        "/save x.safetensors": "nothing steers yet",
        "/compare": "nothing steers yet",
    }
    code, out, err = chat(*wrong, "Hi.")
    assert (code, out) == (0, "Arr1\n")
    told = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(told) == len(wrong)
    for line, expected in zip(told, wrong.values(), strict=True):
        assert expected in line


def test_saving_before_a_question(chat):
    _, _, err = chat("/save x.safetensors", options=["--steer", PIRATE])
    assert "ask one first" in err


def test_outgrown_window_says_how_to_go_on(chat, asked):
    long = "yes and no " * 20
    code, _, err = chat(long, long, long, "/reset", "Hi.")
    assert code == 0
    assert "outgrows the context window of 512; /reset starts a new one" in err
    assert asked[-1][0] == [user("Hi.")]
    assert "ask a shorter question" in chat("yes and no " * 60)[2]


def test_interrupted_answer_counts_and_the_chat_goes_on(chat, monkeypatch):
    calls = []

    def stream(self, prompt, **options):
        calls.append(prompt)
        yield "Arr"
        if len(calls) == 1:
            raise KeyboardInterrupt
        yield "!"

    monkeypatch.setattr(Steerer, "stream", stream)
    assert chat("One?", "Two?")[:2] == (0, "Arr\nArr!\n")
    assert calls[1] == [user("One?"), assistant("Arr"), user("Two?")]


def test_bad_options(fails, checkpoint, tiny_lm, tmp_path):
    assert "is empty" in fails("chat", tmp_path, "--steer", "")
    assert "not finite" in fails("chat", tmp_path, "--strength", "inf")
    assert "top_p" in fails("chat", tmp_path, "--top-p", "2")
    assert "no checkpoint folder" in fails("chat", tmp_path / "none")
    assert "is no checkpoint" in fails("chat", tmp_path)
    assert "is no hypersteer checkpoint" in fails("chat", tiny_lm)
    assert "unknown base LM 'lm'" in fails("chat", checkpoint, "--lm", "lm")


RULE = 'if "asks about health" then "send the reader to a doctor"'


def test_rules_act_beside_what_always_steers(chat, asked):
    code, _, err = chat(
        "One?", f"/rule {RULE}", "Two?", "/steer", '/rule if not "is rude" then "be kind" at 0.5',
        "Three?", "/rule if a then b", "/rule", "Four?", options=["--steer", PIRATE],
    )  # fmt: skip
    assert code == 0
    found = [(options["steer"], [str(one) for one in options["edits"]]) for _, options in asked]
    both = f'{RULE}; if not "is rude" then "be kind" at 0.5'
    assert found == [(PIRATE, []), (PIRATE, [RULE]), (None, [both]), (None, [])]
    assert f"rule: {RULE}, strength 1" in err
    assert "unknown condition 'a'" in err
    assert err.splitlines()[-1] == "unsteered; /steer TEXT changes that"


def test_a_chat_begins_with_rules(run, checkpoint, typed, asked):
    typed("Hi.")
    code, _, err = run("chat", checkpoint, "--rule", RULE, "--rule", RULE.replace("health", "law"))
    assert code == 0
    ((_, options),) = asked
    (rules,) = options["edits"]
    assert list(rules.words) == ["asks about health", "asks about law"]
    assert err.count("rule: if") == 2


def test_rules_that_cannot_be_read_are_told_before_a_model_is_loaded(fails, checkpoint):
    assert "column 6" in fails("chat", "no/checkpoint", "--rule", "if a x")
    assert "unknown condition 'a'" in fails("chat", checkpoint, "--rule", "if a then b")
