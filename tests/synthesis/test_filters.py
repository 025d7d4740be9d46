"""Filters, and how a teacher's replies are read."""

import pytest

from hypersteer.config.synthesis import FilterConfig
from hypersteer.synthesis.filters import jaccard, loops, shingles, why_dropped, words
from hypersteer.synthesis.prompts import (
    clean,
    is_known,
    read_genre,
    read_meaning,
    read_phrases,
    read_words,
    read_yes,
)
from hypersteer.synthesis.writing import cutter

GOOD = "Aye, boil the egg nine minutes in the galley pot, then cool it in sea water, matey."
POEM = "Row the boat, row the boat, gently down the stream we go, merrily and merrily we go on."


def verdict(text, *, positive=True, word="", earlier=(), concept="talk like a pirate", **limits):
    return why_dropped(
        text,
        concept=concept,
        instruction="How long do I boil an egg?",
        positive=positive,
        word=word,
        earlier=[shingles(one) for one in earlier],
        config=FilterConfig(**limits),
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (GOOD, None),
        (POEM, None),
        ("1, 2, 3, 4, 5, 6, 7, 8: that is how long, in minutes.", None),
        ("I am an artificial intelligence, programmed to think. I boil nothing.", "refusal"),
        ("I am an aide to the captain, and I boil it for nine minutes.", None),
        ("I can help: boil it for nine minutes in a pot.", None),
        ("I am sorry for the knight, who waits nine minutes for his egg.", None),
        ("  \n", "empty"),
        ("Nine minutes.", "too short"),
        ("I'm sorry, but I can't assist with that request.", "refusal"),
        ("I\u2019m really sorry, but as the captain I cannot do that.", "refusal"),
        ("Unfortunately, I'm not able to speak like one.", "refusal"),
        ("I won't provide an answer in that voice.", "refusal"),
        ("As an AI language model I have no pot to boil in.", "refusal"),
        ("I don't have personal opinions on eggs, or the ability to boil one.", "refusal"),
        ("This response uses the voice of the sea to say nine minutes.", "speaks of the task"),
        ("Nine minutes. The concept of talking like a pirate does not fit.", "speaks of the task"),
        ("Nine minutes, in the style of a pirate's talk.", "speaks of the task"),
        ("Nine minutes. The given concept is not about eggs.", "speaks of the task"),
        ("The concept of time is hard, matey: count to nine, and slowly.", None),
        ("The response of the crew is a cheer when the egg is done.", None),
        ("How long do I boil an egg? Nine minutes, matey.", "repeats the prompt"),
        ("So, how long do I boil an egg?", "repeats the prompt"),
        ("boil it " * 8, "looping text"),
        ("Aye, aye, aye, aye, aye, aye, aye, aye, matey.", "looping text"),
        ("He says to boil it well, then " * 5, "looping text"),
        ("To talk like a pirate: pirates talk, and talking is pirate talk.", "echoes the concept"),
        ("Talk like a pirate! This is it.", "echoes the concept"),
        ("Pirates of the north talk of nine minutes in a pot by the window.", None),
    ],
)
def test_reasons(text, reason):
    assert verdict(text) == reason


def test_a_negative_may_share_words_but_not_name_the_concept():
    assert verdict("Talk, talk: a pirate would say nine minutes.", positive=False) is None
    said = "You may talk like a pirate, or boil it for nine minutes."
    assert verdict(said, positive=False) == "names the concept"
    assert verdict("Nine bees wait for nine minutes.", positive=False, concept="bees") is None


def test_a_hard_negative_has_the_word_in_some_form():
    assert verdict(GOOD, positive=False, word="anchor") == "lacks the word"
    assert verdict(f"Two anchors speak. {GOOD}", positive=False, word="anchor") is None
    assert verdict(f"Two well-known ones. {GOOD}", positive=False, word="well-known") is None


def test_near_duplicates_are_measured_in_shingles():
    other = GOOD.replace("sea water", "salt water")
    # 17 words make 15 shingles; one changed word changes 3 of them.
    assert len(words(GOOD)) == 17
    assert jaccard(shingles(GOOD), shingles(other)) == pytest.approx(12 / 18)
    assert verdict(other, earlier=[POEM, GOOD]) is None
    assert verdict(other, earlier=[POEM, GOOD], max_overlap=0.66) == "near-duplicate"
    assert verdict(GOOD.upper(), earlier=[GOOD]) == "near-duplicate"


def test_loops_without_a_repeat_in_a_row():
    turn = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n"]
    assert not loops(turn)
    assert not loops(turn * 2), "repeated once"
    assert loops(turn * 4), "longer than any unit, but always the same runs"


def test_cut_to_words_or_tokens(lm):
    by_words, by_bytes = cutter(None, 3), cutter(lm, 5)
    assert by_words("One, two - three! Four.") == ("One, two - three", False)
    assert by_words("One, two - three!") == ("One, two - three!", True)
    assert by_bytes("abcde") == ("abcde", True)
    assert by_bytes("abcdef") == ("abcde", False)
    assert by_bytes("abcd\u00e9f") == ("abcd", False), "no half of a character"


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        (' "All of it." ', "All of it."),
        ('"Some" of "it"', '"Some" of "it"'),
        ("**Response:** Aye.", "Aye."),
        ("<think>\nHm.\n</think>\n\nAye.", "Aye."),
        ("Hm.\n</think>\n\n**Answer:** 'Aye.'", "Aye."),
        ("<think>\nHm, and so on", ""),
        ("say <think>", "say <think>"),
        ("Sure! Here's a short response in that voice:\n\nAye.", "Aye."),
        ("Certainly, here is the answer: Aye, matey.", "Aye, matey."),
        ('Here is a poem about it:\n\n"Aye."', "Aye."),
        ("Here is the thing: aye.", "Here is the thing: aye."),
        ("Sure, nine minutes: no more.", "Sure, nine minutes: no more."),
        ("Here is my answer. Note: aye.", "Here is my answer. Note: aye."),
        ("\u201cAye.\u201d", "Aye."),
        ("'Tis so, aye'", "Tis so, aye"),
    ],
)
def test_clean(text, cleaned):
    assert clean(text) == cleaned


@pytest.mark.parametrize(
    ("text", "genre"),
    [
        ("code", "code"),
        ("**Math.**", "math"),
        ("Genre: programming", "code"),
        ("<think>text or code?</think>mathematics", "math"),
        ("text or code?</think>mathematics", "math"),
        ("text (not code)", None),
        ("none", None),
        ("", None),
    ],
)
def test_read_genre(text, genre):
    assert read_genre(text) == genre


def test_read_lists():
    assert read_phrases("Sure:\n1. **calm seas**\n2) fog, and gulls.\n\n- 'x y'\n***") == [
        "calm seas",
        "fog, and gulls",
        "x y",
    ]
    assert read_words("Anchor, deck\n3. bow\n- two words\n* deck\nx1\nNone", 10) == [
        "anchor",
        "deck",
        "bow",
    ]
    assert read_words("a1\nbee\ncow\ndog", 2) == ["bee", "cow"]
    assert read_words("none", 5) == []


def test_read_decisions():
    assert read_meaning("A bird // or a machine.\nHope it helps") == "A bird / or a machine."
    assert [read_meaning(text) for text in ("None.", "There is none", "bird", "")] == [None] * 4
    assert [read_yes(text) for text in ("Yes.", "**yes**, it is", "No, yes", "", "yesterday")] == [
        True,
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("concept", "known"),
    [
        ("Talk like a pirate!", True),
        ("talks like pirates", True),
        ("the pirate talk", True),
        ("talk like a parrot", False),
        ("pirates", False),
    ],
)
def test_near_duplicate_concepts(concept, known):
    assert is_known(concept, ["bees", "talk like a pirate"]) is known
