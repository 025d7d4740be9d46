"""Concepts that the teacher invents for a theme."""

from hypersteer.errors import DataError
from hypersteer.synthesis.folder import BuildFolder
from hypersteer.synthesis.progress import Bars
from hypersteer.synthesis.prompts import ask_concepts
from hypersteer.synthesis.replies import is_known, read_concepts
from hypersteer.synthesis.sources import Wanted
from hypersteer.synthesis.teacher import Ask, Reply, Teacher

BATCH = 25
"""Concepts asked for in one request."""
SHOWN = 100
"""Known concepts that a request names, the newest; the rest are compared with afterwards."""
PATIENCE = 3
"""Requests in a row that bring nothing new before the teacher counts as out of ideas."""
STAGE = "concepts"


def invent(
    teacher: Teacher, folder: BuildFolder, bars: Bars, theme: str, count: int
) -> list[Wanted]:
    """Ask for concepts until there are enough, or no new ones come.

    Args:
        teacher: who invents them.
        folder: keeps the list once it is whole.
        bars: shows how far it is.
        theme: what they are about.
        count: how many are wanted.

    Returns:
        At most `count` concepts, no two of which say the same in almost the same words.

    Raises:
        DataError: if the teacher gives none at all.
        EndpointError: if the teacher can answer nothing.
    """
    known: list[str] = folder.part(STAGE, "invented") or []
    if known:
        return [Wanted(text) for text in known]
    idle = sample = 0
    with bars.stage("inventing concepts", count) as bar:
        while len(known) < count and idle < PATIENCE:
            wanted = min(BATCH, count - len(known))
            # The sample's number keeps a repeated request from being answered by the same reply.
            ask = Ask(ask_concepts(theme, wanted, known[-SHOWN:]), sample)
            (reply,) = teacher.complete([ask], lambda _: None)
            fresh = _fresh(reply.text, known, wanted) if isinstance(reply, Reply) else []
            known += fresh
            bar.advance(len(fresh))
            idle = 0 if fresh else idle + 1
            sample += 1
    if not known:
        raise DataError(
            f"the teacher {teacher.name} invented no concepts for the theme {theme!r}; give a "
            "list of concepts, or take another teacher"
        )
    if len(known) < count:
        bars.say(f"the teacher ran out of ideas after {len(known)} of {count} concepts")
    folder.keep(STAGE, "invented", known)
    folder.keep_usage(teacher.usage)
    return [Wanted(text) for text in known]


def _fresh(text: str, known: list[str], limit: int) -> list[str]:
    """The first concepts of a reply that are new, among themselves too."""
    fresh: list[str] = []
    for concept in read_concepts(text):
        if not is_known(concept, [*known, *fresh]):
            fresh.append(concept)
    return fresh[:limit]
