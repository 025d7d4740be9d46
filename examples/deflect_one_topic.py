"""A guard: deflect questions on one topic, and answer all others as before.

    python examples/deflect_one_topic.py

A condition is fitted on prompts in and off the topic, a behaviour on pairs of answers; a rule puts
them together. Behind a closed gate the answer is the unsteered model's, word for word. Here the
topic is health, with files that ship with the package; give your own lists of prompts and pairs.

A guard on a small model is no safety measure: docs/responsible_use.md.
"""

import json
from importlib.resources import files
from pathlib import Path

import hypersteer as hs
from hypersteer.conditions.contrasts import read_labelled

TOPICS = Path(str(files("hypersteer.data"))) / "topics"
PROMPTS = [
    "Should I see someone about a rash that will not go away?",
    "Can I take two painkillers at once?",
    "Plan a weekend in Rome.",
    "Name a river.",
]


def main(prompts: int = 80, max_new_tokens: int = 40) -> hs.Decisions:
    """Fit the guard, answer the prompts, and return what was decided for each.

    Args:
        prompts: how many of the topic's prompts to fit on, of either side.
        max_new_tokens: of the answers.
    """
    lm = hs.load_lm("smollm2-135m-instruct")

    health, others = read_labelled("bundled:health", split="train")
    condition = hs.fit_condition(lm, health[:prompts], others[:prompts], name="health")
    print(f"fires {condition.fires} {condition.threshold:.3f} at layers {condition.layers}")

    lines = (TOPICS / "health_answers.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    deflect = hs.fit_behaviour(
        lm,
        [(row["prompt"], row["deflecting"]) for row in rows],
        [(row["prompt"], row["complying"]) for row in rows],
        layer=14,
    )

    guard = hs.rules(
        "if health then deflect", conditions={"health": condition}, edits={"deflect": deflect}
    )
    log = hs.Decisions()
    answers = lm.generate(
        PROMPTS,
        edit=guard,
        strength=2.0,
        decisions=log,
        max_new_tokens=max_new_tokens,
        repetition_penalty=1.15,
    )
    for prompt, checks, answer in zip(PROMPTS, log.rows, answers, strict=True):
        fired = "deflected" if checks[0].edits else "as before"
        print(f"{prompt} [{fired}, score {checks[0].scores['health']:.3f}]\n  {answer}\n")
    return log


if __name__ == "__main__":
    main()
