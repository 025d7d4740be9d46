"""Train a head to write conditions from words."""

import math
import random
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from hypersteer.conditions.contrasts import Watch
from hypersteer.conditions.described import CONCEPT
from hypersteer.conditions.head import ABOUT, ConditionHead
from hypersteer.conditions.lessons import Lesson
from hypersteer.config.conditions import HeadConfig
from hypersteer.errors import DataError

SMALLEST_SCALE = 1e-3
RARE = ("topic", "safety")
"""Kinds of conditions of which a text that was written for another one is hardly ever true."""
FAR = 0.85
"""Share of the other conditions that count as far off: those whose texts are least like its own."""
ASIDE = 20
"""One in so many conditions is put aside."""
CLIP = 1.0
"""Largest norm of a step's gradient, for each of the head's networks."""


def teach_head(
    lessons: Sequence[Lesson],
    config: HeadConfig | None = None,
    *,
    base_lm: str = "",
    watch: Watch | None = None,
) -> ConditionHead:
    """Train a head on conditions that are not held out.

    One condition in twenty is put aside, so that budgets of false positives are set by texts that
    nothing was learnt from; none of those that are concepts (`described_concepts`). A step takes
    some of the others, each in one of its wordings, and asks of every text of theirs whether the
    condition holds (logistic loss; the wordings of a condition take turns). Of a topic or a matter
    of safety it asks the same of texts of far-off conditions.

    Args:
        lessons: conditions, read by `read_lessons` with the same settings; held-out ones are
            passed over.
        config: sizes, and how to train.
        base_lm: identity of the base LM that read them.
        watch: told the step, and how many there are.

    Raises:
        DataError: if none are left to train on.
    """
    config = config or HeadConfig()
    usable = [one for one in lessons if not one.described.held_out]
    if not usable:
        raise DataError("there are no conditions to train on; those that are held out do not count")
    concepts = [one for one in usable if one.described.kind == CONCEPT]
    usable = [one for one in usable if one.described.kind != CONCEPT]
    every = ASIDE if config.kept else len(usable) + 1
    aside = usable[every - 1 :: every]
    taught = [one for number, one in enumerate(usable, start=1) if number % every] + concepts
    torch.manual_seed(config.seed)
    chosen = random.Random(config.seed)
    head = ConditionHead(taught[0].words.shape[-1], config, base_lm)
    _settle_scales(head, taught)
    _keep(head, aside)
    far = far_off(head, taught) if config.others else []
    decayed = [weight for weight in head.parameters() if weight.ndim > 1]
    free = [weight for weight in head.parameters() if weight.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": config.weight_decay}, {"params": free}],
        lr=config.learning_rate,
        weight_decay=0.0,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda at: _rate(at, config.steps))
    head.train()
    for step in range(config.steps):
        some = chosen.sample(range(len(taught)), min(config.conditions, len(taught)))
        loss = _loss(head, taught, some, far, chosen)
        optimizer.zero_grad()
        loss.backward()
        for member in head.members:
            torch.nn.utils.clip_grad_norm_(member.parameters(), CLIP)
        optimizer.step()
        schedule.step()
        if watch is not None:
            watch(step + 1, config.steps)
    return head.eval().requires_grad_(False)


def _loss(
    head: ConditionHead,
    taught: Sequence[Lesson],
    some: Sequence[int],
    far: Sequence[Sequence[int]],
    chosen: random.Random,
) -> Tensor:
    """Return the mean logistic loss over the texts of some conditions, and of far-off ones.

    The losses of the head's networks are added, so that each learns as if it were alone.
    """
    lessons = [taught[place] for place in some]
    words = torch.stack([one.words[chosen.randrange(len(one.words))] for one in lessons])
    each = head.each(words)
    directions = torch.stack([one.directions for one in each])
    offsets, slopes = (
        torch.stack([getattr(one, name) for one in each])[..., None]
        for name in ("offsets", "slopes")
    )
    losses = []
    for number, (place, one) in enumerate(zip(some, lessons, strict=True)):
        texts, inside = one.texts, one.inside.float()
        if far and far[place]:
            others = [taught[chosen.choice(far[place])].texts for _ in range(head.config.others)]
            drawn = torch.stack([other[chosen.randrange(len(other))] for other in others])
            texts = torch.cat([texts, drawn])
            inside = torch.cat([inside, inside.new_zeros(len(drawn))])
        read = directions[:, number, None].expand(-1, len(texts), -1, -1)
        # Dropped of a direction, text by text, so that what it stands on is spread over the states.
        read = F.dropout(read, head.config.read_dropout)
        scores = head.scores(read, texts, one.described.about)
        logits = scores * slopes[:, number] + offsets[:, number]
        wrong = F.binary_cross_entropy_with_logits(logits, inside.expand_as(logits))
        losses.append(len(each) * wrong)
    return torch.stack(losses).mean()


def far_off(head: ConditionHead, taught: Sequence[Lesson]) -> list[list[int]]:
    """Return, for each condition that is rarely true, which others are far off; else none.

    Told by the cosine between the mean states of the texts that the two are true of.

    Args:
        head: says what states are centred at and divided by.
        taught: conditions about the prompt or the answer; far off are only others of its sort.
    """
    about = torch.tensor([ABOUT.index(one.described.about) for one in taught])
    means = torch.stack([one.texts[one.inside].mean(0) for one in taught])
    centred = ((means - head.means[about]) / head.scales[about]).flatten(1)
    likeness = F.normalize(centred, dim=-1) @ F.normalize(centred, dim=-1).T
    found: list[list[int]] = []
    for place, one in enumerate(taught):
        if one.described.kind not in RARE:
            found.append([])
            continue
        ranked = likeness[place].argsort(stable=True)
        same = ranked[(about[ranked] == about[place]) & (ranked != place)]
        found.append(same[: int(FAR * len(same))].tolist())
    return found


def _settle_scales(head: ConditionHead, lessons: Sequence[Lesson]) -> None:
    """Set what states are centred at and divided by: mean and spread of what is trained on."""
    words = torch.cat([one.words for one in lessons])
    head.words_mean.copy_(words.mean(0))
    head.words_scale.copy_(words.std(0).clamp_min(SMALLEST_SCALE))
    for kind, about in enumerate(ABOUT):
        texts = [one.texts for one in lessons if one.described.about == about]
        if texts:
            states = torch.cat(texts)
            head.means[kind].copy_(states.mean(0))
            head.scales[kind].copy_(states.std(0).clamp_min(SMALLEST_SCALE))


def _keep(head: ConditionHead, aside: Sequence[Lesson]) -> None:
    """Keep texts of conditions that were put aside, as many of each as the next."""
    for about in ABOUT:
        own = [one.texts for one in aside if one.described.about == about]
        if own:
            states = torch.cat(own)
            places = torch.linspace(0, len(states) - 1, min(head.config.kept, len(states)))
            setattr(head, f"kept_{about}", states[places.round().long()].half().float())


def _rate(step: int, steps: int) -> float:
    """Return the share of the peak rate at a step."""
    rising = max(1, steps // 10)
    return min(1.0, (step + 1) / rising) * 0.5 * (1 + math.cos(math.pi * step / steps))
