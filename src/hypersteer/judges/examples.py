"""Answered questions that a judge is shown first, so that it knows how strict to be."""

from typing import NamedTuple


class Example(NamedTuple):
    """A text, what its writer was told, and whether the writer clearly did it."""

    concept: str
    answer: str
    text: str


EXAMPLES = (
    Example(
        "talk like a pirate",
        "Yes",
        "Arr, ye'll want to boil them eggs nine minutes, matey, or the yolks be runnin' like "
        "bilge water!",
    ),
    Example(
        "talk like a pirate",
        "No",
        "To reduce stress, take a short walk each day, sleep at least seven hours and talk to "
        "a friend about what worries you.",
    ),
    Example(
        "mention the weather",
        "No",
        "The meeting moved to Friday. Please bring the sales figures and a short summary of "
        "what your team has finished.",
    ),
    Example(
        "mention the weather",
        "Yes",
        "Pack light shoes for the hills; it drizzles there until June, and a cold wind comes "
        "up from the sea by evening.",
    ),
    Example(
        "answer as a numbered list",
        "Yes",
        "1. Chop the onions. 2. Fry them slowly in butter. 3. Add the stock and let it simmer.",
    ),
    Example(
        "write it as a formal letter",
        "No",
        "The poem is a poem about the poem of the poem, and the letter of a poem is a poem.",
    ),
    Example(
        "write it as a formal letter",
        "Yes",
        "Dear Sir or Madam, I write to enquire about the opening hours of your museum. Yours "
        "faithfully, A. Reader",
    ),
    Example(
        "words of the sea and sailing",
        "No",
        "Bread rises because yeast feeds on sugar and gives off gas, which the dough holds in "
        "small bubbles.",
    ),
)
"""Half of them Yes; of formats, topics, a persona, and broken text."""
