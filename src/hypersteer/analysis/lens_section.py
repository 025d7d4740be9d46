"""The section on words: what each edit raises and lowers, and which training concepts are near."""

from collections.abc import Sequence

import torch

from hypersteer.analysis.edit_vectors import edit_vectors
from hypersteer.analysis.lens import Lens, lens_of, nearest_concepts, readout
from hypersteer.analysis.lens_figures import draw_words
from hypersteer.analysis.section import Drawing, Listing, Section
from hypersteer.analysis.style import token_label
from hypersteer.analysis.subject import Subject, reads_prompts

ALL, APART = "all sites", "without the mean edit"
"""Name the sum of what is written at every site, and what of it edits do not share."""
OTHERS = 64
"""Concepts, at most, whose edits make the mean edit."""


def lens_section(subject: Subject) -> Section:
    """Look at the words and the neighbours of each steering prompt."""
    lm, card = subject.steerer.lm, subject.steerer.card
    made = edit_vectors(subject.steerer, subject.steer, subject.prompts[:1])
    others = [concept.text for concept in subject.concepts[:OTHERS]]
    usual = edit_vectors(subject.steerer, others, subject.prompts[:1]).writes.sum(1).mean(0)
    sums, several = made.writes.sum(1, keepdim=True), len(made.sites) > 1
    vectors = torch.cat([made.writes, *([sums] if several else []), sums - usual], 1)
    names = [*map(str, made.sites), *([ALL] if several else []), APART]
    logits = readout(lm, vectors.flatten(0, 1)).unflatten(0, vectors.shape[:2])
    found = {
        text: [lens_of(lm, site, own) for site, own in zip(names, rows, strict=True)]
        for text, rows in zip(subject.steer, logits, strict=True)
    }
    near = nearest_concepts(lm, card.concepts, subject.steer)
    caution = (
        "The lens looks past all blocks above a site, so what a low site writes may read as "
        "nonsense and still steer."
    )
    apart = (
        f"The figure shows what sets an edit apart: the mean edit of {len(others)} concepts is "
        "subtracted. The tables have each site as it is, too."
    )
    notes = [caution, apart]
    if reads_prompts(card):
        notes.append(f"The edits are those for the base prompt '{subject.prompts[0]}'.")
    if not made.exact:
        notes.append(f"{card.hypernet.edit} edits stand as their mean write, as in the geometry.")
    if not near:
        notes.append("The checkpoint does not tell what it was trained on, so nothing is near.")
    listings = [_words(text, lenses) for text, lenses in found.items()]
    if near:
        listings.append(_near(near))
    return Section(
        name="lens",
        title="Words and neighbours of an edit",
        notes=notes,
        drawings=[Drawing("lens_words", *draw_words({t: one[-1] for t, one in found.items()}))],
        listings=listings,
        numbers={
            "words": {
                text: [
                    {"site": one.site, "raised": one.raised, "lowered": one.lowered}
                    for one in lenses
                ]
                for text, lenses in found.items()
            },
            "nearest_training_concepts": near,
        },
    )


def _words(text: str, lenses: Sequence[Lens]) -> Listing:
    rows = [
        [
            one.site,
            "  ".join(token_label(word.text, 20) for word in one.raised),
            "  ".join(token_label(word.text, 20) for word in one.lowered),
        ]
        for one in lenses
    ]
    return Listing(f"\u201c{text}\u201d", ["site", "raised", "lowered"], rows)


def _near(near: dict[str, list[tuple[str, float]]]) -> Listing:
    rows = [
        [text, "; ".join(f"{concept} ({value:.2f})" for concept, value in found)]
        for text, found in near.items()
    ]
    return Listing("Nearest training concepts", ["steering prompt", "concepts, similarity"], rows)
