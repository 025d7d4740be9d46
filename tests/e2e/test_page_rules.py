"""Rules on the page, in a real browser: a head that was taught two topics decides on them."""

import re

import pytest

import hypersteer as hs
from conditions.worlds import CONFIG, SEA, SUMS, described, off_topic, on_topic
from e2e.browsing import (
    BROWSER,
    PHONE,
    STEER,
    TOKENS,
    answer,
    assert_code_gives_the_answer,
    fill,
    generate,
    set_tokens,
    steer,
    steerer_that_tells,
    sync_api,
)
from hypersteer.conditions.lessons import read_lessons
from hypersteer.conditions.teach import teach_head
from hypersteer.files import CONDITION_HEAD
from hypersteer.lm.messages import prompted
from hypersteer.steering import Steerer
from serving.live import endless, live

pytestmark = BROWSER

(ON,), (OFF,) = on_topic(1, seed=7), off_topic(1, seed=8)
ACTS = "mention dogs"
RULE = f'if "{SEA}" and not "{SUMS}" then "{ACTS}" at 0.8'


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Checkpoints with a head beside them, one that says its words and one that does not; one
    without a head."""
    folder = tmp_path_factory.mktemp("checkpoint")
    lm = endless().lm
    head = teach_head(read_lessons(lm, described(), CONFIG), CONFIG, base_lm=str(lm.identity))
    head.save(folder / CONDITION_HEAD)
    told, plain = steerer_that_tells(folder), endless()
    silent = Steerer(plain.lm, plain.hypernet, plain.card, generator="test", folder=folder)
    steerers = {"tiny": told, "silent": silent, "headless": steerer_that_tells()}
    with live(steerers, tmp_path_factory.mktemp("edits")) as found:
        yield found


def write_rules(page, text, prompt=ON, words=""):
    fill(page, prompt=prompt, steer=words)
    page.get_by_role("textbox", name="Rules").fill(text)


def decided(page, place="#steered"):
    return page.locator(f"{place} .decided li").all_inner_texts()


def by_python(served, prompt, name="tiny", strength=1.0):
    log = hs.Decisions()
    text = generate(served, hs.rules(RULE), prompt, name, decisions=log, strength=strength)
    return text, log.rows[0][0]


def test_a_rule_fires_on_one_message_and_not_on_another(visit, served):
    page = visit()
    seen = []
    for prompt in (ON, OFF):
        write_rules(page, RULE, prompt)
        steer(page)
        wanted, check = by_python(served, prompt)
        assert answer(page, "steered") == wanted
        assert (
            answer(page, "unsteered") == answer(page, "prompted") == generate(served, None, prompt)
        )
        told = decided(page)
        assert len(told) == 3
        for line, words in zip(told, (SEA, SUMS), strict=False):
            share, verdict = re.fullmatch(
                rf"{words}: (?:over |under )?(\d+) %, (.+)", line
            ).groups()
            assert int(share) == pytest.approx(100 * check.probabilities[words], abs=1)
            assert verdict == ("fired" if words in check.conditions else "did not fire")
        assert page.locator("#prompted .decided, #unsteered .decided").count() == 0
        assert told[0] in page.get_by_role("status").inner_text(), "it is read out, too"
        seen.append((check.edits, told[2]))
    assert seen == [((ACTS,), f"By rules acts: “{ACTS}”"), ((), "By rules acts: nothing")]
    assert page.locator("#mean").inner_text() == "0 nats per token"
    assert answer(page, "steered") == answer(page, "unsteered")


def test_rules_act_beside_steering_prompts_and_the_code_says_so(visit, served, monkeypatch):
    page = visit()
    write_rules(page, RULE, words=STEER)
    page.get_by_label("Strength of the rules, exactly").fill("0.5")
    steer(page)
    steerer = served.served["tiny"].steerer
    wanted = steerer.generate(
        ON,
        edits=[(STEER, 1.0), (hs.rules(RULE), 0.5)],
        max_new_tokens=TOKENS,
        repetition_penalty=1.15,
    )
    assert answer(page, "steered") == wanted
    assert answer(page, "prompted") == generate(served, None, prompted(ON, STEER))
    assert page.locator("#prompted-how").inner_text() == "told the steering prompts, no rules"
    monkeypatch.setattr(hs, "load", lambda: steerer)
    assert_code_gives_the_answer(page)
    page.get_by_role("textbox", name="Rules").fill("")
    steer(page)
    assert decided(page) == []
    assert answer(page, "steered") == generate(served, STEER, ON)
    assert page.locator("#prompted-how").inner_text() == "only told the words"
    assert page.get_by_role("slider", name="Strength").count() == 1


def test_each_answer_of_a_sweep_tells_its_decisions(visit, served):
    page = visit()
    write_rules(page, RULE)
    page.get_by_label("Strengths").fill("0, 0.5")
    page.get_by_label("Strengths").press("Tab")
    page.get_by_role("button", name="Sweep strengths").click()
    page.locator("#sweep-row .decided").nth(1).wait_for()
    page.locator("#stop").wait_for(state="hidden")
    texts = page.locator("#sweep-row .answer").all_text_contents()
    assert texts == [by_python(served, ON, strength=one)[0] for one in (0.0, 0.5)]
    assert decided(page, "#sweep-row")[2::3] == [
        "By rules acts: nothing, at strength 0",
        f"By rules acts: “{ACTS}”",
    ]
    page.get_by_role("button", name="Use strength 0.5").click()
    page.locator("#effect").wait_for(state="visible")
    assert page.get_by_label("Strength of the rules, exactly").input_value() == "0.5"


@pytest.mark.parametrize(
    ("text", "model", "told"),
    [
        (f'if "{SEA} then x', "tiny", "column 4: this quotation mark has no other to close it"),
        (f"{RULE}\nif sea then x", "tiny", "column 4: unknown condition 'sea'"),
        (RULE, "headless", "trained for|no head that writes conditions"),
    ],
    ids=["malformed", "unknown", "headless"],
)
def test_what_is_wrong_with_rules_is_told_in_one_line(visit, text, model, told):
    page = visit()
    page.locator("#model").select_option(model)
    write_rules(page, text)
    page.get_by_role("button", name="Steer", exact=True).click()
    alert = page.get_by_role("alert")
    alert.get_by_text(re.compile(told)).wait_for()
    page.locator("#stop").wait_for(state="hidden")
    assert re.search(told, alert.inner_text()), "it stays"
    assert "\n" not in alert.inner_text().strip()
    assert decided(page) == []
    assert all("400" in one for one in visit.complaints)  # Chromium's own note of the status
    visit.complaints.clear()
    write_rules(page, RULE)
    page.locator("#model").select_option("tiny")
    steer(page)
    assert page.get_by_role("alert").count() == 0


def test_an_answer_that_cannot_be_coloured_stands(visit, served):
    page = visit()
    page.locator("#model").select_option("silent")
    write_rules(page, RULE)
    page.get_by_role("button", name="Steer", exact=True).click()
    page.get_by_text("Not coloured: these rules decide while an answer is written").wait_for()
    assert answer(page, "steered") == by_python(served, ON, "silent")[0]
    assert len(decided(page)) == 3
    assert page.get_by_role("alert").count() == 0
    visit.complaints.clear()


def test_rules_are_in_the_link_and_no_markup(visit, served):
    page = visit(viewport=PHONE)
    evil = "<img src=x onerror=alert(1)>"
    write_rules(page, f'if not "{evil}" or "{evil}" then "{evil}"\n')
    steer(page)
    assert evil in decided(page)[0]
    assert evil in decided(page)[1]
    assert page.locator("img").count() == 1
    page.get_by_label("Strength of the rules, exactly").fill("1.5")
    page.get_by_role("button", name="Share").click()
    other = visit(page.locator("#link-value").input_value().removeprefix(served.url))
    assert (
        other.get_by_role("textbox", name="Rules").input_value()
        == f'if not "{evil}" or "{evil}" then "{evil}"\n'
    )
    assert other.get_by_label("Strength of the rules, exactly").input_value() == "1.5"
    set_tokens(other, TOKENS)
    other.locator("#gallery button").nth(1).click()
    sync_api.expect(other.get_by_role("textbox", name="Rules")).to_have_value("")
    assert other.evaluate("document.documentElement.scrollWidth") <= 1280
