"""Prompting and an edit on the same answers: the steering prompt is said, and it steers as well."""

from collections.abc import Sequence

from hypersteer.edits.sites import Site
from hypersteer.learning.values import Asked, ConceptExamples, Done, Learned, Steering
from hypersteer.lm.base import BaseLM
from hypersteer.methods.prompting import Prompting
from hypersteer.methods.protocol import Method


class Together:
    """A way of prompting and a method that edits, at once.

    The edit is made for the prompt that says the steering prompt, and its strength is the edit's
    alone: at strength 0 this is prompting.

    Attributes:
        prompting: how the steering prompt is said.
        edited: what makes the edits.
        learns: as `edited`.
        scales: as `edited`.

    Args:
        prompting: see above.
        edited: see above.
    """

    def __init__(self, prompting: Prompting, edited: Method) -> None:
        self.prompting, self.edited = prompting, edited
        self.learns, self.scales = edited.learns, edited.scales

    def fit(
        self, lm: BaseLM, site: Site, concepts: Sequence[ConceptExamples], done: Done | None = None
    ) -> Learned:
        """Learn what the edits need; prompting learns nothing."""
        return self.edited.fit(lm, site, concepts, done)

    def steer(self, lm: BaseLM, site: Site, learned: Learned, asked: Sequence[Asked]) -> Steering:
        """Return prompts that say the steering prompts, and the writers of the edits for them."""
        said = [
            one._replace(prompt=self.prompting.given(one.prompt, one.concept.text)) for one in asked
        ]
        return self.edited.steer(lm, site, learned, said)
