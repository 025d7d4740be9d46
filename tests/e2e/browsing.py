"""What tests of the page share: where Chromium is, and what a user does on the page."""

import contextlib
import dataclasses
import io
import json
import os
import shutil
import subprocess

import pytest

from hypersteer.steering import Steerer
from serving.live import endless

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
BROWSER = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed"),
]

PROMPT, STEER = 'Say "the day" & \\ it\'s $HOME', "talk like a pirate"
TOKENS = 12
WAIT = 60_000  # milliseconds; a machine may be busy
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 375, "height": 740}


def steerer_that_tells(folder=None, **options):
    """A steerer whose words are said as well, as of the checkpoint that ships."""
    made = endless(**options)
    card = dataclasses.replace(
        made.card,
        concepts=("talk like a pirate", "mention cats", "be gloomy and pessimistic"),
        training={"loss": {"prompted": True}},
    )
    return Steerer(made.lm, made.hypernet, card, generator="test", folder=folder)


def fill(page, prompt=PROMPT, steer=STEER, tokens=TOKENS):
    page.get_by_label("Base prompt").fill(prompt)
    page.get_by_label("Steering prompt", exact=True).first.fill(steer)
    set_tokens(page, tokens)


def set_tokens(page, tokens):
    page.evaluate("document.querySelector('#options').open = true")
    page.get_by_label("Most tokens").fill(str(tokens))


def steer(page):
    page.get_by_role("button", name="Steer", exact=True).click()
    wait(page)


def wait(page):
    page.locator("#effect").wait_for(state="visible")
    page.locator("#stop").wait_for(state="hidden")


def answer(page, which):
    return page.locator(f"#{which} .answer").evaluate("node => node.textContent")


def generate(served, steer, prompt=PROMPT, name="tiny", **options):
    options = {"max_new_tokens": TOKENS, "repetition_penalty": 1.15, **options}
    return served.served[name].steerer.generate(prompt, steer=steer, **options)


def code(page, tab):
    page.get_by_role("tab", name=tab).click()
    return page.get_by_role("tabpanel").inner_text()


def assert_code_gives_the_answer(page):
    wanted = answer(page, "steered")
    assert printed_by(code(page, "Python")) == wanted
    assert printed_by(code(page, "OpenAI client")) == wanted
    assert content_of(run_in_a_shell(code(page, "curl"))) == wanted


def printed_by(text):
    with contextlib.redirect_stdout(io.StringIO()) as told:
        exec(compile(text, "exported", "exec"), {})
    return told.getvalue().removesuffix("\n")


def run_in_a_shell(text, **environment):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    done = subprocess.run(
        ["bash", "-c", text.replace("curl ", "curl -s ", 1)],
        capture_output=True,
        check=True,
        env={**os.environ, **environment},
    )
    return json.loads(done.stdout)


def content_of(reply):
    return reply["choices"][0]["message"]["content"]
