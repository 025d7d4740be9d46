"""Pairs of answers for readers, blind: prompting, and a checkpoint beside the prompt at strength 1.

    python experiments/reader_pairs.py bundled --out runs/pairs                 # held-out concepts
    python experiments/reader_pairs.py bundled --out runs/own --own             # README's question
    python experiments/reader_pairs.py bundled --out runs/pairs --count         # what readers said

Writes `pairs.jsonl` (concept, instruction, answers A and B, sides shuffled) and `key.json`, which
no reader opens. A reader writes `labels_NAME.jsonl`, a line for each pair:
{"id": 0, "A": {"concept": 0|1|2, "first": 0|1, "text": 0|1|2}, "B": {...}}: concept 2 is seen
plainly, 1 a hint; first, plain in the first sentence; text 2 whole, 1 flawed, 0 broken.
"""

import argparse
import json
import random
from collections import Counter
from pathlib import Path

from held_out import asked_of, held_out_concepts, load_steerer

from hypersteer.lm.messages import prompted

OWN = Path(__file__).with_name("own_prompts.txt")
QUESTION = "Tell me about your day."
SIDES = ("prompting", "steered")


def held_out(count: int) -> list[tuple[str, str]]:
    """Pairs of a held-out concept and an instruction, three of each concept, shuffled."""
    asked = asked_of(held_out_concepts(), 3, 9)
    random.Random(5).shuffle(asked)
    return asked[:count]


def write(out: Path, checkpoint: str, asked: list[tuple[str, str]]) -> None:
    """Answer both ways, shuffle the sides, write."""
    steerer = load_steerer(checkpoint)
    options = {"max_new_tokens": 64, "repetition_penalty": 1.15}
    told = steerer.generate([prompted(text, steer) for steer, text in asked], **options)
    steered = steerer.generate(
        [text for _, text in asked], steer=[steer for steer, _ in asked], **options
    )
    draw, key, pairs = random.Random(7), [], []
    for number, ((steer, text), *answers) in enumerate(zip(asked, told, steered, strict=True)):
        order = [0, 1] if draw.random() >= 0.5 else [1, 0]
        key.append({"id": number, "A": SIDES[order[0]], "B": SIDES[order[1]]})
        shown = {"A": answers[order[0]], "B": answers[order[1]]}
        pairs.append({"id": number, "concept": steer, "instruction": text, **shown})
    out.mkdir(parents=True, exist_ok=True)
    (out / "key.json").write_text(json.dumps(key))
    lines = (json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs)
    (out / "pairs.jsonl").write_text("".join(lines), encoding="utf-8")


def count(out: Path) -> None:
    """Print what each reader said of both methods."""
    key = {one["id"]: one for one in json.loads((out / "key.json").read_text())}
    for file in sorted(out.glob("labels_*.jsonl")):
        labels = [json.loads(line) for line in file.read_text().splitlines() if line.strip()]
        found: dict[str, Counter] = {side: Counter() for side in SIDES}
        for one in labels:
            for side in "AB":
                said, counts = one[side], found[key[one["id"]][side]]
                counts["plain"] += said["concept"] == 2
                counts["trace"] += said["concept"] >= 1
                counts["first"] += said["first"]
                counts[("broken", "flawed", "whole")[said["text"]]] += 1
        print(f"{file.name}: {len(labels)} pairs")
        for side, counts in found.items():
            print(f"  {side}: {dict(counts)}")


def main() -> None:
    """Write pairs, or count."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint")
    parser.add_argument("--out", type=Path, default=Path("runs/pairs"))
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--own", action="store_true", help="steering prompts of own_prompts.txt")
    parser.add_argument("--count", action="store_true", help="count labels instead")
    given = parser.parse_args()
    if given.count:
        count(given.out)
    elif given.own:
        write(
            given.out,
            given.checkpoint,
            [(text, QUESTION) for text in OWN.read_text().split("\n") if text],
        )
    else:
        write(given.out, given.checkpoint, held_out(given.pairs))


if __name__ == "__main__":
    main()
