"""Making edits for many (steering prompt, base prompt) pairs: one batched pass against one by one.

python benchmarks/edit_creation.py [--pairs 64]
"""

import argparse
import tempfile
from pathlib import Path

from hypersteer.config import HypernetConfig
from hypersteer.data.sources import load_concepts
from hypersteer.hypernet.card import Card
from hypersteer.hypernet.network import new_hypernet
from hypersteer.lm.load import load_lm
from hypersteer.steering import Steerer
from timing import machine, medians, table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    lm = load_lm("smollm2-135m-instruct")
    site = lm.site(12)
    config = HypernetConfig()
    card = Card(
        base_lm=lm.name, fingerprint=lm.fingerprint, site=site, scope="all", hypernet=config
    )
    steerer = Steerer(lm, new_hypernet(lm, config, site, seed=0).eval(), card)
    data = load_concepts("bundled")
    examples = [data.example(row * 7 % len(data)) for row in range(args.pairs)]
    prompts = [example.prompt for example in examples]
    steering = [data.concept(example.concept_id).text for example in examples]
    passes: list[int] = []
    handle = lm.blocks[0].register_forward_hook(lambda *_: passes.append(1))
    edits = steerer.edit(steering, prompts)
    handle.remove()
    jobs = {
        "one batched pass": lambda: steerer.edit(steering, prompts),
        "one by one": lambda: [
            steerer.edit(s, prompt=p) for s, p in zip(steering, prompts, strict=True)
        ],
    }
    taken = medians(jobs, args.repeats)
    with tempfile.TemporaryDirectory() as folder:
        size = edits[0].save(Path(folder) / "edit.safetensors").stat().st_size
    print(f"{machine()}; {args.pairs} pairs; passes through the base LM: {len(passes)}\n")
    rows = [
        [name, f"{seconds:.3f}", f"{args.pairs / seconds:.1f}"] for name, seconds in taken.items()
    ]
    table(["way", "seconds", "edits/s"], rows)
    print(f"\nan edit is a file of {size} bytes")


if __name__ == "__main__":
    main()
