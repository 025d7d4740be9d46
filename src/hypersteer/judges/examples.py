"""Answered questions that a judge is shown first, so that it knows how strict to be.

All of them stand before every question, whichever it is: then they, and the text that is asked
about, are read once for all questions about it.
"""

from typing import NamedTuple


class Example(NamedTuple):
    """A text, a question about it, and the answer.

    Attributes:
        question: one of `hypersteer.judges.local.QUESTIONS`.
        answer: Yes or No.
        text: what is asked about.
        about: the concept or the instruction, where the question has one.
    """

    question: str
    answer: str
    text: str
    about: str = ""


PIRATE = (
    "Arr, ye'll want to boil them eggs nine minutes, matey, or the yolks be runnin' like "
    "bilge water!"
)
STRESS = (
    "To reduce stress, take a short walk each day, sleep at least seven hours and talk to "
    "a friend about what worries you."
)
SOUP = "1. Chop the onions. 2. Fry them slowly in butter. 3. Add the stock and let it simmer."
POEM = "The poem is a poem about the poem of the poem, and the letter of a poem is a poem."
LETTER = (
    "Dear Sir or Madam, I write to enquire about the opening hours of your museum. Yours "
    "faithfully, A. Reader"
)
BREAD = (
    "Bread rises because yeast feeds on sugar and gives off gas, which the dough holds in "
    "small bubbles."
)

EXAMPLES = (
    Example("concept", "Yes", PIRATE, "talk like a pirate"),
    Example("fluency", "Yes", PIRATE),
    Example("concept", "No", STRESS, "talk like a pirate"),
    Example(
        "fluency",
        "No",
        "You can start by the river of walking the. A healthy the the weekly plan of of your "
        "and and and",
    ),
    Example(
        "concept",
        "No",
        "The meeting moved to Friday. Please bring the sales figures and a short summary of "
        "what your team has finished.",
        "mention the weather",
    ),
    Example(
        "concept",
        "Yes",
        "Pack light shoes for the hills; it drizzles there until June, and a cold wind comes "
        "up from the sea by evening.",
        "mention the weather",
    ),
    Example("concept", "Yes", SOUP, "answer as a numbered list"),
    Example("fluency", "Yes", SOUP),
    Example("concept", "No", POEM, "write it as a formal letter"),
    Example("fluency", "No", POEM),
    Example("concept", "Yes", LETTER, "write it as a formal letter"),
    Example(
        "fluency",
        "Yes",
        "O restless sea, thy salt breath wakes me; I count the gulls and owe thee every one.",
    ),
    Example("fluency", "No", "I'm sorry, the the Windows 16.1.2.1.1.1.1.1.1"),
    Example("concept", "No", BREAD, "words of the sea and sailing"),
)
"""Half of them Yes; of formats, topics, a persona, and text that is broken in three ways."""
