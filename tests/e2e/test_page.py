"""The page in a real browser: headless Chromium against a real server with tiny base LMs."""

import re

import pytest

import hypersteer as hs
from e2e.browsing import (
    BROWSER,
    DESKTOP,
    PHONE,
    PROMPT,
    STEER,
    TOKENS,
    WAIT,
    answer,
    assert_code_gives_the_answer,
    code,
    content_of,
    fill,
    generate,
    run_in_a_shell,
    set_tokens,
    steer,
    steerer_that_tells,
    sync_api,
    wait,
)
from hypersteer.lm.messages import prompted
from serving.live import endless, live

pytestmark = BROWSER

OTHER = "mention dogs"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    steerers = {"tiny": steerer_that_tells(), "silent": endless(seed=1)}
    with live(steerers, tmp_path_factory.mktemp("edits")) as found:
        yield found


def test_three_answers_are_those_of_generate(visit, served):
    page = visit()
    fill(page)
    steer(page)
    assert answer(page, "unsteered") == generate(served, None)
    assert answer(page, "prompted") == generate(served, None, prompted(PROMPT, STEER))
    assert answer(page, "steered") == generate(served, STEER)
    assert "Done. Steered:" in page.get_by_role("status").inner_text()
    assert page.locator("[aria-busy]").count() == 0


def test_answers_are_seen_as_they_come_and_can_be_stopped(visit):
    page = visit()
    fill(page, tokens=100)
    page.get_by_role("button", name="Steer", exact=True).click()
    page.locator("#steered [aria-busy]", has_text=re.compile(r"[\s\S]{5}")).wait_for()
    assert page.locator("#unsteered [aria-busy]").count() == 1
    page.keyboard.press("Escape")
    page.locator("#stop").wait_for(state="hidden")
    assert page.get_by_role("status").inner_text() == "Stopped."
    assert page.get_by_role("alert").count() == 0
    assert answer(page, "steered")


def test_text_of_models_and_users_never_becomes_markup(visit):
    page = visit()
    evil = "<img src=x onerror=alert(1)>"
    fill(page, prompt=evil, steer=evil)
    steer(page)
    page.get_by_role("button", name="Save the edit").click()
    page.get_by_role("button", name="Load img-src-x-onerror-alert-1").wait_for()
    assert page.locator("img").count() == 1
    assert evil in page.locator("#edits").inner_text()
    page.get_by_role("button", name="Delete img-src-x-onerror-alert-1").click()
    page.get_by_text("None yet.").wait_for()


def test_a_token_tells_how_far_it_was_moved_and_what_else_was_likely(visit, served):
    page = visit()
    fill(page)
    steer(page)
    tokens = page.locator("#steered .token[role=button]")
    words = tokens.evaluate_all("all => all.map(one => one.textContent)")
    assert "".join(words) == generate(served, STEER)
    assert page.locator("#legend li").count() == 6
    tip = page.get_by_role("tooltip")
    tokens.nth(1).hover()
    tip.wait_for(state="visible")
    assert re.search(r"moved [\d.]+ nats", tip.inner_text())
    assert tip.locator("li").count() == 10
    with served.client() as client:
        body = {
            "model": "tiny",
            "messages": [{"role": "user", "content": PROMPT}],
            "answer": "".join(words),
            "steering": STEER,
        }
        told = client.post("/v1/steering/effect", json=body).json()["tokens"]
    told = whole(told)
    levels = [sum(one["kl"] >= least for least in (0.1, 0.5, 1, 2, 4)) for one in told]
    classes = tokens.evaluate_all(
        "all => all.map(one => Number(one.className.match(/level-(\\d)/)[1]))"
    )
    assert classes == levels
    label = tokens.nth(1).get_attribute("aria-label")
    assert f"{round(told[1]['kl'], 2):g} nats" in label
    page.mouse.move(5, 5)
    tip.wait_for(state="hidden")


def whole(tokens):
    """Tokens with those before them that are only a part of their first character."""
    made, held = [], []
    for token in tokens:
        held.append(token)
        if token["text"]:
            made.append({"text": token["text"], "kl": max(one["kl"] for one in held)})
            held = []
    return made


def test_the_colours_can_be_against_the_prompted_model(visit):
    page = visit()
    fill(page)
    steer(page)
    before = page.locator("#mean").inner_text()
    page.locator("#against").select_option("prompted")
    sync_api.expect(page.locator("#mean")).not_to_have_text(before, timeout=WAIT)
    page.locator("#steered .token[role=button]").first.hover()
    assert "Prompted:" in page.get_by_role("tooltip").inner_text()


def test_a_sweep_is_a_row_of_answers(visit, served):
    page = visit()
    fill(page)
    page.get_by_label("Strengths").fill("-1, 0, 0.5, 1")
    page.get_by_label("Strengths").press("Tab")
    page.get_by_role("button", name="Sweep strengths").click()
    page.locator("#sweep-row li").nth(3).wait_for()
    page.locator("#stop").wait_for(state="hidden")
    texts = page.locator("#sweep-row .answer").evaluate_all(
        "all => all.map(one => one.textContent)"
    )
    assert texts == [generate(served, STEER, strength=s) for s in (-1.0, 0.0, 0.5, 1.0)]
    assert texts[1] == generate(served, None)
    page.get_by_role("button", name="Use strength 0.5").click()
    wait(page)
    assert page.get_by_label("Strength, exactly").input_value() == "0.5"
    assert answer(page, "steered") == texts[2]
    page.get_by_label("Strengths").fill("much")
    page.get_by_label("Strengths").press("Tab")
    assert "Strengths are up to 12 numbers" in page.get_by_role("alert").inner_text()


def test_several_steering_prompts_act_together(visit, served):
    page = visit()
    fill(page)
    page.get_by_role("button", name="Add another").click()
    page.keyboard.type(OTHER)
    sliders = page.get_by_role("slider", name="Strength")
    sliders.nth(1).focus()
    for _ in range(8):
        page.keyboard.press("ArrowLeft")
    assert page.get_by_label("Strength, exactly").nth(1).input_value() == "0.6"
    steer(page)
    wanted = served.served["tiny"].steerer.generate(
        PROMPT,
        edits=[(STEER, 1.0), (OTHER, 0.6)],
        max_new_tokens=TOKENS,
        repetition_penalty=1.15,
    )
    assert answer(page, "steered") == wanted
    page.get_by_role("button", name="Remove this steering prompt").nth(1).click()
    assert sliders.count() == 1
    assert page.get_by_role("button", name="Remove this steering prompt").count() == 0


def test_the_nearest_concepts_are_told_and_far_is_warned_of(visit):
    page = visit()
    near = page.locator(".near").first
    fill(page, steer="talk like a Pirate")
    near.get_by_text("Nearest in training: talk like a pirate (1)").wait_for()
    page.get_by_label("Steering prompt", exact=True).first.fill("zq xv jj kw 77 #!")
    near.get_by_text("Far from all 3 concepts of the training").wait_for()
    page.locator("#model").select_option("silent")
    sync_api.expect(near).to_have_text("", timeout=WAIT)


def test_an_edit_is_saved_loaded_sent_and_deleted(visit, served, tmp_path):
    page = visit()
    fill(page)
    page.get_by_role("button", name="Save the edit").click()
    load = page.get_by_role("button", name="Load talk-like-a-pirate")
    load.wait_for()
    load.click()
    assert page.locator(".stored").inner_text() == f"{STEER.replace(' ', '-')} saved from “{STEER}”"
    steer(page)
    assert answer(page, "steered") == generate(served, STEER), "its words are said, too"
    with page.expect_download() as download:
        page.get_by_role("button", name="File talk-like-a-pirate").click()
    file = tmp_path / "Again 2.safetensors"
    download.value.save_as(file)
    assert hs.load_edit(file).steering_prompt == STEER
    page.get_by_label("Load a file").set_input_files(file)
    page.get_by_role("button", name="Delete again-2").wait_for()
    assert page.locator(".stored").count() == 2
    for name in ("again-2", "talk-like-a-pirate"):
        page.get_by_role("button", name=f"Delete {name}").click()
        page.get_by_role("button", name=f"Delete {name}").wait_for(state="detached")
    assert page.locator("#edits").inner_text() == "None yet."


def test_the_exported_code_gives_the_answer_on_the_page(visit, served, monkeypatch):
    page = visit()
    fill(page)
    steer(page)
    monkeypatch.setattr(hs, "load", lambda: served.served["tiny"].steerer)
    assert_code_gives_the_answer(page)


def test_exported_code_composes_and_samples(visit, served, monkeypatch):
    page = visit()
    fill(page)
    page.get_by_role("button", name="Add another").click()
    page.keyboard.type('it\'s "dogs"')
    page.get_by_label("Temperature").fill("0.7")
    page.get_by_label("Seed").fill("3")
    steer(page)
    monkeypatch.setattr(hs, "load", lambda: served.served["tiny"].steerer)
    assert_code_gives_the_answer(page)


def test_a_share_link_holds_the_state(visit, served):
    page = visit()
    fill(page, prompt="naïve café 🙂?")
    page.get_by_role("button", name="Add another").click()
    page.keyboard.type(OTHER)
    page.get_by_label("Strength, exactly").nth(1).fill("-0.4")
    page.locator("#model").select_option("silent")
    page.get_by_role("button", name="Share").click()
    link = page.locator("#link-value").input_value()
    assert link == page.url
    other = visit(link.removeprefix(served.url))
    assert other.get_by_label("Base prompt").input_value() == "naïve café 🙂?"
    assert other.locator("#model").input_value() == "silent"
    texts = other.get_by_label("Steering prompt", exact=True)
    assert [texts.nth(n).input_value() for n in range(2)] == [STEER, OTHER]
    assert other.get_by_label("Strength, exactly").nth(1).input_value() == "-0.4"
    assert other.get_by_label("Most tokens").input_value() == str(TOKENS)
    assert answer(other, "steered") == "", "nothing runs before one asks for it"
    broken = visit("/ui/#s=bm8ganNvbg")
    assert broken.get_by_label("Base prompt").input_value() == "Tell me about your day."


def test_everything_is_reached_by_keyboard(visit):
    page = visit()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the prompt"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    reached = [focused(page)]
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(focused(page))
    for name in (
        "part",
        "add",
        "run",
        "sweep",
        "strengths",
        "save-part",
        "edit-file",
        "tab-python",
    ):
        assert any(one.startswith(name) for one in reached), name
    set_tokens(page, TOKENS)
    page.get_by_label("Base prompt").focus()
    page.keyboard.press("Control+A")
    page.keyboard.type("the day")
    page.keyboard.press("Control+Enter")
    wait(page)
    page.locator("#against").focus()
    page.keyboard.press("Shift+Tab")
    assert focused(page).startswith("token")
    page.keyboard.press("ArrowRight")
    tip = page.get_by_role("tooltip")
    second = page.locator("#steered .token[role=button]").nth(1)
    assert second.evaluate("one => one === document.activeElement")
    assert second.get_attribute("aria-describedby") == "tip"
    tip.wait_for(state="visible")
    page.keyboard.press("End")
    page.keyboard.press("Escape")
    tip.wait_for(state="hidden")


def focused(page):
    return page.evaluate("document.activeElement.id || document.activeElement.className")


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_is_named_and_can_be_read(visit, viewport, scheme):
    page = visit(viewport=viewport, color_scheme=scheme, reduced_motion="reduce")
    fill(page, steer="a-very-long-word" * 4)
    page.get_by_role("button", name="Add another").click()
    steer(page)
    page.get_by_role("button", name="Sweep strengths").click()
    page.locator("#sweep-row li").nth(5).wait_for()
    page.locator("#stop").wait_for(state="hidden")
    page.locator("#steered .token[role=button]").last.focus()
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    assert page.evaluate(UNNAMED) == []
    assert page.evaluate(FAINT) == []
    lightness = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(re.search(r"\d+", lightness)[0]) < 80) is (scheme == "dark")
    moving = "getComputedStyle(document.querySelector('.answer')).animationName"
    assert page.evaluate(moving) == "none"


UNNAMED = """
() => [...document.querySelectorAll('button, input, select, textarea, [role=button]')]
  .filter(one => !(one.labels?.length || one.ariaLabel || one.textContent.trim()))
  .map(one => one.outerHTML)
"""
# Contrast of what can be seen, by WCAG's formula, against the nearest background that is opaque.
FAINT = """
() => {
  const canvas = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
  const pixel = colour => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b]
    .map(one => one / 255)
    .map(one => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4)
    .reduce((sum, one, place) => sum + one * [0.2126, 0.7152, 0.0722][place], 0);
  const behind = node => {
    for (let one = node; one; one = one.parentElement) {
      const found = pixel(getComputedStyle(one).backgroundColor);
      if (found[3] === 255) return found;
    }
    return [255, 255, 255, 255];
  };
  const faint = [];
  for (const node of document.querySelectorAll('body *')) {
    const own = [...node.childNodes].some(one => one.nodeType === 3 && one.data.trim());
    if (!own || node.disabled || !node.checkVisibility()) continue;
    const [text, back] = [pixel(getComputedStyle(node).color), behind(node)].map(light);
    const ratio = (Math.max(text, back) + 0.05) / (Math.min(text, back) + 0.05);
    if (ratio < 4.5) faint.push(`${node.outerHTML.slice(0, 90)} ${ratio.toFixed(2)}`);
  }
  return faint;
}
"""


def test_the_theme_is_turned_and_kept(visit):
    page = visit(color_scheme="light")
    button = page.get_by_role("button", name="Dark")
    assert button.get_attribute("aria-pressed") == "false"
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    page.reload()
    assert button.get_attribute("aria-pressed") == "true"
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_a_gallery_example_is_one_click(visit):
    page = visit()
    set_tokens(page, TOKENS)
    page.locator("#gallery button").nth(1).click()
    wait(page)
    examples = page.evaluate("fetch('gallery.json').then(found => found.json())")
    assert 6 <= len(examples) <= 10
    assert page.get_by_label("Base prompt").input_value() == examples[1]["prompt"]
    first = page.get_by_label("Steering prompt", exact=True).first
    assert first.input_value() == examples[1]["steer"][0]["text"]


def test_what_the_server_refuses_is_told(visit):
    page = visit()
    fill(page, prompt="word " * 200)
    page.get_by_role("button", name="Steer", exact=True).click()
    page.get_by_role("alert").get_by_text("context window").wait_for()
    assert all("400" in one for one in visit.complaints)  # Chromium's own note of the status
    visit.complaints.clear()
    fill(page, prompt="  ")
    page.get_by_role("button", name="Steer", exact=True).click()
    assert "The base prompt is empty" in page.get_by_role("alert").inner_text()
    fill(page, steer=" ")
    page.get_by_role("button", name="Steer", exact=True).click()
    assert "no steering prompt" in page.get_by_role("alert").inner_text()


def test_a_server_with_a_key_is_asked_with_it(visit, tmp_path):
    with live({"tiny": endless()}, tmp_path, key="secret") as guarded:
        page = visit_guarded(visit, guarded.url)
        page.locator("#key-value").fill("wrong")
        page.get_by_role("button", name="Use it").click()
        page.get_by_text("the API key is missing or wrong").wait_for()
        page.locator("#key-value").fill("secret")
        page.get_by_role("button", name="Use it").click()
        page.locator("#code:not(:empty)").wait_for()
        fill(page)
        steer(page)
        wanted = answer(page, "steered")
        assert wanted
        text = code(page, "curl")
        assert "secret" not in text
        assert content_of(run_in_a_shell(text, HYPERSTEER_API_KEY="secret")) == wanted
        assert "secret" not in code(page, "OpenAI client")
        page.get_by_role("button", name="Share").click()
        assert "secret" not in page.url
        assert all("401" in one for one in visit.complaints)
        visit.complaints.clear()


def visit_guarded(visit, address):
    """The page before it has the key: there is no code yet."""
    page = visit("/ui/", address=address, wait=False)
    page.get_by_role("dialog", name="API key").wait_for()
    return page


def test_the_page_lets_nothing_in_from_elsewhere(served):
    with served.client(follow_redirects=True) as client:
        page = client.get("/ui")
        assert page.url.path == "/ui/"
        assert page.headers["content-security-policy"].startswith("default-src 'self'; ")
        assert "unsafe" not in page.headers["content-security-policy"]
        names = re.findall(r'(?:href|src)="([\w.]+)"', page.text)
        assert {"style.css", "theme.js", "main.js", "icon.svg"} <= {*names}
        for name in names:
            assert client.get(f"/ui/{name}").status_code == 200
        assert client.get("/ui/..%2Fapp.py").status_code == 404
        assert client.get("/ui/none.js").status_code == 404
        assert client.get("/favicon.ico").headers["content-type"] == "image/svg+xml"
        told = client.get("/ui/words.json").json()["prompted"]
    assert told.format(prompt="a", steering="b") == prompted("a", "b")
