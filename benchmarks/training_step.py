"""A training step against its floor and against the published scheme, in one run.

    python benchmarks/training_step.py [--dtype bfloat16] [--repeats 7]

The floor is the sum of parts that no scheme can do without, each timed alone: forward below the
site; forward and activation-backward above it; head and loss on the response tokens; the
hypernetwork's own forward and backward. The published scheme runs three full forwards with the
head on all tokens (states; an unused unsteered pass; the steered pass with backward).
"""

import argparse

import torch
from torch.nn import functional as F

from hypersteer.config import HypernetConfig, LossConfig
from hypersteer.data.batches import TrainingRow
from hypersteer.hypernet.maker import write_edits
from hypersteer.hypernet.network import new_hypernet
from hypersteer.lm.chat import collate
from hypersteer.lm.hooks import at_input, at_sites, capture
from hypersteer.lm.likelihood import token_cross_entropy
from hypersteer.lm.load import load_lm
from hypersteer.lm.scopes import scope_mask
from hypersteer.lm.writers import add_vectors
from hypersteer.training.forward import Steered, steered_losses
from hypersteer.training.objectives import step_losses
from timing import machine, medians, real_rows, table


class Bench:
    """One batch of real rows, a base LM and a hypernetwork, and the jobs to time."""

    def __init__(self, dtype: str, batch: int, tokens: int, layer: int, blocks: int) -> None:
        self.lm = load_lm("smollm2-135m-instruct", dtype=dtype)
        self.site = self.lm.site(layer)
        self.config = HypernetConfig(blocks=blocks)
        self.net = new_hypernet(self.lm, self.config, self.site, seed=0)
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=1e-6)
        rows = real_rows(self.lm, batch, tokens)
        self.prompts, self.responses, self.steering = map(list, zip(*rows, strict=True))
        self.batch = collate(self.prompts, self.responses, pad_id=self.lm.chat.pad_id)
        self.mask = scope_mask(["all"] * batch, self.batch.spans)
        self.autocast = torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16")
        response = self.batch.spans.response
        self.wanted = torch.zeros_like(response)
        self.wanted[:, :-1] = response[:, 1:]
        self.targets = self.batch.ids[response]
        self._record()

    def _record(self) -> None:
        """Inputs of the parts: states at the site, what the blocks above get, the last states."""
        self.above = self.lm.blocks[self.site.layer + 1 :]
        calls: list[dict] = []

        def keep(args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            calls.append(kwargs)
            return args, kwargs

        top = self.lm.site(self.lm.depth - 1)
        reading = capture(self.lm.blocks, [self.site, top])
        with torch.no_grad(), reading as states, at_input(self.above[0], keep):
            self.lm.forward(self.batch, logits_to_keep=1)
        self.states, self.last = states[self.site], states[top]
        self.inputs = calls[0]
        self.gradient = torch.randn_like(self.last)
        self.vector_gradient = torch.randn(len(self.prompts), self.lm.width)

    def below(self) -> None:
        """Floor: forward below the site."""
        with torch.no_grad(), self.autocast:
            self.lm.states(self.batch, self.site)

    def upper(self) -> None:
        """Floor: forward and activation-backward above the site."""
        hidden = self.states.detach().requires_grad_(True)
        with self.autocast:
            out = hidden
            for block in self.above:
                out = block(out, **self.inputs)
                out = out if isinstance(out, torch.Tensor) else out[0]
        out.backward(self.gradient)

    def head(self) -> None:
        """Floor: norm, head and loss on the response tokens, with activation-backward."""
        hidden = self.last.flatten(0, 1)[self.wanted.flatten()].detach().requires_grad_(True)
        with self.autocast:
            logits = self.lm.model.lm_head(self.lm.model.model.norm(hidden))
            loss = token_cross_entropy(logits, self.targets).mean()
        loss.backward()

    def hypernet(self) -> None:
        """Floor: the hypernetwork's own forward and backward."""
        with self.autocast:
            vectors = self._vectors(self.states)
        vectors.backward(self.vector_gradient)
        self.net.zero_grad(set_to_none=True)

    def ours(self) -> None:
        """Our step: one forward, one backward, the optimizer left out as in the floor."""
        setup = Steered(self.lm, self.net, self.config, [self.site], "all")
        with self.autocast:
            losses = steered_losses(setup, self.prompts, self.responses, [self.steering])
        losses.mean().backward()
        self.net.zero_grad(set_to_none=True)

    def contrastive(self) -> None:
        """Our step with the contrastive term: two edits per row above the site."""
        self._step(LossConfig(contrast=2.0))

    def contrastive_half(self) -> None:
        """The same, the term on every other row."""
        self._step(LossConfig(contrast=2.0, contrast_share=0.5))

    def activations(self) -> None:
        """Matching the prompted model's states at the site; prompts as long as the plain ones."""
        self._step(LossConfig(objective="activations"))

    def _step(self, loss: LossConfig) -> None:
        setup = Steered(self.lm, self.net, self.config, [self.site], "all")
        wrong = self.steering[1:] + self.steering[:1]
        # Another row's prompt in place of the prompted one: as long, and other states.
        prompted = self.prompts[1:] + self.prompts[:1]
        given = zip(self.prompts, self.responses, self.steering, wrong, prompted, strict=True)
        rows = [
            TrainingRow(prompt, response, right, other, number, prompt, told)
            for number, (prompt, response, right, other, told) in enumerate(given)
        ]
        with self.autocast:
            found = step_losses(setup, loss, rows)
        found.total.backward()
        self.net.zero_grad(set_to_none=True)

    def adamw(self) -> None:
        """The optimizer's step, with gradients there."""
        for parameter in self.net.parameters():
            parameter.grad = parameter.detach() * 1e-3
        self.optimizer.step()
        self.net.zero_grad(set_to_none=True)

    def published(self) -> None:
        """The published scheme: three full forwards, heads on all tokens, one with backward."""
        with self.autocast:
            with torch.no_grad():
                with capture(self.lm.blocks, [self.site]) as states:
                    self.lm.logits(self.batch)
                self.lm.logits(self.batch)
            vectors = self._vectors(states[self.site])
            with at_sites(
                self.lm.blocks, [(self.site, lambda h: add_vectors(h, vectors, self.mask))]
            ):
                logits = self.lm.logits(self.batch)
            labels = self.batch.ids.masked_fill(~self.batch.spans.response, -100)
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
        loss.backward()
        self.net.zero_grad(set_to_none=True)

    def _vectors(self, states: torch.Tensor) -> torch.Tensor:
        (params,) = write_edits(
            self.net,
            self.lm,
            self.config,
            self.steering,
            self.prompts,
            states,
            self.batch.spans,
        )
        return params["vector"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=150)
    parser.add_argument("--layer", type=int, default=12)
    parser.add_argument("--blocks", type=int, default=4)
    args = parser.parse_args()
    bench = Bench(args.dtype, args.batch, args.tokens, args.layer, args.blocks)
    parts = {
        "forward below the site": bench.below,
        "forward and backward above it": bench.upper,
        "head and loss on response tokens": bench.head,
        "hypernetwork": bench.hypernet,
    }
    whole = {
        "our step": bench.ours,
        "our contrastive step": bench.contrastive,
        "contrastive on half the rows": bench.contrastive_half,
        "activation matching": bench.activations,
        "published scheme": bench.published,
        "AdamW": bench.adamw,
    }
    taken = medians({**parts, **whole}, args.repeats)
    floor = sum(taken[name] for name in parts)
    shape = f"{args.batch} x {bench.batch.ids.shape[1]} tokens, {int(bench.wanted.sum())} response"
    print(f"{machine()}; {args.dtype}; {shape}; layer {args.layer}, {args.blocks} blocks\n")
    rows = [[name, f"{taken[name]:.3f}", f"{taken[name] / floor:.2f}"] for name in taken]
    table(["part", "seconds", "times the floor"], [*rows, ["floor", f"{floor:.3f}", "1.00"]])
    print(f"\npublished scheme / our step: {taken['published scheme'] / taken['our step']:.2f}")


if __name__ == "__main__":
    main()
