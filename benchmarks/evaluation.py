"""What an evaluation's answers cost: several strengths at once, against plain decoding.

    python benchmarks/evaluation.py [--dtype bfloat16] [--concepts 2] [--prompts 6] [--strengths 6]

`plain` decodes as many rows with the unsteered base LM. `all strengths` makes the vectors inside
the prefill with a cross-attention hypernetwork and decodes every prompt at every strength;
`with likelihoods` adds the likelihood of every answer under the base LM, as an evaluation does.
All generate the same number of tokens (no end of turn), at temperature 0.7.
"""

import argparse

import torch

from hypersteer.config import HypernetConfig
from hypersteer.data.sources import load_concepts
from hypersteer.engine.decoding import Decoding
from hypersteer.engine.generate import generate_ids
from hypersteer.evaluation.protocol import load_instructions, pick_instructions
from hypersteer.hypernet.maker import write_edits
from hypersteer.hypernet.network import new_hypernet
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import Spans
from hypersteer.lm.likelihood import in_batches, response_token_losses
from hypersteer.lm.load import load_lm
from hypersteer.lm.writers import vector_writer
from timing import machine, medians, table


def jobs(lm: BaseLM, concepts: int, prompts: int, strengths: int, new_tokens: int) -> dict:
    """The ways to answer the prompts of some concepts."""
    pool = [entry.text for entry in load_instructions("bundled")]
    chosen = load_concepts("bundled").concepts[:concepts]
    asked = [
        (lm.chat.prompt(text), lm.chat.text(concept.text))
        for concept in chosen
        for text in pick_instructions(pool, concept.id, prompts)
    ]
    ids, steering = [prompt for prompt, _ in asked], [text for _, text in asked]
    site = lm.site(12)
    net = new_hypernet(lm, HypernetConfig(), site, seed=0).eval().requires_grad_(False)

    def write(hidden: torch.Tensor, spans: Spans) -> torch.Tensor:
        return write_edits(net, lm, net.config, steering, ids, hidden, spans)[0]["vector"]

    def decoding(rows: int) -> Decoding:
        seeds = tuple(range(rows))
        return Decoding(max_new_tokens=new_tokens, temperature=0.7, seed=seeds)

    def steered(count: int) -> list[list[int]]:
        writer = vector_writer(site, write, ["all"] * len(ids))
        grid = [0.5 * (i + 1) for i in range(count)]
        return generate_ids(lm, ids, [writer], decoding(count * len(ids)), grid)

    def with_likelihoods() -> object:
        answers = steered(strengths)
        rows = ids * strengths
        return in_batches(
            [len(row.ids) for row in rows],
            24,
            lambda part: response_token_losses(
                lm, [rows[i] for i in part], [answers[i] for i in part]
            ),
        )

    plain = ids * strengths
    return {
        "plain": lambda: generate_ids(lm, plain, [], decoding(len(plain))),
        "all strengths": lambda: steered(strengths),
        "one strength": lambda: steered(1),
        "with likelihoods": with_likelihoods,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--concepts", type=int, default=2)
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--strengths", type=int, default=6)
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    lm = load_lm("smollm2-135m-instruct", dtype=args.dtype)
    lm.chat.end_of_turn = ()  # nobody stops early, so that all generate the same number
    made = jobs(lm, args.concepts, args.prompts, args.strengths, args.new_tokens)
    with torch.inference_mode():
        taken = medians(made, args.repeats)
    answers = args.concepts * args.prompts * args.strengths
    print(f"{machine()}; {args.dtype}; {answers} answers of {args.new_tokens} tokens\n")
    rows = []
    for way, seconds in taken.items():
        tokens = args.new_tokens * (answers // args.strengths if way == "one strength" else answers)
        rate = f"{tokens / seconds:.0f}"
        rows.append([way, f"{seconds:.2f}", rate, f"{taken['plain'] / seconds:.3f}"])
    table(["way", "seconds", "tokens/s", "plain / this"], rows)
    ratio = taken["all strengths"] / taken["one strength"]
    print(f"\n{args.strengths} strengths cost {ratio:.2f} times one strength")
    whole = 12 / args.concepts * taken["with likelihoods"] / 60
    print(f"12 concepts: {whole:.1f} minutes for one method")


if __name__ == "__main__":
    main()
