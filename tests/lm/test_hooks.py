"""Hooks fire in the thread that placed them, and where its backward pass runs blocks again."""

import threading

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import tiny
from hypersteer.edits.sites import Site
from hypersteer.errors import SteeringError
from hypersteer.lm.hooks import at_input, at_output


def in_thread(run):
    """Run in a thread of its own, as autograd does for other devices; errors come back."""
    failed = []

    def guarded():
        try:
            run()
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


def block_of(lm):
    """A block without what a whole model passes to it, so that it can be checkpointed alone."""
    return tiny.module_at(lm, Site(1, "mlp"))


@pytest.mark.parametrize("elsewhere", [False, True], ids=["same thread", "autograd's thread"])
def test_recomputed_blocks_are_edited_too(tiny_llama, elsewhere):
    mlp, start = block_of(tiny_llama), torch.randn(1, 3, tiny.WIDTH)
    scale = torch.tensor(1.5, requires_grad=True)

    def gradient(run):
        hidden = start.clone().requires_grad_()
        with at_output(mlp, lambda out: out * scale), at_input(mlp, lambda a, k: ((a[0] * 2,), k)):
            loss = run(hidden).pow(2).sum()
            (in_thread if elsewhere else lambda f: f())(loss.backward)
        found = hidden.grad, scale.grad.clone()
        scale.grad = None
        return found

    plain = gradient(mlp)
    again = gradient(lambda hidden: checkpoint(mlp, hidden, use_reentrant=False))
    for one, other in zip(again, plain, strict=True):
        torch.testing.assert_close(one, other)
    assert plain[1] != 0


def test_another_thread_runs_unedited_meanwhile(tiny_llama):
    mlp, start = block_of(tiny_llama), torch.randn(1, 3, tiny.WIDTH)
    expected, found = mlp(start), []
    with at_output(mlp, torch.zeros_like):
        in_thread(lambda: found.append(mlp(start)))
        assert not mlp(start).any()
    assert torch.equal(found[0], expected)


def test_whose_edits_count_is_not_guessed(tiny_llama):
    mlp, hidden = block_of(tiny_llama), torch.randn(1, 3, tiny.WIDTH, requires_grad=True)
    placed, done = threading.Event(), threading.Event()

    def other():
        with at_output(mlp, lambda out: out + 1):
            placed.set()
            done.wait()

    thread = threading.Thread(target=other)
    thread.start()
    placed.wait()
    try:
        scale = torch.tensor(2.0, requires_grad=True)  # so that the output is needed again
        with at_output(mlp, lambda out: out * scale):
            loss = checkpoint(mlp, hidden, use_reentrant=False).sum()
            with pytest.raises(SteeringError, match="2 threads edit a model"):
                in_thread(loss.backward)
    finally:
        done.set()
        thread.join()
