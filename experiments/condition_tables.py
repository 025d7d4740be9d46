"""What a head's conditions do on the bundled conditions that none is trained on.

    python experiments/condition_tables.py
    python experiments/condition_tables.py --lm qwen2.5-coder-0.5b-instruct --dtype bfloat16

Three tables: how well conditions tell their texts apart, by kind; what a budget of false positives
keeps, on texts of far-off conditions; and what fires in conversations of two messages.
"""

import argparse
import random
import sys
from collections.abc import Sequence

import torch
from condition_rivals import told

import hypersteer as hs
from hypersteer.conditions.contrasts import read_states
from hypersteer.conditions.described import Described, read_described
from hypersteer.conditions.head import ConditionHead, head_for
from hypersteer.conditions.head_measures import mean_of, measure_head
from hypersteer.conditions.lessons import Lesson, read_lessons
from hypersteer.conditions.teach import RARE, far_off
from hypersteer.lm.chat import collate
from hypersteer.lm.pooling import pooled_states
from hypersteer.progress import ProgressBar

ANSWERS = (
    "Sure. It depends on what you have at hand, and on how much time there is.",
    "That is a good question. The simplest way is mostly the best, so begin there.",
)
BUDGETS = (None, 0.05, 0.02)
MESSAGES = 4
"""Texts of a condition on either side that conversations are made of."""


def by_kind(head: ConditionHead, lessons: Sequence[Lesson]) -> None:
    """Print how well conditions tell their own texts apart."""
    measured = measure_head(head, lessons)
    print("| kind | conditions | AUROC | F1 | near misses that fire | others that fire |")
    print("|---" * 6 + "|")
    for kind in (*sorted({one.kind for one in measured}), "all"):
        some = [one for one in measured if kind in ("all", one.kind)]
        cells = [told(mean_of(some, name)) for name in ("auroc", "f1", "near", "off")]
        print(f"| {kind} | {len(some)} | " + " | ".join(cells) + " |")


def budgets(head: ConditionHead, lessons: Sequence[Lesson]) -> None:
    """Print what a budget of false positives keeps, of conditions that are rarely true."""
    print("\n| budget | others that fire | above it | worst | inside that fire | near misses |")
    print("|---" * 6 + "|")
    far = far_off(head, lessons)
    rare = [
        (one, torch.cat([lessons[place].texts for place in places]))
        for one, places in zip(lessons, far, strict=True)
        if one.described.kind in RARE
    ]
    for budget in BUDGETS:
        print(within(head, rare, budget), flush=True)
    pairs = sum(len(texts) for _, texts in rare)
    print(f"\n{pairs:,} pairs of {len(rare)} conditions with texts of far-off ones")


def within(
    head: ConditionHead, rare: Sequence[tuple[Lesson, torch.Tensor]], budget: float | None
) -> str:
    """Return the line of one budget: of conditions, each with texts of far-off ones."""
    others: list[float] = []
    own: list[float] = []
    near: list[float] = []
    for one, texts in rare:
        limit = -float("inf")
        if budget is not None:
            directions = head(one.words[:1]).directions[0]
            limit = head.budget(directions, one.described.about, budget)
        others.append(float(fires(head, one, texts, limit).mean()))
        fired = fires(head, one, one.texts, limit)
        own.append(float(fired[one.inside].mean()))
        if bool(one.near.any()):
            near.append(float(fired[one.near].mean()))
    above = "" if budget is None else str(sum(share > budget for share in others))
    means = [sum(found) / len(found) for found in (others, own, near)]
    cells = [f"{means[0]:.1%}", above, f"{max(others):.1%}", f"{means[1]:.0%}", f"{means[2]:.0%}"]
    return f"| {budget or 'none'} | {' | '.join(cells)} |"


def fires(head: ConditionHead, one: Lesson, texts: torch.Tensor, limit: float) -> torch.Tensor:
    """Return of which texts a condition in its first wording fires, as 0 or 1."""
    written = head(one.words[:1])
    least = max(0.0, float(limit * written.slopes + written.offsets))
    return (head.logits(written, texts, one.described.about) > least).float()


@torch.no_grad()
def conversations(lm: hs.BaseLM, held_out: Sequence[Described]) -> None:
    """Print what fires after two messages, read in three ways."""
    draw = random.Random(0)
    found: dict[tuple[str, str], list[float]] = {}
    about_prompts = [one for one in held_out if one.about == "prompt"]
    with ProgressBar("conversations", len(about_prompts)) as bar:
        for one in about_prompts:
            condition = hs.condition(one.condition, lm=lm)
            inside = draw.sample(list(one.inside), min(MESSAGES, len(one.inside)))
            off = draw.sample(list(one.off), min(MESSAGES, len(one.off)))
            kinds = {
                "about something else after a message inside": zip(inside, off, strict=False),
                "inside after a message about something else": zip(off, inside, strict=False),
                "inside twice": zip(inside, inside[1:] + inside[:1], strict=True),
                "about other things twice": zip(off, off[1:] + off[:1], strict=True),
            }
            for kind, pairs in kinds.items():
                told_so = [(a, draw.choice(ANSWERS), b) for a, b in pairs]
                for way, share in shares(lm, condition, told_so).items():
                    found.setdefault((kind, way), []).append(share)
            bar.advance(1)
    ways = list(dict.fromkeys(way for _, way in found))
    print("\n| conversation | " + " | ".join(ways) + " |")
    print("|---" * (1 + len(ways)) + "|")
    for kind in dict.fromkeys(kind for kind, _ in found):
        means = [sum(found[kind, way]) / len(found[kind, way]) for way in ways]
        print(f"| {kind} | " + " | ".join(f"{mean:.2f}" for mean in means) + " |")


def shares(
    lm: hs.BaseLM, condition: hs.Condition, talks: Sequence[tuple[str, str, str]]
) -> dict[str, float]:
    """Return the share of conversations that fire, by what of them is read."""
    roles = ("user", "assistant", "user")
    messages = [
        [{"role": role, "content": text} for role, text in zip(roles, talk, strict=True)]
        for talk in talks
    ]
    batch = collate([lm.chat.prompt(one) for one in messages], pad_id=lm.chat.pad_id)
    alone = read_states(lm, [talk[-1] for talk in talks], condition.layers, "turn")
    states = {
        "whole conversation": pooled_states(lm, batch, condition.layers, "prompt"),
        "last message in its place": pooled_states(lm, batch, condition.layers, "turn"),
        "last message alone": alone,
    }
    return {
        way: float(
            condition.passed(
                condition.score(dict(zip(condition.layers, read.unbind(1), strict=True)))
            )
            .float()
            .mean()
        )
        for way, read in states.items()
    }


def main() -> None:
    """Read, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lm", default="smollm2-135m-instruct", help="whose head is measured")
    parser.add_argument("--dtype", help="arithmetic of the base LM; by default float32")
    given = parser.parse_args()
    lm = hs.load_lm(given.lm, dtype=given.dtype)
    _, head = head_for(lm)
    held_out = [one for one in read_described() if one.held_out]
    with ProgressBar("reading texts", None) as bar:
        lessons = read_lessons(lm, held_out, head.config, bar.update)
    by_kind(head, lessons)
    budgets(head, lessons)
    conversations(lm, held_out)


if __name__ == "__main__":
    sys.exit(main())
