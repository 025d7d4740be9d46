"""`hypersteer generate`: forms of input and output, and what is refused."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import hypersteer as hs
from hypersteer.cli import generate
from hypersteer.cli.options import Sampling, names_checkpoint
from hypersteer.lm.messages import prompted

PIRATE = "talk like a pirate"
PENALTY = {"repetition_penalty": Sampling().repetition_penalty}


@pytest.fixture
def steerer(checkpoint):
    return hs.load(checkpoint)


def test_one_prompt_streams_what_the_library_generates(run, checkpoint, steerer):
    argv = ["generate", checkpoint, "Hi.", "--steer", PIRATE, "--strength", "3"]
    code, out, err = run(*argv, "--max-new-tokens", "8")
    assert (code, err) == (0, "")
    assert (
        out
        == steerer.generate("Hi.", steer=PIRATE, strength=3.0, max_new_tokens=8, **PENALTY) + "\n"
    )


def test_several_prompts_each_steered_in_its_way(run, checkpoint, steerer, json_lines):
    argv = ["generate", checkpoint, "Hi.", "Bye.", "--steer", PIRATE, "--steer", "be gloomy"]
    argv += ["--strength", "2", "--strength=-1.5", "--max-new-tokens", "6", "--batch-size", "1"]
    argv += ["--temperature", "0.8", "--top-p", "0.9", "--seed", "5"]
    code, out, _ = run(*argv, "--json")
    assert code == 0
    texts = steerer.generate(
        ["Hi.", "Bye."],
        steer=[PIRATE, "be gloomy"],
        strength=[2.0, -1.5],
        max_new_tokens=6,
        **PENALTY,
        temperature=0.8,
        top_p=0.9,
        seed=5,
    )
    assert json_lines(out) == [
        {"prompt": "Hi.", "steer": PIRATE, "strength": 2.0, "text": texts[0]},
        {"prompt": "Bye.", "steer": "be gloomy", "strength": -1.5, "text": texts[1]},
    ]
    plain = run(*argv)[1]
    assert plain == f"> Hi.\n{texts[0].strip()}\n\n> Bye.\n{texts[1].strip()}\n\n"


def test_a_steering_prompt_may_be_said_as_well(run, checkpoint, steerer, json_lines):
    argv = ["generate", checkpoint, "Hi.", "--steer", PIRATE, "--prompted", "--json"]
    code, out, _ = run(*argv, "--max-new-tokens", "6")
    (line,) = json_lines(out)
    assert code == 0
    assert line["prompt"] == "Hi."
    assert line["text"] == steerer.generate(
        "Hi.", steer=PIRATE, prompted=True, max_new_tokens=6, **PENALTY
    )


def test_a_checkpoint_learnt_beside_the_prompt_says_it(run, checkpoint, steerer, tmp_path, fails):
    beside = tmp_path / "beside"
    shutil.copytree(checkpoint, beside)
    card = json.loads((beside / "config.json").read_text())
    card["training"]["loss"]["prompted"] = True
    (beside / "config.json").write_text(json.dumps(card))
    argv = ["generate", beside, "Hi.", "--steer", PIRATE, "--max-new-tokens", "6"]
    for more, said in ([], True), (["--prompted"], True), (["--alone"], False):
        expected = steerer.generate("Hi.", steer=PIRATE, prompted=said, max_new_tokens=6, **PENALTY)
        assert run(*argv, *more)[1] == f"{expected}\n"
    path = tmp_path / "edit.safetensors"
    assert run(*argv, "--save-edit", path)[0] == 0
    made = steerer.edit(PIRATE, prompt=prompted("Hi.", PIRATE))
    assert torch.equal(hs.load_edit(path).vector, made.vector)
    assert "exclude each other" in fails(*argv, "--prompted", "--alone")


def test_the_edit_that_is_saved_is_the_one_that_acts(run, checkpoint, steerer, tmp_path):
    for more, asked in ([], "Hi."), (["--prompted"], prompted("Hi.", PIRATE)):
        path = tmp_path / f"{len(more)}.safetensors"
        argv = ["generate", checkpoint, "Hi.", "--steer", PIRATE, "--max-new-tokens", "2"]
        code, _, err = run(*argv, *more, "--save-edit", str(path))
        assert code == 0, err
        made = steerer.edit(PIRATE, prompt=asked)
        assert torch.equal(hs.load_edit(path).vector, made.vector)


@pytest.mark.parametrize(
    "steer", [[], ["--rule", "if a then x", "--condition", "a=a.st", "--steer", "x=be gloomy"]]
)
def test_nothing_to_say_is_told(run, checkpoint, steer):
    code, _, err = run("generate", checkpoint, "Hi.", "--prompted", *steer)
    assert code == 2
    assert "--prompted says steering prompts; give --steer, without a --rule" in err


def test_edits_act_besides(run, checkpoint, steerer, tmp_path, json_lines):
    """With a steering prompt, without one, streamed, in a batch, and side by side."""
    first, second = (steerer.edit(text, prompt="Hi.") for text in ("sing", "dance"))
    first.save(tmp_path / "a.safetensors")
    second.save(tmp_path / "b=c.safetensors")
    also = ["--also", tmp_path / "a.safetensors", "--also", f"{tmp_path / 'b=c.safetensors'}=-2"]
    edits, short = [first, (second, -2.0)], {"max_new_tokens": 6, **PENALTY}
    options = [*also, "--max-new-tokens", "6", "--strength", "2"]

    def said(*prompts, more=()):
        return run("generate", checkpoint, *prompts, *options, *more)

    expected = steerer.generate(["Hi.", "Bye."], edits=[PIRATE, *edits], strength=2.0, **short)
    code, out, err = said("Hi.", "Bye.", more=["--steer", PIRATE, "--json"])
    assert (code, err) == (0, "")
    assert [line["text"] for line in json_lines(out)] == expected
    assert json_lines(out)[0]["steer"] == PIRATE
    assert said("Hi.", more=["--steer", PIRATE])[1] == expected[0] + "\n"
    alone = steerer.generate("Hi.", edits=edits, strength=2.0, **short)
    assert said("Hi.")[1] == alone + "\n"
    (line,) = json_lines(said("Hi.", more=["--compare", "--json"])[1])
    assert line["text"] == alone
    assert line["unsteered"] == steerer.generate("Hi.", **short)
    for bad, told in ((tmp_path / "none", "no edit at"), (f"{tmp_path / 'none'}=x", "no edit at")):
        code, _, err = said("Hi.", more=["--also", bad])
        assert code == 2
        assert told in err


def test_every_way_to_decode_is_an_option(run, checkpoint, steerer, json_lines):
    argv = ["generate", checkpoint, "Hi.", "Bye.", "--json", "--max-new-tokens", "12"]
    argv += ["--temperature", "0.8", "--top-k", "40", "--min-p", "0.01", "--seed", "2"]
    argv += ["--repetition-penalty", "1.2"]
    options = {
        "max_new_tokens": 12,
        "temperature": 0.8,
        "top_k": 40,
        "min_p": 0.01,
        "seed": 2,
    } | PENALTY
    options["repetition_penalty"] = 1.2
    texts = steerer.generate(["Hi.", "Bye."], **options)
    assert [line["text"] for line in json_lines(run(*argv)[1])] == texts
    stops = [texts[0][2:4], texts[1][3:5]]
    cut = steerer.generate(["Hi.", "Bye."], stop=stops, **options)
    assert cut != texts
    found = run(*argv, "--stop", stops[0], "--stop", stops[1])[1]
    assert [line["text"] for line in json_lines(found)] == cut


def test_prompts_from_file_and_stdin(run, checkpoint, tmp_path, typed, json_lines):
    file = tmp_path / "prompts.txt"
    file.write_text("One?\n\n  Two?\n")
    argv = ["generate", checkpoint, "Zero?", "--json", "--max-new-tokens", "2", "--prompts-file"]
    from_file = json_lines(run(*argv, file)[1])
    assert [line["prompt"] for line in from_file] == ["Zero?", "One?", "Two?"]
    assert {line["steer"] for line in from_file} == {None}
    typed("One?", "Two?")
    assert json_lines(run(*argv, "-")[1]) == from_file


def test_compare(run, checkpoint, steerer, json_lines):
    argv = ["generate", checkpoint, "Hi [there].", "--steer", PIRATE, "--strength", "4"]
    argv += ["--compare", "--max-new-tokens", "8", "--temperature", "0.5"]
    (line,) = json_lines(run(*argv, "--json")[1])
    options = {"max_new_tokens": 8, "temperature": 0.5, **PENALTY}
    words = f"Follow this steering prompt in your answer: {PIRATE}\n\nHi [there]."
    assert line["unsteered"] == steerer.generate("Hi [there].", **options)
    assert line["prompted"] == steerer.generate(words, **options)
    assert line["text"] == steerer.generate("Hi [there].", steer=PIRATE, strength=4.0, **options)
    assert len({line[name] for name in ("unsteered", "prompted", "text")}) == 3
    code, out, _ = run(*argv)
    assert code == 0
    assert "Hi [there]." in out
    assert f"steering prompt: {PIRATE}, strength 4" in out
    assert all(name in out for name in ("unsteered", "prompted", "steered"))


def test_saved_edit_steers_alike(run, checkpoint, tmp_path, json_lines):
    file = tmp_path / "pirate.safetensors"
    argv = ["generate", checkpoint, "Hi.", "--max-new-tokens", "8", "--strength", "3"]
    code, out, err = run(*argv, "--steer", PIRATE, "--save-edit", file)
    assert code == 0
    assert str(file) in err
    assert hs.load_edit(file).steering_prompt == PIRATE
    assert run(*argv, "--edit", file)[1] == out
    (line,) = json_lines(run(*argv, "--edit", file, "--compare", "--json")[1])
    assert line["text"] + "\n" == out
    assert (line["steer"], line["prompted"]) == (PIRATE, None)
    assert "prompted" not in run(*argv, "--edit", file, "--compare")[1]


def test_a_control_vector_steers_alike(run, checkpoint, tmp_path):
    file = tmp_path / "pirate.gguf"
    argv = ["generate", checkpoint, "Hi.", "--max-new-tokens", "8", "--strength", "3"]
    code, out, err = run(*argv, "--steer", PIRATE, "--save-edit", file)
    assert code == 0
    assert f"--control-vector {file}, and steers the chat prefix too" in err
    assert run(*argv, "--edit", file)[1] == out
    narrow = tmp_path / "narrow.gguf"
    hs.VectorEdit(vector=torch.ones(3), site=hs.Site(1)).save(narrow)
    code, _, err = run(*argv, "--edit", narrow)
    assert (code, err.count("\n")) == (2, 1)
    assert "width 3" in err
    narrow.write_bytes(b"GGUF")
    code, _, err = run(*argv, "--also", narrow)
    assert (code, err.count("\n")) == (2, 1)
    assert "is not a readable control vector" in err


def test_base_lm_from_elsewhere(run, checkpoint, tiny_lm, tmp_path):
    moved = tmp_path / "moved"
    moved.symlink_to(tiny_lm)
    code, out, _ = run("generate", checkpoint, "Hi.", "--lm", moved, "--max-new-tokens", "4")
    assert (code, out) == run("generate", checkpoint, "Hi.", "--max-new-tokens", "4")[:2]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "there is no prompt"),
        (["  "], "a prompt is empty"),
        (["Hi.", "--steer", " "], "is empty"),
        (["Hi.", "--strength", "nan"], "strength nan is not finite"),
        (["Hi.", "--steer", "a", "--steer", "b"], "--steer has 2 values for 1 prompts"),
        (["a", "b", "c", "--strength", "1", "--strength", "2"], "2 values for 3 prompts"),
        (["Hi.", "--compare"], "give --steer or --edit"),
        (["Hi.", "--steer", "a", "--edit", "x"], "exclude each other"),
        (["Hi.", "Bye.", "--steer", "a", "--save-edit", "x"], "--save-edit"),
        (["Hi.", "--save-edit", "x"], "--save-edit"),
        (["Hi.", "--edit", "none.safetensors"], "no edit at 'none.safetensors'"),
        (["--prompts-file", "none.txt"], "'none.txt'"),
        (["Hi.", "--max-new-tokens", "0"], "max_new_tokens 0"),
        (["Hi.", "--temperature", "-1"], "temperature"),
        (["Hi.", "--top-k", "-1"], "top_k -1"),
        (["Hi.", "--min-p", "2"], "min_p 2"),
        (["Hi.", "--repetition-penalty", "0"], "repetition_penalty 0"),
        (["Hi.", "--stop", ""], "stop holds ''"),
        (["Hi.", "--seed", "99999999999999999999"], "seed 99999999999999999999 is out of range"),
        (["Hi.", "--batch-size", "0"], "--batch-size 0"),
    ],
)
def test_bad_input_is_refused_before_anything_is_loaded(fails, options, told):
    assert told in fails("generate", "--checkpoint", "no/checkpoint/here", *options)


def test_strengths_that_no_number_type_holds(fails, checkpoint):
    for steer in (["--steer", PIRATE], []):
        told = fails("generate", checkpoint, "Hi.", *steer, "--strength", "1e39")
        assert "strength 1e+39 is beyond float32" in told


def test_bad_checkpoints_and_base_lms(fails, checkpoint, tiny_lm, tmp_path):
    assert "no checkpoint folder at" in fails("generate", tmp_path / "none", "Hi.")
    assert "is no checkpoint" in fails("generate", tmp_path, "Hi.")
    assert "is no hypersteer checkpoint" in fails("generate", tiny_lm, "Hi.")
    told = fails("generate", checkpoint, "Hi.", "--lm", "smollm2-135m-instrct")
    assert "did you mean 'smollm2-135m-instruct'?" in told
    assert "unknown device 'gpu'" in fails("generate", checkpoint, "Hi.", "--device", "gpu")
    assert "unknown dtype 'float33'" in fails("generate", checkpoint, "Hi.", "--dtype", "float33")
    assert "context window" in fails("generate", checkpoint, "Hi.", "--max-new-tokens", "999")


def test_as_a_process(checkpoint):
    command = [sys.executable, "-m", "hypersteer", "generate", checkpoint, "Hi.", "--steer", PIRATE]
    done = subprocess.run([*command, "--max-new-tokens", "4"], capture_output=True, check=True)
    assert done.stdout.endswith(b"\n")
    assert done.stderr == b""


@pytest.mark.parametrize(
    ("first", "alone", "before_others"),
    [
        ("bundled", False, True),
        ("runs/demo", False, True),
        ("owner/name", False, True),
        ("TCP/IP", False, True),
        ("./here", True, True),
        ("~/runs/demo", True, True),
        ("/runs/demo", True, True),
        ("Tell me about your day.", False, False),
        ("Hi.", False, False),
        ("Compare tea and/or coffee", False, False),
        ("/ is division, is it?", False, False),
        ("why " * 1000, False, False),
        ("why/" * 1100, False, False),
        ("why/" + "y" * 300, False, False),
        ("~nobody-of-that-name/x", False, False),
        ("a\0b/c", False, False),
        ("a/\ud800", False, False),
        ("", False, False),
    ],
)
def test_a_first_argument_is_a_checkpoint_or_a_prompt(
    first, alone, before_others, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)  # where no demo has left a runs/demo
    assert names_checkpoint(first, more=False) == alone
    assert names_checkpoint(first, more=True) == before_others


def test_a_folder_is_a_checkpoint_only_if_it_holds_one(tmp_path, monkeypatch, checkpoint):
    monkeypatch.chdir(tmp_path)
    assert not names_checkpoint("mine", more=True)
    (tmp_path / "mine").mkdir()
    assert not names_checkpoint("mine", more=True)
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(f"{checkpoint}/{name}", tmp_path / "mine" / name)
    assert names_checkpoint("mine", more=False)


def test_a_folder_that_may_not_be_looked_at_is_a_prompt(monkeypatch):
    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refused)
    assert not names_checkpoint("locked", more=False)


@pytest.mark.parametrize("prompt", ["word " * 60, "TCP/IP", "x" * 300, "runs/none", "bundled"])
def test_a_prompt_is_a_prompt(run, checkpoint, steerer, monkeypatch, prompt):
    """Also where no checkpoint is named, and whatever it looks like."""
    answer = steerer.generate(prompt, max_new_tokens=3, **PENALTY)
    options = ["--max-new-tokens", "3"]
    assert run("generate", "--checkpoint", checkpoint, prompt, *options) == (0, f"{answer}\n", "")
    monkeypatch.setattr(generate, "BUNDLED", checkpoint)
    assert run("generate", prompt, *options) == (0, f"{answer}\n", "")


def test_with_the_option_every_word_is_a_prompt(run, checkpoint, json_lines):
    argv = ["generate", checkpoint, "bundled", "a/b", "--checkpoint", checkpoint, "--json"]
    lines = json_lines(run(*argv, "--max-new-tokens", "1")[1])
    assert [line["prompt"] for line in lines] == [checkpoint, "bundled", "a/b"]


def test_without_a_checkpoint_the_first_argument_is_the_first_prompt(monkeypatch):
    asked = []

    def opened(checkpoint, loading):
        del loading
        asked.append(checkpoint)
        raise KeyboardInterrupt

    monkeypatch.setattr(generate, "open_steerer", opened)
    seen = []
    real = generate._questions
    monkeypatch.setattr(generate, "_questions", lambda args: seen.append(real(args)) or seen[-1])
    for argv in (["A?", "B?", "--steer", "be gloomy"], ["--steer", "be gloomy", "A?", "B?"]):
        with pytest.raises(KeyboardInterrupt):
            generate.main(argv)
        assert asked.pop() == "bundled"
        assert [question.prompt for question in seen.pop()] == ["A?", "B?"]
    with pytest.raises(KeyboardInterrupt):
        generate.main(["runs/x", "A?"])
    assert asked.pop() == "runs/x"
    assert [question.prompt for question in seen.pop()] == ["A?"]
