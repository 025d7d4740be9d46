"""Single answers for readers, blind to the method: prompting, and checkpoints used in several ways.

    python experiments/reader_answers.py bundled runs/plain --out runs/answers
    python experiments/reader_answers.py --out runs/answers --count         # what readers said

Of each checkpoint: its edit for the concept beside the prompt, another held-out concept's edit
beside the right words, and its edit alone. Writes `answers.jsonl` (concept, instruction, answer;
shuffled) and `key.json`, which no reader opens. A reader writes `labels_NAME.jsonl`, a line for
each answer: {"id": 0, "concept": 0|1|2, "first": 0|1, "answers": 0|1|2, "text": 0|1|2}: concept 2
is seen plainly, 1 a hint; first, plain in the first sentence; answers, what was asked is answered
(2), partly (1), not (0); text 2 whole, 1 flawed, 0 broken.
"""

import argparse
import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from held_out import asked_of, held_out_concepts, load_steerer

from hypersteer.lm.messages import prompted
from hypersteer.stats import bootstrap

OPTIONS = {"max_new_tokens": 64, "repetition_penalty": 1.15}


WAYS = ("own", "another's", "alone")


def write(out: Path, checkpoints: list[str], count: int, ways: Sequence[str] = WAYS) -> None:
    """Answer in every way, shuffle, write."""
    asked = asked_of(held_out_concepts(), 1, 13)[:count]
    texts, steers = [text for _, text in asked], [steer for steer, _ in asked]
    half = len(steers) // 2
    others = steers[half:] + steers[:half]
    said = [prompted(text, steer) for steer, text in asked]
    arms: dict[str, Sequence[str]] = {}
    for name in checkpoints:
        steerer = load_steerer(name)
        if "prompting" not in arms:
            arms["prompting"] = steerer.generate(said, **OPTIONS)
        given = {"own": (said, steers), "another's": (said, others), "alone": (texts, steers)}
        for way in ways:
            prompts, edits = given[way]
            arms[f"{name}, {way}"] = steerer.generate(
                prompts, steer=edits, prompted=False, **OPTIONS
            )
    rows = [
        (arm, steer, text, answer)
        for arm, answers in arms.items()
        for (steer, text), answer in zip(asked, answers, strict=True)
    ]
    random.Random(3).shuffle(rows)
    out.mkdir(parents=True, exist_ok=True)
    key = {str(number): arm for number, (arm, *_) in enumerate(rows)}
    (out / "key.json").write_text(json.dumps(key))
    lines = (
        json.dumps(
            {"id": number, "concept": steer, "instruction": text, "answer": answer},
            ensure_ascii=False,
        )
        for number, (_, steer, text, answer) in enumerate(rows)
    )
    (out / "answers.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def count(out: Path) -> None:
    """Print what each reader said of every way, and own less another's edit, by concept."""
    key = json.loads((out / "key.json").read_text())
    asked = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
    for file in sorted(out.glob("labels_*.jsonl")):
        found: dict[str, Counter] = {}
        scores: dict[str, dict[str, int]] = {}
        for line in filter(str.strip, file.read_text().splitlines()):
            one = json.loads(line)
            arm = key[str(one["id"])]
            counts = found.setdefault(arm, Counter())
            counts["answers"] += 1
            counts["plain"] += one["concept"] == 2
            counts["trace"] += one["concept"] >= 1
            counts["first"] += one["first"]
            counts["asked"] += one["answers"] == 2
            counts[("broken", "flawed", "whole")[one["text"]]] += 1
            scores.setdefault(arm, {})[asked[one["id"]]["concept"]] = one["concept"]
        print(file.name)
        for arm in sorted(found):
            print(f"  {arm}: {dict(found[arm])}")
        for arm in [arm for arm in scores if arm.endswith(", own")]:
            rivals = {"prompting", arm.replace(", own", ", another's")} & scores.keys()
            for rival in sorted(rivals):
                both = scores[arm].keys() & scores[rival].keys()
                apart = bootstrap([scores[arm][one] - scores[rival][one] for one in sorted(both)])
                print(
                    f"  concept label, {arm} less {rival}: {apart.mean:+.2f} "
                    f"[{apart.low:+.2f}, {apart.high:+.2f}]"
                )


def main() -> None:
    """Write answers, or count."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoints", nargs="*")
    parser.add_argument("--out", type=Path, default=Path("runs/answers"))
    parser.add_argument("--concepts", type=int, default=40)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--count", action="store_true", help="count labels instead")
    given = parser.parse_args()
    if given.count:
        count(given.out)
    else:
        write(given.out, given.checkpoints or ["bundled"], given.concepts, given.ways)


if __name__ == "__main__":
    main()
