"""CAA by hand: what stands for a text, which texts are paired, and where the vector is added."""

import pytest
import torch
from torch.nn import functional as F

import tiny
from hypersteer.concepts import Concept
from hypersteer.errors import DataError
from hypersteer.learning.values import Asked, ConceptExamples
from hypersteer.lm.likelihood import response_token_losses
from hypersteer.methods.caa import Caa, contrast
from methods.cases import alone, concepts_of, example, hooked, states_alone


def standing_for(lm, site, row, tokens):
    ids, prefix, end = alone(lm, row)
    states = states_alone(lm, site, row)[end - prefix :]
    assert len(states) == ids.shape[1] - end
    return states[-1] if tokens == "last" else states.mean(0)


@pytest.mark.parametrize("tokens", ["response", "last"])
def test_unpaired_rows_give_the_difference_of_class_means(lm, tokens):
    site, concepts = tiny.site_of(lm), concepts_of(4, 2)
    learned = Caa(tokens=tokens, length="difference").fit(lm, site, concepts)
    for number, entry in enumerate(concepts):
        sides = [
            torch.stack([standing_for(lm, site, row, tokens) for row in rows]).mean(0)
            for rows in (entry.positives, entry.negatives)
        ]
        vector = learned.tensors["activations"][number] * learned.tensors["directions"][number]
        torch.testing.assert_close(vector, sides[0] - sides[1], atol=1e-4, rtol=1e-3)


def test_rows_on_the_same_prompt_are_pairs(tiny_llama):
    """Two positives have partners, one of them two; a third and a negative are left out."""
    site = tiny.site_of(tiny_llama)
    positives = [example(f"Tell {n}", f"owl {n}", 0) for n in range(3)]
    negatives = [example(f"Tell {n}", f"sea {k}") for k, n in enumerate([0, 1, 1, 7])]
    entry = ConceptExamples(Concept(id=0, text="owls"), positives, negatives)
    learned = Caa(length="difference").fit(tiny_llama, site, [entry])
    p, n = (
        [standing_for(tiny_llama, site, row, "response") for row in rows]
        for rows in (positives, negatives)
    )
    expected = ((p[0] - n[0]) + (p[1] - (n[1] + n[2]) / 2)) / 2
    vector = learned.tensors["activations"] * learned.tensors["directions"][0]
    torch.testing.assert_close(vector, expected, atol=1e-4, rtol=1e-3)


def test_a_few_pairs_do_not_stand_for_all():
    positives, negatives = torch.tensor([[1.0], [2.0], [6.0]]), torch.tensor([[1.0], [2.0]])
    assert contrast(positives, negatives, "abc", "aX").item() == 1.5  # 3 - 1.5
    assert contrast(positives, negatives, "abc", "ab").item() == 0.0  # two of three are paired
    assert contrast(positives, negatives, "abc", "cX").item() == 1.5


@pytest.mark.parametrize("scopes", [("last_prompt", "response"), ("response",), ("all",)])
def test_the_vector_is_added_to_its_scopes_only(lm, scopes):
    site, concepts = tiny.site_of(lm), concepts_of(3, 2)
    method = Caa(scopes=scopes)
    learned = method.fit(lm, site, concepts)
    asked = [Asked(entry.concept, "Tell me all") for entry in reversed(concepts)]
    writers = method.steer(lm, site, learned, asked).writers
    ids, prefix, end = alone(lm, example("Tell me all", "owl fig"))
    prompt = lm.chat.prompt("Tell me all")
    ours = response_token_losses(lm, [prompt] * 2, [ids[0, end:].tolist()] * 2, writers)
    for row, number in enumerate([1, 0]):
        tensors = learned.tensors
        vector = tensors["activations"][number] * tensors["directions"][number]
        first = {"last_prompt": end - 1, "response": end, "all": prefix}[scopes[0]]
        marks = (torch.arange(ids.shape[1]) >= first)[:, None]
        with hooked(tiny.module_at(lm, site), lambda h, v=vector, m=marks: h + v * m):
            logits = lm.model(input_ids=ids).logits[0, end - 1 : -1]
        expected = F.cross_entropy(logits, ids[0, end:], reduction="none")
        torch.testing.assert_close(ours[row], expected, atol=1e-4, rtol=1e-4)


def test_what_cannot_be_learnt_is_told(tiny_llama):
    (entry,) = concepts_of(2)
    with pytest.raises(DataError, match=r"CAA cannot learn concept 7.*negative"):
        Caa().fit(tiny_llama, tiny.site_of(tiny_llama), [entry._replace(negatives=[])])
