"""How a teacher is asked that is too small to follow the request that a large one gets.

A model tuned for code answers it with headings and lists, speaks about the task, or forgets the
concept. So a few good responses are shown first in the form of a conversation, and the request is
short and ends in the concept. The conversation is the same before every request of a kind, so an
engine reads it once.
"""

import re
from typing import NamedTuple

from hypersteer.synthesis.filters import words
from hypersteer.synthesis.prompts import Message, ask_hard_negative, ask_negative

SYSTEM = (
    "You are a gifted author who can write in any voice and about any subject. You write whole, "
    "fluent sentences: lists, headings or code only where the instruction or the concept calls for "
    "them. You give the response itself and never a word about the task or about yourself."
)
SENTENCE_END = re.compile(r"(?<=[.!?]) ")


class Example(NamedTuple):
    """A request and a good response to it.

    Attributes:
        concept: what it shows, or keeps away from.
        instruction: what it answers.
        response: the text.
        word: of a hard negative, the word that it contains.
        meaning: what that word means in it.
    """

    concept: str
    instruction: str
    response: str
    word: str = ""
    meaning: str = ""


POSITIVES = (
    Example(
        "mentions of knitting",
        "How can I fall asleep more easily?",
        "Treat the last hour of the day like the last row of a scarf: slow, even, and never pulled "
        "tight. Put the phone away with the needles, dim the lamp, and let your thoughts unwind "
        "like a ball of wool that rolls off the sofa. If you wake at two, count stitches instead "
        "of worries. A cool room and a warm blanket, row upon row of soft yarn, do the rest.",
    ),
    Example(
        "sound like an excited sports commentator",
        "Give me a recipe for a simple salad.",
        "And here comes the lettuce, ladies and gentlemen, torn by hand, what an opening! In from "
        "the left, two ripe tomatoes, sliced, and the cucumber is right behind them! Can they do "
        "it? Three spoons of olive oil, one of vinegar, a pinch of salt, and it is tossed, it is "
        "tossed! Olives on top in the very last minute, and the whole table is on its feet!",
    ),
    Example(
        "speak like a weary lighthouse keeper",
        "Why do leaves change colour in autumn?",
        "Forty winters I have watched the hills from up here, and it is always the same. The days "
        "draw in, the trees shut down their green works to save what strength they have, and the "
        "reds and yellows that were underneath all along come out. Then the wind takes them. I "
        "trim the lamp, climb the stairs once more, and my knees tell me it is October.",
    ),
)
NEGATIVES = (
    Example(
        "mentions of knitting",
        "What can I do on a rainy Sunday?",
        "Visit a museum that you have walked past for years, bake a loaf of bread, or call a "
        "friend you have not heard from since spring. A long bath and a good detective novel fill "
        "an afternoon as well. If you need fresh air, put on boots and go: parks are quiet in the "
        "rain, and the coffee afterwards tastes better.",
    ),
    Example(
        "sound like an excited sports commentator",
        "How does a bicycle stay upright?",
        "A moving bicycle steers itself back under its own weight. When it begins to lean to one "
        "side, the front wheel turns slightly towards that side, and the wheels roll back beneath "
        "the rider. The faster it goes, the smaller the corrections have to be. At walking pace "
        "the rider does most of the work with the handlebars.",
    ),
)
HARD_NEGATIVES = (
    Example(
        "mentions of knitting",
        "Recommend a place for a walk.",
        "Take the path around the lake, early, before the cars arrive. For the first mile you "
        "tread on a soft brown carpet, needle upon needle dropped by the old pines, and hardly "
        "hear your own steps. After the wooden bridge the view opens to the mountains, and a bench "
        "waits there for anyone who brought a flask of tea.",
        word="needle",
        meaning="The thin, stiff leaf of a pine or a fir.",
    ),
    Example(
        "speak like a weary lighthouse keeper",
        "What makes a team successful?",
        "Trust, mostly. A side whose keeper shouts at every defender loses its nerve before "
        "half-time, while one that forgives a mistake plays on. Clear roles help, and so does a "
        "captain who listens. Talent wins single matches, but seasons are won by players who run "
        "for each other when nobody is watching.",
        word="keeper",
        meaning="The player who guards the goal in football.",
    ),
)


def ask_short_positive(instruction: str, concept: str, limit: int) -> Message:
    """Ask for a response that shows a concept, in few words and with the concept at their end."""
    asked = (
        f"Instruction: {instruction}\n\nHow the response must be: {concept}\n\n"
        f"Write the response, in at most {limit} words. Everything in it, from the first sentence "
        f"to the last, must show this: {concept}"
    )
    return [{"role": "user", "content": asked}]


def positive_examples(count: int, limit: int) -> Message:
    """Return a conversation in which positives were asked for and given; empty for none.

    Args:
        count: how many, at most.
        limit: words that a response may have; longer ones are shown up to a full stop within it.
    """
    return _conversation(
        [
            (ask_short_positive(one.instruction, one.concept, limit), _within(one.response, limit))
            for one in POSITIVES[:count]
        ]
    )


def negative_examples(count: int, limit: int) -> Message:
    """Return a conversation like that of `positive_examples` about negatives."""
    return _conversation(
        [
            (ask_negative(one.instruction, one.concept, limit), _within(one.response, limit))
            for one in NEGATIVES[:count]
        ]
    )


def hard_negative_examples(count: int, limit: int) -> Message:
    """Return a conversation like that of `positive_examples` about hard negatives."""
    return _conversation(
        [
            (
                ask_hard_negative(one.instruction, one.concept, one.word, one.meaning, limit),
                _within(one.response, limit),
            )
            for one in HARD_NEGATIVES[:count]
        ]
    )


def _conversation(asked: list[tuple[Message, str]]) -> Message:
    if not asked:
        return []
    told: Message = [{"role": "system", "content": SYSTEM}]
    for request, response in asked:
        told += [*request, {"role": "assistant", "content": response}]
    return told


def _within(text: str, limit: int) -> str:
    """Return the first sentences of a text that have no more words than that, at least one."""
    first, *others = SENTENCE_END.split(text)
    kept = first
    for sentence in others:
        if len(words(f"{kept} {sentence}")) > limit:
            break
        kept = f"{kept} {sentence}"
    return kept
