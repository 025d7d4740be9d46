"""What was learnt says by its kind how it steers; what earlier versions kept has none."""

from dataclasses import replace

import pytest
import torch

import tiny
from hypersteer.errors import SteeringError
from hypersteer.learning import dispatch
from hypersteer.learning.values import Asked, Learned
from hypersteer.lm.likelihood import response_token_losses
from hypersteer.methods.caa import Caa
from hypersteer.methods.sae import SaeA
from methods.cases import concepts_of
from methods.test_sae import folder_of, random_weights


def methods(folder):
    sae = folder_of(folder, random_weights())
    return {"directions": Caa(scopes=("response",)), "features": SaeA(dictionary=sae, mode="clamp")}


@pytest.mark.parametrize("kind", dispatch.KINDS)
def test_what_earlier_versions_kept_steers_and_detects_alike(tiny_llama, tmp_path, kind):
    lm, site, concepts = tiny_llama, tiny.site_of(tiny_llama), concepts_of(3, 2)
    method = methods(tmp_path)[kind]
    learned = method.fit(lm, site, concepts)
    assert learned.kind == kind
    settings = dispatch.KINDS[kind].settings
    notes = {name: note for name, note in learned.notes.items() if name not in settings}
    recipe = {name: getattr(method, name) for name in settings}
    earlier = dispatch.of_earlier_version(replace(learned, kind="own", notes=notes), recipe)
    assert earlier.kind == kind
    asked = [Asked(entry.concept, "Tell me all") for entry in concepts]
    prompts, responses = [lm.chat.prompt("Tell me all")] * 2, [lm.chat.response("owl fig")] * 2
    plain, *losses = (
        torch.stack(response_token_losses(lm, prompts, responses, writers))
        for writers in ([], *(method.steer(lm, site, k, asked).writers for k in (learned, earlier)))
    )
    assert torch.equal(*losses)
    assert not torch.allclose(losses[0], plain)
    texts, wanted = concepts[0].negatives, [entry.concept for entry in concepts]
    scores = [dispatch.detect(lm, site, one, wanted, texts) for one in (learned, earlier)]
    assert torch.equal(*scores)


def test_what_only_its_method_can_apply_is_told(tiny_llama):
    own = dispatch.of_earlier_version(Learned(tensors={"heads": torch.zeros(1)}), {})
    assert own.kind == "own"
    with pytest.raises(SteeringError, match="of kind 'own', which only the method"):
        dispatch.steer(tiny_llama, tiny.site_of(tiny_llama), own, [])
    with pytest.raises(SteeringError, match="of kind 'own', which only the method"):
        dispatch.detect(tiny_llama, tiny.site_of(tiny_llama), own, [], [])
