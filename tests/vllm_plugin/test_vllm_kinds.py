"""Through vLLM on tiny base LMs: every variant, kind of edit and site, and a compiled model."""

import pytest
import torch

from hypersteer.config.vllm_plugin import PluginConfig
from hypersteer.vllm_plugin.front import Front
from vllm_plugin.engines import MARKS, engine, firsts
from vllm_plugin.places import STEER, saved

pytestmark = MARKS

PROMPTS = ["Hi", "Why? the day", "Tell me about the sea, about the ship and the bees."]
NEW = 10


def served(folder, *, eager=True, parallel=1, **options):
    """A tiny engine, with texts of it and of the steerer for steered and unsteered requests."""
    steerer, model, checkpoint = saved(folder, **{"family": "llama", **options})
    settings = {"checkpoint": str(checkpoint), "edits": str(folder / "edits")}
    front = Front(PluginConfig(**settings), str(model))
    cases = [(prompt, text) for prompt in PROMPTS for text in (STEER[0], None, STEER[1])]
    asked = [front.request(prompt, text) for prompt, text in cases]
    extra = {
        "enforce_eager": eager,
        "max_model_len": 128,
        "max_num_batched_tokens": 128 if eager else 256,
        "tensor_parallel_size": parallel,
        "additional_config": {"hypersteer": settings},
    }
    with engine(model, **extra) as llm:
        found = firsts(llm, asked, new=NEW, decode=steerer.lm.chat.decode)
        again = firsts(llm, asked, new=NEW, decode=steerer.lm.chat.decode)  # what is cached is read
    wanted = [steerer.generate(prompt, steer=text, max_new_tokens=NEW) for prompt, text in cases]
    assert len(set(wanted)) >= 4
    return found, again, wanted


@pytest.mark.parametrize("variant", ["no-context", "in-context", "cross-attention"])
@pytest.mark.parametrize("edit", ["vector", "low-rank", "gated"])
def test_variants_and_kinds(tmp_path, variant, edit):
    found, again, wanted = served(tmp_path, variant=variant, edit=edit, more_layers=(2,))
    assert found == wanted
    assert again == wanted


@pytest.mark.parametrize("kind", ["attention", "mlp"])
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_sites_and_families(tmp_path, kind, family):
    found, again, wanted = served(tmp_path, family=family, kind=kind)
    assert found == wanted
    assert again == wanted


def test_a_compiled_model_is_steered(tmp_path):
    """Without `--enforce-eager` vLLM compiles the model, our operator as a part of it."""
    found, again, wanted = served(tmp_path, eager=False)
    assert found == wanted
    assert again == wanted


def test_two_ranks_hold_the_same_edits(tmp_path, monkeypatch):
    """Tensor parallelism: each rank makes all edits; the hidden state is the same on both."""
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")
    monkeypatch.setenv("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    found, again, wanted = served(tmp_path, parallel=2)
    assert found == wanted
    assert again == wanted


@pytest.mark.skipif(not torch.cuda.is_available(), reason="runner V2 needs an NVIDIA GPU")
def test_runner_v2_under_cuda_graphs(tmp_path):
    """On a GPU: runner V2 with graphs captured, in float32; texts as on the CPU's runner."""
    found, again, wanted = served(tmp_path, eager=False, edit="gated", more_layers=(2,))
    assert found == wanted
    assert again == wanted
