"""`hypersteer evaluate` with a tiny base LM, judged over HTTP by a server on this machine."""

import pytest

from endpoint.server import said, serving
from hypersteer.judges.llm import MARKER

SETTINGS = """\
methods = ["prompting", "diffmean"]
[settings.diffmean]
{settings}
[data]
held_out_concepts = [3]
held_in_prompts = 1
max_concepts = 2
[protocol]
prompts = 2
strengths = [1.0, 2.0]
max_new_tokens = 4
gap_rows = 1
skill_items = 2
refusal_requests = 0
[judge]
kind = "llm"
base_url = "{url}"
model = "tiny"
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HYPERSTEER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def server():
    with serving() as chat:
        chat.script = lambda asked: said(f"It is so.\n{MARKER} {len(asked.text) % 3}")
        yield chat


@pytest.fixture
def settings(tmp_path, server):
    path = tmp_path / "small.toml"
    path.write_text(SETTINGS.format(url=server.url, settings=""))
    return path


def test_evaluates_and_next_time_asks_nothing(run, settings, server, tiny_lm, tmp_path):
    argv = ["evaluate", settings, "--out", tmp_path / "out", "--base-lm.name", tiny_lm]
    code, out, err = run(*argv)
    assert code == 0, err
    assert f"report: {tmp_path / 'out' / 'report.md'}" in out
    assert "diffmean: answers: 100 %" in err
    report = (tmp_path / "out" / "report.md").read_text()
    assert "llm (tiny, temperature 0, rubrics 1)" in report.replace("\\", "")
    asked = len(server.asked)
    assert asked >= 3
    assert run(*argv)[0] == 0
    assert len(server.asked) == asked
    code, out, err = run("evaluate", "--config", *argv[1:])
    assert code == 0, err


def test_help_shows_an_example(run):
    out = run("evaluate", "--help")[1]
    assert "hypersteer evaluate experiments/table1_cpu.toml" in out
    assert "--protocol.strengths" in out
    assert "--judge.base-url" in out


def test_bad_input(fails, settings, server, tiny_lm, tmp_path):
    argv = ["evaluate", settings, "--out", tmp_path / "out", "--base-lm.name", tiny_lm]
    assert "'difmean' is neither a method; did you mean 'diffmean'?" in fails(
        *argv, "--methods", "prompting", "difmean"
    )
    assert "protocol.prompts 1 is below 2" in fails(*argv, "--protocol.prompts", "1")
    assert "did you mean '--protocol.prompts'" in fails(*argv, "--protocol.promts", "3")
    assert "cannot read the settings" in fails("evaluate", tmp_path / "no.toml")
    assert "right after 'evaluate'" in fails("evaluate", "--seed", "1", settings)
    settings.write_text(SETTINGS.format(url=server.url, settings="sed = 1"))
    assert "settings.diffmean: unknown key 'sed'" in fails(*argv)
    assert not (tmp_path / "out").exists()


def test_an_endpoint_that_is_down_is_told_and_no_answer_is_lost(run, settings, tiny_lm, tmp_path):
    argv = ["evaluate", settings, "--out", tmp_path / "out", "--base-lm.name", tiny_lm]
    code, _, err = run(*argv, "--judge.base-url", "http://127.0.0.1:9/v1")
    assert code == 2
    assert "http://127.0.0.1:9/v1" in err.splitlines()[-1]
    assert list((tmp_path / "out" / "answers").rglob("*.parquet"))
    code, _, err = run(*argv)
    assert code == 0, err
    assert "unsteered: answers" not in err


def test_the_help_names_every_method(run):
    from hypersteer.methods.registry import METHODS

    code, shown, _ = run("evaluate", "--help")
    assert code == 0
    flat = " ".join(shown.replace("│", " ").split())
    for name in METHODS:
        assert f"{name}," in flat or f"{name}." in flat or f"{name};" in flat, name
