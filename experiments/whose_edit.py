"""Does it matter whose edit it is, where the prompt says the right steering prompt anyway?

    python experiments/whose_edit.py bundled

Held-out concepts, instructions that no training data have. The base prompt says the steering prompt
in all rows; the edit is written for it, for another held-out concept, or for a text about nothing.
The independent local judge scores them. Edits that only help to follow what is said score alike.
"""

import argparse

from held_out import asked_of, held_out_concepts, judged, load_steerer
from rich.console import Console
from rich.table import Table

from hypersteer.config import JudgeConfig
from hypersteer.judges.choose import make_judge
from hypersteer.judges.judge import DIMENSIONS
from hypersteer.lm.messages import prompted
from hypersteer.stats import bootstrap

VAGUE = "follow the instruction closely"


def main() -> None:
    """Answer three ways, judge, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint")
    parser.add_argument("--concepts", type=int, default=20)
    parser.add_argument("--prompts", type=int, default=2)
    given = parser.parse_args()
    steerer = load_steerer(given.checkpoint)
    held_out = held_out_concepts()
    spread = held_out[:: max(1, len(held_out) // given.concepts)][: given.concepts]
    asked = asked_of(spread, given.prompts, 5)
    own = [steer for steer, _ in asked]
    half = len(own) // 2
    options = {"max_new_tokens": 48, "repetition_penalty": 1.15}
    plain = steerer.generate([text for _, text in asked], **options)
    said = [prompted(text, steer) for steer, text in asked]
    judge = make_judge(JudgeConfig(kind="local"), steerer.lm)
    table = Table("the edit is for", "overall", *DIMENSIONS)
    overall = {}
    for name, steers in (
        ("the concept", own),
        ("another concept", own[half:] + own[:half]),
        (f'"{VAGUE}"', [VAGUE] * len(own)),
    ):
        texts = steerer.generate(said, steer=steers, prompted=False, **options)
        found = [verdict for _, verdict in judged(judge, asked, texts, plain)]
        scores = [[getattr(one, dimension).score for one in found] for dimension in DIMENSIONS]
        overall[name] = [one.overall for one in found]
        means = (sum(values) / len(values) for values in (overall[name], *scores))
        table.add_row(name, *(f"{mean:.3f}" for mean in means))
    Console().print(table)
    right, wrong, _ = overall.values()
    apart = bootstrap([a - b for a, b in zip(right, wrong, strict=True)])
    print(
        f"the concept's own less another's: {apart.mean:+.3f} [{apart.low:+.3f}, {apart.high:+.3f}]"
    )


if __name__ == "__main__":
    main()
