"""Which responses are dropped, and why: texts compared as words and shingles."""

import re
from collections.abc import Iterable, Set

from hypersteer.config.synthesis import FilterConfig
from hypersteer.judges.refusal import refused

WORD = re.compile(r"\w+(?:['\u2019]\w+)*")
SHINGLE = 3
"""Words of a shingle."""
STEM = 5
"""Letters after which forms of a word are taken to differ by their endings only."""
ENDING = re.compile(r"(?<=\w{3})(?:ings?|ed|e?s)$")
_STOP_WORDS = (
    "a about all also an and any are as at be been but by can do does for from had has have how i "
    "if in into is it its like may more most no not of on or other our over so some such than that "
    "the their them then there these they this to up use used uses using was we were what when "
    "which who will with would you your related references reference terms"
)
STOP_WORDS = frozenset(_STOP_WORDS.split())

Shingles = Set[tuple[str, ...]]

NO_REPLY = "no reply"
EMPTY = "empty"
TOO_SHORT = "too short"
REFUSAL = "refusal"
OF_TASK = "speaks of the task"
PROMPT = "repeats the prompt"
LOOPING = "looping text"
ECHO = "echoes the concept"
NAMES_IT = "names the concept"
NO_WORD = "lacks the word"
DUPLICATE = "near-duplicate"
NO_CONCEPT = "the judge sees too little of the concept"
OFF_TASK = "the judge sees no answer to the instruction"
NOT_FLUENT = "the judge finds it reads badly"
NOT_JUDGED = "the judge gave no score"
SURPLUS = "good, but others are better"
REASONS = (
    NO_REPLY,
    EMPTY,
    TOO_SHORT,
    REFUSAL,
    OF_TASK,
    PROMPT,
    LOOPING,
    ECHO,
    NAMES_IT,
    NO_WORD,
    DUPLICATE,
    NOT_JUDGED,
    NO_CONCEPT,
    OFF_TASK,
    NOT_FLUENT,
)
"""Every reason in a build, in the order in which they are looked for."""

LONGEST_UNIT = 12
"""Words of the longest passage whose repetition is looked for."""
REPEATS = 4
"""A passage that stands so often in a row, over `LOOP_WORDS` in all, is a loop."""
LOOP_WORDS = 8
MIN_VARIETY = 0.5
"""Share of distinct four-word runs below which a text of `VARIETY_WORDS` goes round in circles."""
VARIETY_WORDS = 24
PROMPT_SHARE = 0.5
PROMPT_WORDS = 5
OWN_STEMS = 3
"""A response with fewer words of its own than this merely echoes the concept."""
NAMING_WORDS = 2
_NOT = (
    r"(?:can(?:no|['\u2019])t|won['\u2019]t|will not|am (?:unable|not able)"
    r"|['\u2019]m (?:un|not )able)"
)
_DOING = (
    "help|assist|provide|comply|fulfil|answer|respond|create|write|generate|do that|discuss|"
    "continue|engage"
)
_MACHINE = "(?:ai|artificial intelligence|(?:large )?language model)"
_REFUSAL = re.compile(
    rf"^\W*(?:(?:i['\u2019]m|i am|we are)?\s*(?:\w+ )?(?:sorry|afraid|apologi[sz]e)\b"
    rf".{{0,80}}?{_NOT}"
    rf"|(?:unfortunately|sorry|apologies)\W.{{0,40}}?\bi\s?{_NOT}"
    rf"|i\s?{_NOT}(?: to)?(?: \w+){{0,2}}? (?:{_DOING})"
    rf"|.{{0,60}}?\bas an? {_MACHINE}\b"
    rf"|(?:i am|i['\u2019]m) (?:just |only )?an? {_MACHINE}\b)",
    re.IGNORECASE | re.DOTALL,
)
_SHOWS = "uses?|shows?|incorporates?|includes?|reflects?|follows?|demonstrates?|conveys?|avoids?"
_OF_TASK = re.compile(
    rf"\b(?:this|the|my) response (?:\w+ly )?(?:{_SHOWS}|is|does|will)\b"
    r"|\bthe (?:given|requested|specified) (?:concept|instruction)\b"
    r"|\bas (?:the )?(?:instruction|concept) (?:says|asks|requires)\b",
    re.IGNORECASE,
)
_CONCEPT_OF = re.compile(r"\b(?:concept|theme|style|tone) (?:of|that is)\b", re.IGNORECASE)


def why_dropped(
    text: str,
    *,
    concept: str,
    instruction: str,
    positive: bool,
    word: str,
    earlier: Iterable[Shingles],
    config: FilterConfig,
) -> str | None:
    """Return the first reason to drop a response, or None.

    Args:
        text: the response, cleaned and cut.
        concept: the concept that it should show, or keep away from.
        instruction: what it answers.
        positive: whether it should show the concept.
        word: a word that it must contain; may be empty.
        earlier: shingles of the responses of this kind that are kept.
        config: the limits.
    """
    found = words(text)
    checks = {
        EMPTY: not text.strip(),
        TOO_SHORT: len(found) < config.min_words,
        REFUSAL: bool(_REFUSAL.match(text)) or refused(text),
        OF_TASK: positive and speaks_of_task(text, concept),
        PROMPT: _repeats(found, text, instruction),
        LOOPING: loops(found),
        ECHO: positive and _echoes(text, concept, config.max_echo),
        NAMES_IT: not positive and _names(found, concept),
        NO_WORD: bool(word) and not _has(found, word),
    }
    for reason, drop in checks.items():
        if drop:
            return reason
    mine = shingles(text)
    near = any(jaccard(mine, other) >= config.max_overlap for other in earlier)
    return DUPLICATE if near else None


def speaks_of_task(text: str, concept: str) -> bool:
    """Return whether a response says that it shows a concept, or speaks of itself."""
    if _OF_TASK.search(text):
        return True
    named = set(stems(concept))
    for place in _CONCEPT_OF.finditer(text):
        following = words(text[place.end() :])[: len(words(concept)) + 1]
        mine = set(stems(" ".join(following)))
        if named and len(mine & named) * 2 > len(named):
            return True
    return False


def loops(found: list[str]) -> bool:
    """Return whether words repeat one passage in a row, or the same few runs over and over."""
    for unit in range(1, LONGEST_UNIT + 1):
        enough = max(REPEATS * unit, LOOP_WORDS) - unit
        run = 0
        for before, now in zip(found, found[unit:], strict=False):
            run = run + 1 if before == now else 0
            if run >= enough:
                return True
    runs = list(zip(*(found[i:] for i in range(4)), strict=False))
    return len(found) >= VARIETY_WORDS and len(set(runs)) < MIN_VARIETY * len(runs)


def _repeats(found: list[str], text: str, instruction: str) -> bool:
    """Return whether a response begins with the whole instruction, or is mostly made of it."""
    asked = words(instruction)
    if len(asked) < PROMPT_WORDS:
        return False
    mine = shingles(text)
    shared = len(mine & shingles(instruction))
    return found[: len(asked)] == asked or shared > PROMPT_SHARE * len(mine)


def _echoes(text: str, concept: str, limit: float) -> bool:
    """Return whether a response is little more than the concept's own words."""
    named, mine = set(stems(concept)), stems(text)
    if not named & set(mine):
        return False
    echoed = sum(stem in named for stem in mine)
    return echoed >= limit * len(mine) or len(set(mine) - named) < OWN_STEMS


def _names(found: list[str], concept: str) -> bool:
    """Return whether the concept stands in the text word by word."""
    named = words(concept)
    starts = range(len(found) - len(named) + 1)
    return len(named) >= NAMING_WORDS and any(found[i : i + len(named)] == named for i in starts)


def _has(found: list[str], word: str) -> bool:
    """Return whether a word is there, in any form that begins like it."""
    wanted = words(word)
    if len(wanted) != 1:
        return all(part in found for part in wanted)
    stem = wanted[0][: max(3, len(wanted[0]) - 2)]
    return any(one.startswith(stem) for one in found)


def words(text: str) -> list[str]:
    """Return the words of a text, in lower case."""
    return [word.casefold() for word in WORD.findall(text)]


def stems(text: str) -> list[str]:
    """Return the beginnings of the words that carry meaning, for a comparison across endings."""
    return [ENDING.sub("", word)[:STEM] for word in words(text) if word not in STOP_WORDS]


def shingles(text: str) -> Shingles:
    """Return all runs of three words; a shorter text is one run."""
    found = words(text)
    if len(found) < SHINGLE:
        return frozenset([tuple(found)] if found else [])
    return frozenset(zip(*(found[i:] for i in range(SHINGLE)), strict=False))


def jaccard(one: Set[object], other: Set[object]) -> float:
    """Return the size of the intersection over size of the union; 0 for two empty sets."""
    union = len(one | other)
    return len(one & other) / union if union else 0.0
