"""`hypersteer demo`: train a small hypernetwork on the bundled data, and see it steer."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from hypersteer.cli.options import OptionalText, Sampling, parse
from hypersteer.config import (
    DataConfig,
    HypernetConfig,
    LMConfig,
    LossConfig,
    OptimConfig,
    SiteConfig,
    TrainConfig,
)

if TYPE_CHECKING:
    from hypersteer.steering import Steerer

STEPS = 80
BUNDLED = 248
"""Bundled concepts, numbered from 0."""
LEARNT = tuple(id_ for id_ in range(28) if id_ not in (3, 13, 18, 23))
"""Bundled concepts that the demo learns: few enough that 80 steps show something."""
STRENGTH = 1.4
DECODING = {
    "max_new_tokens": 60,
    "temperature": 0.7,
    "top_p": 0.9,
    "repetition_penalty": Sampling().repetition_penalty,
    "seed": 1,
}
SHOWN = (
    ("How do I make a cup of tea?", "talk like a pirate"),
    ("What should I cook tonight?", "answer as a numbered list"),
    ("What should I do when it rains?", "speak as a cowboy from the old West"),
    ("How do I clean a window?", "speak like a medieval knight"),
)
"""Prompts, none of them in the bundled data, and steering prompts; the last one is held out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """The base LM."""

    lm: str = LMConfig().name
    """Alias, Hugging Face id, local folder, or .gguf file."""
    device: OptionalText = None
    """cpu, cuda, cuda:1 or mps; by default the best there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """Train a small hypernetwork on the bundled data, and see it steer beside the shipped one.

    Takes some minutes on a laptop CPU. If it is cut off, the same command goes on; once it has
    finished, the same command goes straight to the answers.

    Examples:
      hypersteer demo
      hypersteer demo --out runs/longer --steps 300
    """

    out: str = "runs/demo"
    """Folder for checkpoints and metrics."""
    steps: int = STEPS
    """Optimizer steps."""
    seed: int = 42
    """Everything random follows from it."""
    model: Annotated[Model, arg(name="")] = field(default_factory=Model)


def demo_config(
    out: str = "runs/demo",
    steps: int = STEPS,
    *,
    seed: int = 42,
    lm: str = LMConfig().name,
    device: str | None = None,
) -> TrainConfig:
    """Return the demo's recipe: cross-attention, small enough for a laptop CPU.

    Args:
        out: folder for checkpoints and metrics.
        steps: optimizer steps.
        seed: everything random follows from it.
        lm: base LM; the site is tuned for the default one.
        device: where to train.
    """
    return TrainConfig(
        out=out,
        seed=seed,
        base_lm=LMConfig(name=lm, device=device),
        site=SiteConfig(layer=12 if lm == LMConfig().name else None),
        hypernet=HypernetConfig(variant="cross-attention", blocks=4),
        data=DataConfig(
            source=("bundled",),
            held_out_concepts=tuple(id_ for id_ in range(BUNDLED) if id_ not in LEARNT),
            held_in_prompts=1,
            max_validation_rows=40,
            max_response_tokens=96,
        ),
        loss=LossConfig(contrast=2.0),
        optim=OptimConfig(steps=steps, batch_size=8, learning_rate=3e-4, warmup_steps=10),
        validate_every=40,
        checkpoint_every=40,
    )


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    args = parse(Demo, argv, "demo")
    model = args.model
    config = demo_config(args.out, args.steps, seed=args.seed, lm=model.lm, device=model.device)

    from hypersteer.cli.show import notice, print_next
    from hypersteer.steering import load
    from hypersteer.training.loop import train

    if _finished(config):
        notice(f"'{args.out}' holds the finished run; delete that folder to train anew")
    else:
        notice(f"training for {args.steps} steps; Ctrl-C stops, the same command goes on")
        train(config)
    steerer = load(args.out, device=model.device)
    _show(steerer)
    print(f"checkpoint, model card and metrics: {args.out}")
    print_next(args.out, SHOWN[0][1])


def _finished(config: TrainConfig) -> bool:
    """Return whether the folder holds the last checkpoint of just this run.

    Raises:
        ConfigError: if it holds a run with other settings.
    """
    from hypersteer.hypernet.card import read_card
    from hypersteer.training.state import RunFolder

    newest = RunFolder(config).newest()
    return newest is not None and read_card(newest).step >= config.optim.steps


def _show(steerer: "Steerer") -> None:
    """Print answers to prompts that were not in training, side by side."""
    from hypersteer.cli.show import ShownPrompt, compare, print_answers

    questions = [ShownPrompt(prompt, steering, STRENGTH) for prompt, steering in SHOWN]
    found = compare(steerer, questions, DECODING)
    shipped = _shipped(steerer)
    if shipped is not None:
        at_one = [question._replace(strength=1.0) for question in questions]
        beside = compare(shipped, at_one, DECODING)
        found = [a._replace(shipped=b.steered) for a, b in zip(found, beside, strict=True)]
    trained = steerer.card.concepts
    for question, answers in zip(questions, found, strict=True):
        known = question.steering_prompt in trained
        print_answers(question, answers, "" if known else "(NOT in training: held out)")


def _shipped(steerer: "Steerer") -> "Steerer | None":
    """Return the package's own checkpoint on the same base LM, if it is for that one."""
    from hypersteer.checkpoint import BUNDLED as SHIPPED
    from hypersteer.checkpoint import find_checkpoint
    from hypersteer.hypernet.card import read_card
    from hypersteer.steering import load

    card = read_card(find_checkpoint(SHIPPED))
    if steerer.lm.difference(card.identity, "the checkpoint that ships"):
        return None
    return load(SHIPPED, lm=steerer.lm)
