"""Whether all that an evaluation is going to ask fits the base LM's context window."""

from collections.abc import Mapping

from hypersteer.concepts import Concept
from hypersteer.config import EvaluateConfig
from hypersteer.data.batches import prompted
from hypersteer.evaluation.concept_gap import gap_examples, wrong_concept
from hypersteer.evaluation.protocol import Plan
from hypersteer.lm.base import BaseLM
from hypersteer.methods.hypernetwork import Hypersteer
from hypersteer.methods.prompting import Prompting, RewrittenPrompting
from hypersteer.methods.protocol import Learner


def check_fits(
    lm: BaseLM, plan: Plan, config: EvaluateConfig, methods: Mapping[str, Learner]
) -> None:
    """Refuse instructions, data rows and concepts that outgrow the context window.

    An instruction that an LM rewrites first is known later, and checked then.

    Args:
        lm: the base LM.
        plan: what is asked.
        config: its limits.
        methods: who is asked; some put the concept into the prompt, and some read it.

    Raises:
        SteeringError: naming the text and the lengths.
    """
    kinds = tuple(type(method) for method in methods.values())
    worded = any(issubclass(kind, (Prompting, RewrittenPrompting)) for kind in kinds)

    def size(text: str, concept: Concept) -> int:
        return len(lm.chat.prompt(prompted(text, concept.text) if worded else text).ids)

    for (held, _), questions in plan.questions.items():
        concept = questions[0].concept
        if Hypersteer in kinds:
            read = len(lm.chat.lead) + len(lm.chat.text(concept.text))
            lm.check_length(read, f"concept {concept.id} ({concept.text[:40]!r})")
        for one in questions:
            what = f"the instruction {one.instruction[:40]!r} with its answer"
            tokens = size(one.instruction, concept) + config.protocol.max_new_tokens
            lm.check_length(tokens, what)
        other = wrong_concept(plan, held, concept)
        for example in gap_examples(plan, held, concept, config.protocol.gap_rows):
            answer = lm.chat.response(example.response, ends=example.complete)
            cut = min(len(answer), config.data.max_response_tokens)
            tokens = max(size(example.prompt, one) for one in (concept, other or concept))
            lm.check_length(tokens + cut, f"the data row {example.prompt[:40]!r} with its response")
