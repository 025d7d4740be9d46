"""`hypersteer concepts import`: from answers to data, and the command that trains on them."""

import json
import shlex

import pytest

from hypersteer.hypernet.card import read_card


@pytest.fixture
def answers(tmp_path):
    """Writes answers to numbers of prompts, by concept, and whether each is held out."""

    def write(prompts, held_out=()):
        path = tmp_path / "answers.jsonl"
        lines = [
            {"concept": concept, "prompt": f"Question {i}?", "answer": "Arr!"}
            | ({"held_out": True} if concept in held_out else {})
            for concept, count in prompts.items()
            for i in range(count)
        ]
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        return path

    return write


@pytest.mark.parametrize(
    ("prompts", "held_out", "options", "counts"),
    [
        ({"a": 1}, (), "--data.held-out-concepts 0 --data.held-in-prompts 0 ", (1, 0)),
        ({"a": 2, "b": 2}, (), "--data.held-out-concepts 1 ", (1, 1)),
        ({"a": 2, "b": 1}, ("b",), "", (1, 1)),
        ({"a": 1, "b": 2}, ("b",), "--data.held-in-prompts 0 ", (1, 1)),
        (dict.fromkeys("abcde", 2), (), "", (1, 4)),
        ({"a": 1}, ("a",), "", (208, 41)),  # beside the bundled ones, 40 of them held out
    ],
)
def test_the_command_that_it_prints_trains(
    run, answers, tiny_lm, tmp_path, prompts, held_out, options, counts
):
    out = tmp_path / "my data"
    code, told, err = run("concepts", "import", answers(prompts, held_out), "--out", out)
    assert (code, err) == (0, "")
    rows, concepts = sum(prompts.values()), len(prompts)
    assert f"{rows} rows of {concepts} concepts, {len(held_out)} of them held out\n" in told
    command = told.partition("train on it with: hypersteer ")[2].strip()
    assert options + "--out runs/mine" in command
    assert options or "--data.held" not in command

    words = shlex.split(command.replace("--start bundled ", ""))[:-1]
    words += [tmp_path / "run", "--base-lm.name", tiny_lm, "--optim.steps", 1]
    words += ["--hypernet.blocks", 1, "--data.max-response-tokens", 16]
    code, _, err = run(*words, "--data.max-validation-rows", 2)
    assert code == 0, err
    card = read_card(tmp_path / "run")
    assert (len(card.concepts), len(card.held_out)) == counts
    assert set(held_out) <= set(card.held_out)


def test_it_is_listed(run, answers, tmp_path):
    run("concepts", "import", answers({"talk like a pirate": 2}), "--out", tmp_path / "data")
    out = run("concepts", tmp_path / "data")[1]
    assert "1 concepts, 2 rows (2 positive" in out
    assert "talk like a pirate" in out


def test_bad_input(fails, answers, tmp_path):
    path, out = answers({"a": 1}), tmp_path / "data"
    assert "ANSWERS.jsonl" in fails("concepts", "import")
    assert "say where to write the data: --out FOLDER" in fails("concepts", "import", path)
    assert "did you mean '--out'" in fails("concepts", "import", path, "--ou", out)
    assert "No such file" in fails("concepts", "import", tmp_path / "none", "--out", out)
    path.write_text("{}\n")
    assert f"{path}, line 1 has no concept" in fails("concepts", "import", path, "--out", out)
    assert not out.exists()


def test_help_has_an_example(run):
    code, out, _ = run("concepts", "import", "--help")
    assert code == 0
    assert "hypersteer concepts import answers.jsonl --out data/mine" in out
    assert "hypersteer concepts import --help" in run("concepts", "--help")[1]
