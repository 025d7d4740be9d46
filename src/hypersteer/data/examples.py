"""One row of concept data as a value."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A base prompt and a response that shows, or does not show, a concept.

    Attributes:
        prompt: What the user asks the base LM, without a chat template.
        response: The wanted answer.
        concept_id: The concept's id, -1 for a row of the shared negative pool.
        category: One of `hypersteer.data.schema.CATEGORIES`; the row store admits no other.
        genre: Genre of the base prompt.
        complete: Whether the response is whole, so that the end of turn may be taught after it.
            AxBench cuts responses at 128 tokens, so its rows are not.
    """

    prompt: str
    response: str
    concept_id: int
    category: str
    genre: str
    complete: bool
