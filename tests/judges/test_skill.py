"""Skill items: what solves one, in the words of answers that models gave and of hostile ones."""

import pytest

from hypersteer.judges.skill import CHECKS, SkillItem, solved


def item(check, *answer, prompt="Do it.", options=()):
    return SkillItem(
        id="x", kind="x", prompt=prompt, check=check, answer=answer, options=tuple(options)
    )


WHALE = item(
    "choice",
    "whale",
    prompt="Which is larger: a whale or a mouse? Answer with one word.",
    options=("whale", "mouse"),
)
SPAIN = item(
    "choice", "Spain", prompt="Which is a country: Spain or Paris?", options=("Spain", "Paris")
)
EIGHT = item("choice", "8", prompt="Which number is larger: 8 or 3?", options=("8", "3"))
NINE = item("number", "9", prompt="How many birds are there now?")
PARIS = item("only", "Paris")
DOG = item("only", "dog", "a dog")
THREE = item("only", "red, green, blue")
SWIM = item("opens", "yes")
ROME = item("sentence", "Rome")
SEVEN = item("sentence", "7", "seven")
LIST = item("list", "cat", "dog", "fish")
TEXT = item("exact", "The train leaves at noon.", prompt="Repeat this text exactly: The train ...")
NEXT = item("continues", "5", options=("1", "2", "3", "4"))
ORDER = item("sequence", "bed", "lamp", "room")


@pytest.mark.parametrize(
    ("asked", "response"),
    [
        (WHALE, "Whale"),
        (WHALE, "  the WHALE.\n"),
        (WHALE, "A whale is larger than a mouse."),
        (WHALE, "**Whale**"),
        (WHALE, "Ahoy! The answer be \u201cwhale\u201d, matey."),
        (WHALE, "I think that in the great and cold sea the whale is clearly the larger animal."),
        (WHALE, "Arr, the whale, matey!"),
        (SPAIN, "Spain is a country, while Paris is a city."),
        (EIGHT, "The larger number is 8."),
        (NINE, "9"),
        (NINE, "There are nine birds now."),
        (NINE, "6 + 3 = 9"),
        (NINE, "6 birds and 3 more birds is 9 birds"),
        (PARIS, "paris"),
        (PARIS, '"Paris."'),
        (DOG, "A dog!"),
        (THREE, "Red,green , blue."),
        (SWIM, "Yes, fish can swim."),
        (SWIM, "YES"),
        (ROME, "The capital of Italy is Rome."),
        (SEVEN, "There are seven days in a week."),
        (LIST, "1. cat\n2. dog\n3. fish"),
        (LIST, "Here it is:\n\n1) Cat\n2) Dog\n3) Fish\n\nDo you need more?"),
        (TEXT, "The train leaves at noon."),
        (TEXT, 'Sure: "The train leaves at noon."'),
        (NEXT, "5, 6, 7"),
        (NEXT, "1, 2, 3, 4, 5, 6"),
        (NEXT, "The next number is 5."),
        (ORDER, "Bed, lamp, room."),
        (ORDER, "In alphabetical order: bed, lamp and room"),
        (ORDER, "1. bed\n2. lamp\n3. room"),
    ],
)
def test_what_solves_an_item(asked, response):
    assert solved(asked, response)


@pytest.mark.parametrize(
    ("asked", "response"),
    [
        (WHALE, "mouse"),
        (WHALE, "A whale or a mouse?"),
        (WHALE, "whale, mouse"),
        (WHALE, "Mouse and whale and mouse and whale."),
        (WHALE, "A mouse is larger than a whale."),
        (WHALE, "A whale is not larger than a mouse."),
        (WHALE, "A whale is smaller than a mouse."),
        (WHALE, "It is not the whale."),
        (WHALE, "Whale. Mouse."),
        (WHALE, "whales-r-us"),
        (WHALE, "Narwhales"),
        (WHALE, "Whale songs are often heard by sailors on the open sea."),
        (WHALE, "Whale would use sea's would use sea's would use sea's would use sea's"),
        (EIGHT, "8 is a symbol of the harvest in many old stories."),
        (WHALE, "Which is larger: a whale or a mouse? Answer with one word."),
        (SPAIN, "Paris is a country, while Spain is a city."),
        (EIGHT, "8.5"),
        (EIGHT, "18"),
        (EIGHT, "3 and 8"),
        (NINE, "19"),
        (NINE, "9.5"),
        (NINE, "-9"),
        (NINE, "1, 2, 3, 4, 5, 6, 7, 8, 9, 10"),
        (NINE, "There are not 9 birds."),
        (NINE, "ninety"),
        (NINE, "9 birds, or is it 6?"),
        (PARIS, "The capital is Paris."),
        (PARIS, "Paris or London"),
        (DOG, "dogma"),
        (THREE, "red, green"),
        (THREE, "red, green, blue, pink"),
        (SWIM, "No."),
        (SWIM, "Yes or no."),
        (SWIM, "Fish can swim, yes."),
        (ROME, "Rome"),
        (ROME, "The capital of Italy is not Rome."),
        (ROME, "The capital of Italy is Rome or Milan."),
        (ROME, "the capital of italy is Rome and so on and"),
        (LIST, "cat, dog, fish"),
        (LIST, "1. dog\n2. cat\n3. fish"),
        (LIST, "1. cat\n2. dog\n3. fish\n4. cow"),
        (LIST, "1. cat\n1. dog\n1. fish"),
        (TEXT, "The train leaves at noon, sharp."),
        (TEXT, "the train leaves at noon."),
        (TEXT, "Repeat this text exactly: The train leaves at noon."),
        (NEXT, "4, 5"),
        (NEXT, "1, 2, 3, 4, 6"),
        (NEXT, "6"),
        (ORDER, "bed, room, lamp"),
        (ORDER, "room, bed, lamp, room"),
        (ORDER, "bed, lamp, room, bed"),
        (ORDER, "bed lamp roommate"),
    ],
)
def test_what_does_not(asked, response):
    assert not solved(asked, response)


@pytest.mark.parametrize("check", sorted(CHECKS))
@pytest.mark.parametrize(
    "response", ["", " \n\t", "\x00", "?", "\u200b", "((((", "\\", "\U0001f600", "a" * 5000]
)
def test_a_text_that_says_nothing_solves_nothing(check, response):
    asked = item(check, "7", options=("7", "9"))
    assert solved(asked, response) is False


@pytest.mark.parametrize("check", sorted(CHECKS))
def test_the_prompt_back_solves_nothing(check):
    prompt = "Which is it: 7 or 9? Seven, nine. Answer with yes or no: 7, 9."
    asked = item(check, "7", prompt=prompt, options=("7", "9"))
    assert not solved(asked, prompt)
