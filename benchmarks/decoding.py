"""Tokens per second of steered and unsteered decoding against Hugging Face `generate`, in one run.

    python benchmarks/decoding.py [--dtype float32] [--batch 1 8 32 64] [--repeats 5]

Every row has its own vector. `unsteered` is our code path without edits; `written` makes the
vectors inside the prefill with a cross-attention hypernetwork. All generate the same number of
tokens (no end of turn), greedily.
"""

import argparse
from typing import Any

import torch

from hypersteer.config import HypernetConfig
from hypersteer.data.sources import load_concepts
from hypersteer.engine.decoding import Decoding
from hypersteer.engine.generate import generate_ids
from hypersteer.hypernet.maker import write_edits
from hypersteer.hypernet.network import new_hypernet
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import PromptIds, Spans, collate
from hypersteer.lm.load import load_lm
from hypersteer.lm.writers import vector_writer
from timing import machine, medians, table


def jobs(lm: BaseLM, batch: int, new_tokens: int) -> dict:
    """The four ways to decode a batch of real prompts."""
    data = load_concepts("bundled")
    examples = [data.example(row * 7 % len(data)) for row in range(batch)]
    prompts = [lm.chat.prompt(example.prompt) for example in examples]
    steering = [lm.chat.text(data.concept(e.concept_id).text) for e in examples]
    site = lm.site(12)
    net = new_hypernet(lm, HypernetConfig(), site, seed=0).eval().requires_grad_(False)
    decoding = Decoding(max_new_tokens=new_tokens)
    inputs = collate(prompts, pad_id=lm.chat.pad_id, side="left")

    def write(hidden: torch.Tensor, spans: Spans) -> torch.Tensor:
        return write_edits(net, lm, net.config, steering, prompts, hidden, spans)[0]["vector"]

    vectors = write(lm.states(inputs, site), inputs.spans)

    def ours(make: object) -> list[list[int]]:
        writers = [vector_writer(site, make, ["all"] * batch)] if make is not None else []  # type: ignore[arg-type]
        return generate_ids(lm, list[PromptIds](prompts), writers, decoding)

    def hugging_face() -> torch.Tensor:
        model: Any = lm.model
        return model.generate(
            inputs.ids,
            attention_mask=inputs.spans.real.long(),
            do_sample=False,
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
        )

    return {
        "Hugging Face generate": hugging_face,
        "unsteered": lambda: ours(None),
        "steered": lambda: ours(vectors),
        "written": lambda: ours(write),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    lm = load_lm("smollm2-135m-instruct", dtype=args.dtype)
    lm.chat.end_of_turn = ()  # nobody stops early, so that all generate the same number
    print(f"{machine()}; {args.dtype}; {args.new_tokens} new tokens; tokens per second\n")
    ways = ["Hugging Face generate", "unsteered", "steered", "written"]
    table(["batch", *ways, "steered / unsteered", "steered / Hugging Face"], [])
    for batch in args.batch:
        with torch.inference_mode():
            taken = medians(jobs(lm, batch, args.new_tokens), args.repeats)
        rate = {way: batch * args.new_tokens / taken[way] for way in ways}
        ratios = (rate["steered"] / rate[way] for way in ("unsteered", "Hugging Face generate"))
        cells = [str(batch), *(f"{rate[way]:.1f}" for way in ways), *(f"{r:.3f}" for r in ratios)]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
