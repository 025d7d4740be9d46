"""What untrained hypernetworks do to the loss of a base LM, and in which unit they write.

    python experiments/first_edits.py --lm smollm2-135m-instruct

An untrained network should leave the loss about where it was, on any base LM. The unit is the
typical size of the hidden states at the site; beside it stands their root mean square, which a few
massive dimensions decide.
"""

import argparse

import torch

import hypersteer as hs
from hypersteer.config import HypernetConfig
from hypersteer.data.sources import load_concepts
from hypersteer.edits.sites import Site
from hypersteer.hypernet.network import CALIBRATION, new_hypernet
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import collate
from hypersteer.training.forward import Steered, plain_losses, steered_losses

CONCEPTS = (0, 1, 2, 5, 9, 12)
"""Bundled concepts, one answer each."""

TOKENS = 64
"""Tokens of an answer that count."""


@torch.no_grad()
def root_mean_square(lm: BaseLM, site: Site) -> float:
    """Median over the tokens of some text."""
    batch = collate([lm.chat.prompt(CALIBRATION)], pad_id=lm.chat.pad_id).to(lm.device)
    states = lm.states(batch, site)[batch.spans.prompt].float()
    return float(states.pow(2).mean(-1).sqrt().median())


@torch.no_grad()
def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lm", default="smollm2-135m-instruct")
    parser.add_argument("--blocks", type=int, default=2)
    args = parser.parse_args()
    lm, data = hs.load_lm(args.lm), load_concepts("bundled")
    site = lm.site()
    examples = data.examples([int(data.rows(concept)[0]) for concept in CONCEPTS])
    prompts = [lm.chat.prompt(example.prompt) for example in examples]
    responses = [lm.chat.response(example.response)[:TOKENS] for example in examples]
    steering = [lm.chat.text(data.concept(concept).text) for concept in CONCEPTS]
    print(f"{lm.name}, {site}: root mean square {root_mean_square(lm, site):.4g}")
    print(f"unsteered loss {float(plain_losses(lm, prompts, responses).mean()):.3f}\n")
    print("| variant | prior | unit | dimensions scaled down | first loss |\n|---|---|---|---|---|")
    for variant in ("cross-attention", "in-context", "no-context"):
        for prior in ("none", "activation"):
            config = HypernetConfig(variant=variant, prior=prior, blocks=args.blocks)
            network = new_hypernet(lm, config, site, seed=0)
            setup = Steered(lm, network, config, [site], "all")
            loss = steered_losses(setup, prompts, responses, [steering]).mean()
            scaled = int((network.excess > 1).sum())
            unit = float(network.scale)
            print(f"| {variant} | {prior} | {unit:.3g} | {scaled} | {float(loss):.3f} |")


if __name__ == "__main__":
    main()
