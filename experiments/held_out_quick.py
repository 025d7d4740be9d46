"""A quick look at steering on held-out concepts: 48 answers per setting, judged.

    python experiments/held_out_quick.py unsteered prompting bundled runs/mine \
        prior:16:response:0.3 --strengths 0.75 1 1.25 --show

16 held-out concepts of the bundled data, 3 bundled instructions each, 48 new tokens, temperature
0.7, bf16. A target is `unsteered`, `prompting`, a checkpoint, or `prior:LAYER:SCOPE:SIZE`: the
activation prior alone, with no training, SIZE times as large as the site's typical state. Standard
errors are about 0.07; for figures to report see experiments/held_out_cpu.toml.
"""

import argparse
import random
from typing import NamedTuple

import torch

import hypersteer as hs
from hypersteer.config import HypernetConfig
from hypersteer.data.sources import load_concepts
from hypersteer.engine.decoding import Decoding
from hypersteer.engine.generate import generate_ids
from hypersteer.engine.requests import as_request
from hypersteer.evaluation.protocol import load_instructions
from hypersteer.hypernet.activation_prior import read_concept_states
from hypersteer.hypernet.network import new_hypernet
from hypersteer.judges.judge import Answer, Judgement
from hypersteer.judges.likelihood import LikelihoodJudge
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import PromptIds
from hypersteer.lm.messages import prompted
from hypersteer.lm.writers import Writer, vector_writer

CONCEPTS, PROMPTS = 16, 3


class Pair(NamedTuple):
    """A held-out concept and an instruction."""

    concept: str
    instruction: str


def pairs(count: int) -> list[Pair]:
    """The same ones every time for a number of concepts."""
    held_out = [c.text for c in load_concepts("bundled").concepts if c.held_out]
    concepts = random.Random(1).sample(held_out, count)
    pool = [one.text for one in load_instructions("bundled") if one.genre == "text"]
    draw = random.Random(2)
    return [Pair(concept, text) for concept in concepts for text in draw.sample(pool, PROMPTS)]


def prior_writer(lm: BaseLM, asked: list[Pair], layer: int, scope: str, size: float) -> Writer:
    """Centred states of the steering prompts, and nothing learnt."""
    site = lm.site(layer)
    usual = [c.text for c in load_concepts("bundled:wide").concepts][:300]
    config = HypernetConfig(variant="no-context", blocks=1, prior="activation")
    net = new_hypernet(lm, config, site, seed=0, texts=usual)
    assert net.prior is not None
    own = read_concept_states(lm, site, [lm.chat.text(pair.concept) for pair in asked])
    directions = torch.nn.functional.rms_norm(own - net.prior.centre, own.shape[-1:])
    return vector_writer(site, size * net.scale * directions, [scope] * len(asked))  # type: ignore[list-item]


def writers_of(lm: BaseLM, target: str, asked: list[Pair]) -> list[Writer]:
    """What steers, at strength 1."""
    if target.startswith("prior:"):
        _, layer, scope, size = target.split(":")
        return [prior_writer(lm, asked, int(layer), scope, float(size))]
    steerer = hs.load(target, lm=lm)
    texts = [pair.concept for pair in asked]
    return steerer.writers(as_request(lm, [pair.instruction for pair in asked], texts, 1.0))


def answers(lm: BaseLM, target: str, asked: list[Pair], strengths: list[float]) -> list[list[str]]:
    """Answers by strength; one list where there is nothing to strengthen."""
    plain = target in ("unsteered", "prompting")
    texts = [
        prompted(one.instruction, one.concept) if target == "prompting" else one.instruction
        for one in asked
    ]
    prompts: list[PromptIds] = [lm.chat.prompt(text) for text in texts]
    copies = 1 if plain else len(strengths)
    seeds = tuple(range(len(asked))) * copies
    decoding = Decoding(max_new_tokens=48, temperature=0.7, seed=seeds)
    writers = [] if plain else writers_of(lm, target, asked)
    ids = generate_ids(lm, prompts, writers, decoding, None if plain else strengths)
    found = [lm.chat.decode(one) for one in ids]
    return [found[i * len(asked) : (i + 1) * len(asked)] for i in range(copies)]


def main() -> None:
    """Answer, judge, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="+")
    parser.add_argument("--strengths", nargs="+", type=float, default=[0.75, 1.0, 1.25])
    parser.add_argument("--concepts", type=int, default=CONCEPTS, help="held-out concepts (40)")
    parser.add_argument("--show", action="store_true", help="print every third answer")
    given = parser.parse_args()
    lm = hs.load_lm("smollm2-135m-instruct", dtype="bfloat16")
    judge, asked = LikelihoodJudge(lm), pairs(given.concepts)
    print("| target | strength | overall | concept | instruction | fluency |")
    print("|---|---|---|---|---|---|")
    for target in given.targets:
        by_strength = answers(lm, target, asked, given.strengths)
        strengths = given.strengths if len(by_strength) > 1 else [None]
        for strength, texts in zip(strengths, by_strength, strict=False):
            judged = judge.judge(
                [Answer(*pair, text) for pair, text in zip(asked, texts, strict=True)]
            )
            scores = [
                (j.overall, j.concept.score, j.instruction.score, j.fluency.score)
                for j in judged
                if isinstance(j, Judgement)
            ]
            means = torch.tensor(scores).mean(0).tolist()
            shown = " | ".join(f"{mean:.3f}" for mean in means)
            print(
                f"| {target} | {strength if strength is not None else ''} | {shown} |", flush=True
            )
            if given.show:
                for pair, text in list(zip(asked, texts, strict=True))[::3]:
                    print(f"    {pair.concept} | {pair.instruction} | {' '.join(text.split())}")


if __name__ == "__main__":
    main()
