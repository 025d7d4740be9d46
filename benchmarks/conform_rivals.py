"""Other tools' steering, held to the conformance suite.

    pip install steering-vectors repeng pyvene  # each in an environment of its own, with hypersteer
    hypersteer conform benchmarks/conform_rivals.py:SteeringVectors
    hypersteer conform benchmarks/conform_rivals.py:Repeng
    hypersteer conform benchmarks/conform_rivals.py:Pyvene

All steer a whole batch by one vector, so a call's requests have the same edit. What they do is done
by their own code; around it is transformers' `generate`, padded on the left.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

from hypersteer.conformance.adapter import Ask
from hypersteer.conformance.backends import greedy
from hypersteer.lm.base import BaseLM


class SteeringVectors:
    """steering-vectors (github.com/steering-vectors/steering-vectors): hooks in a context."""

    name = "steering-vectors"
    abilities = frozenset({"refuses"})

    def __init__(self, lm: BaseLM) -> None:
        self.lm = lm

    def answer(self, asks: Sequence[Ask], tokens: int) -> list[str]:
        """Answer requests of one edit."""
        with self._applied(asks[0]):
            return greedy(self.lm, asks, tokens)

    def _applied(self, ask: Ask) -> AbstractContextManager:
        from steering_vectors import SteeringVector

        if ask.vector is None or ask.layer is None:
            return nullcontext()
        vector = SteeringVector({ask.layer: ask.vector}, "decoder_block")
        return vector.apply(self.lm.model, multiplier=ask.strength)


class Repeng:
    """repeng (github.com/vgel/repeng): blocks wrapped in modules that hold a control vector."""

    name = "repeng"
    abilities = frozenset({"refuses"})

    def __init__(self, lm: BaseLM) -> None:
        self.lm = lm

    def answer(self, asks: Sequence[Ask], tokens: int) -> list[str]:
        """Answer requests of one edit."""
        with self._wrapped(asks[0]):
            return greedy(self.lm, asks, tokens)

    @contextmanager
    def _wrapped(self, ask: Ask):
        """Wrap the one block, and unwrap it again: right answers are computed without."""
        from repeng import ControlModel, ControlVector

        if ask.vector is None or ask.layer is None:
            yield
            return
        model = ControlModel(self.lm.model, [ask.layer])
        try:
            directions = {ask.layer: ask.vector.numpy()}
            model.set_control(ControlVector("llama", directions), ask.strength)
            yield
        finally:
            model.unwrap()


class Pyvene:
    """pyvene (github.com/stanfordnlp/pyvene), AxBench's interventions: a vector added in hooks."""

    name = "pyvene"
    abilities = frozenset({"refuses"})

    def __init__(self, lm: BaseLM) -> None:
        self.lm = lm

    def answer(self, asks: Sequence[Ask], tokens: int) -> list[str]:
        """Answer requests of one edit; an intervention has no strength, so the vector has it."""
        from pyvene import AdditionIntervention, IntervenableModel

        ask = asks[0]
        if ask.vector is None or ask.layer is None:
            return greedy(self.lm, asks, tokens)
        added = AdditionIntervention(
            source_representation=ask.strength * ask.vector, embed_dim=self.lm.width
        )
        place = {"layer": ask.layer, "component": "block_output", "intervention": added}
        model = IntervenableModel([place], model=self.lm.model)

        def generate(input_ids, attention_mask, **settings):
            base = {"input_ids": input_ids, "attention_mask": attention_mask}
            return model.generate(base, intervene_on_prompt=True, **settings)[1]

        return greedy(self.lm, asks, tokens, generate)
