"""`hypersteer ui`: the options of `serve`, and a browser that opens."""

import threading

import pytest

from hypersteer.cli import ui


@pytest.fixture
def opened(monkeypatch):
    """The address that was opened, where the server comes up at once."""
    found, done = [], threading.Event()

    def open_page(address):
        found.append(address)
        done.set()

    monkeypatch.setattr(ui.webbrowser, "open", open_page)
    served = []

    def serve(config, *, lm, device, dtype, ready):
        served.append((config, lm))
        ready(f"http://{config.host}:{config.port}")
        done.wait(1 if served[-1][0].port != 9 else 0)

    monkeypatch.setattr("hypersteer.serving.run.serve", serve)
    return found, served


def test_the_page_is_opened_where_this_machine_can_reach_it(run, opened):
    found, served = opened
    code, out, err = run("ui", "--host", "0.0.0.0", "--port", "8123", "--lm", "somewhere")
    assert (code, err) == (0, "")
    assert found == ["http://127.0.0.1:8123/ui/"]
    assert "http://127.0.0.1:8123/ui/ is the page" in out
    assert served[0][0].max_rows == 32
    assert served[0][1] == "somewhere"


def test_no_browser_is_opened_where_none_is_wanted(run, opened):
    code, out, _ = run("ui", "--no-browser", "--port", "9")
    assert code == 0
    assert opened[0] == []
    assert "/ui/" in out


def test_bad_options_are_told_before_anything_is_loaded(fails):
    assert "is no port" in fails("ui", "--port", "70000")
    assert "did you mean '--no-browser'" in fails("ui", "--no-browsr")
