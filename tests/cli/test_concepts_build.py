"""`hypersteer concepts build`, from the command line against a real local server."""

import io
import sys

import pytest

from endpoint.server import serving
from synthesis.teachers import COUNTS, TOKENS, make_lm, teach, toml


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HYPERSTEER_CACHE", str(tmp_path / "cache"))
    for name in ("OPENAI_API_KEY", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server():
    with serving() as chat:
        chat.script = teach
        yield chat


@pytest.fixture
def settings(server, tmp_path):
    """A settings file for the server; without a base LM, so that it is quick."""
    return toml(
        {
            "out": str(tmp_path / "data"),
            "instructions": "bundled",
            "response_tokens": TOKENS,
            "concepts": str(tmp_path / "list.txt"),
            "base_lm": {"name": "none"},
            # More connections at once than the test server queues would be turned away by it.
            "teacher": {
                "base_url": server.url,
                "model": "tiny",
                "backoff_s": 0.001,
                "concurrency": 4,
            },
            "counts": {**COUNTS, "pool_negatives": 0},
        },
        tmp_path / "build.toml",
    )


@pytest.fixture
def listed(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("talk like a pirate\nterms about boats\n")
    return path


def test_builds_tells_and_is_listed(run, server, settings, listed, tmp_path):
    priced = ["--teacher.input-price", "1", "--teacher.output-price", "2"]
    code, out, err = run("concepts", "build", settings, *priced)
    assert code == 0
    assert "to ask of tiny: " in err
    assert "about $0.0" in err
    assert "positives: 12 done $0.0" in err
    assert "begin?" not in err, "nobody is there to answer"
    kept = next(line.split() for line in out.splitlines() if "kept" in line)
    assert [word for word in kept if word.isdigit()] == ["12", "16", "2"]
    assert f"this run: {len(server.asked)} calls (0 retries, 0 failed)" in out
    assert f"hypersteer concepts {tmp_path / 'data'}" in out
    count = len(server.asked)
    code, out, _ = run("concepts", tmp_path / "data")
    assert code == 0
    assert "2 concepts, 8 rows" in out
    assert "talk like a pirate" in out

    code, out, err = run("concepts", "build", settings)
    assert code == 0
    assert "to ask of" not in err
    assert "this run: 0 calls" in out
    assert len(server.asked) == count


def test_a_list_and_options_and_a_base_lm(run, server, listed, tmp_path):
    model = make_lm(tmp_path / "lm")
    counts = {**COUNTS, "pool_negatives": 1, "hard_negatives": 0}
    options = [
        word for name, n in counts.items() for word in (f"--counts.{name.replace('_', '-')}", n)
    ]
    code, out, err = run(
        *("concepts", "build", listed, "--out", tmp_path / "data", "--instructions", "bundled"),
        *("--base-lm.name", model, "--response-tokens", 16, "--filters.min-words", 1),
        *("--teacher.base-url", server.url, "--teacher.model", "tiny", "--yes", *options),
        *("--teacher.concurrency", 4),
    )
    assert (code, "dataset: " in out) == (0, True), err
    assert f"shared negatives of {model}: 3 done" in " ".join(err.split())


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("typed", "begins"), [("y\n", True), ("\n", False), ("", False)])
def test_asks_before_it_costs_anything(
    run, server, settings, listed, monkeypatch, typed, begins, tmp_path
):
    monkeypatch.setattr(sys, "stdin", Terminal(typed))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    code, _, err = run("concepts", "build", settings)
    assert code == 0
    assert "begin? [y/N]" in err
    assert ("nothing was asked" in err) is not begins
    assert bool(server.asked) is begins
    assert (tmp_path / "data").exists() is begins


def test_help_has_examples(run):
    code, out, _ = run("concepts", "build", "--help")
    assert code == 0
    assert "hypersteer concepts build concepts.txt" in out
    assert "--counts.train-positives" in out
    assert "hypersteer concepts build --help" in run("concepts", "--help")[1]


def test_bad_input(fails, server, settings, listed, tmp_path):
    assert "concepts None and theme None" in fails("concepts", "build")
    assert "cannot read the settings" in fails("concepts", "build", tmp_path / "none.toml")
    assert "ends in none of" in fails("concepts", "build", tmp_path / "list.csv")
    assert "right after 'concepts build'" in fails("concepts", "build", "--yes", settings)
    assert "did you mean '--theme'" in fails("concepts", "build", "--them", "x")
    listed.write_text("")
    assert "holds no concepts" in fails("concepts", "build", settings)
    assert not server.asked


def test_a_missing_key_is_told(run, settings, listed, server):
    text = settings.read_text().replace(server.url, "https://api.openai.com/v1")
    settings.write_text(text)
    code, _, err = run("concepts", "build", settings)
    assert code == 2
    assert "needs a key and OPENAI_API_KEY is not set" in err
