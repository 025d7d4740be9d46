"""Train on ten concepts of your own, with no teacher but the model that ships.

    python examples/train_on_ten_concepts.py

Three steps: the shipped checkpoint answers under each concept and a judge keeps the best answers; a
hypernetwork learns from these, starting from the shipped weights; the result is asked something.
Eight concepts are trained on, two are kept for validation. Each step goes on where it was cut off.

A model that teaches itself gains little. With a strong model at hand let it write the answers:
docs/howto/own_concepts.md.
"""

from pathlib import Path

import hypersteer as hs
from hypersteer.config import DataConfig, JudgeConfig, LossConfig, OptimConfig
from hypersteer.config.synthesis import DistillationConfig, JudgedConfig
from hypersteer.synthesis.distillation import distil

CONCEPTS = [
    "talk like a lighthouse keeper",
    "bring up bread and baking",
    "sound like a proud grandmother",
    "mention rivers and boats",
    "answer like a sleepy cat",
    "speak like a railway announcer",
    "work in references to gardens",
    "be very excited about the weather",
    "mention old maps and explorers",
    "answer like a patient shopkeeper",
]


def main(
    folder: str = "runs/ten", *, tried: int = 6, steps: int = 30, max_new_tokens: int = 48
) -> hs.Steerer:
    """Make the data, train, and answer one prompt under two of the concepts.

    Args:
        folder: where everything goes.
        tried: answers tried for each concept; the judge keeps three at most.
        steps: of training.
        max_new_tokens: of the answers at the end.
    """
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    (out / "concepts.txt").write_text("\n".join(CONCEPTS), encoding="utf-8")

    data, report = distil(
        DistillationConfig(
            out=str(out / "data"),
            concepts=str(out / "concepts.txt"),
            checkpoint="bundled",
            tried=tried,
            kept=min(3, tried),
            repetition_penalty=1.15,
            judge=JudgeConfig(kind="likelihood"),  # no other model is needed
            judged=JudgedConfig(min_concept=0, min_instruction=0, min_fluency=0),  # the best stay
        )
    )
    print(f"{data}: {report['kept']} answers kept of {report['tried']}")

    trained = hs.train(
        hs.TrainConfig(
            out=str(out / "run"),
            start="bundled",
            data=DataConfig(source=(str(data),), held_out_concepts=2, held_in_prompts=0),
            loss=LossConfig(prompted=True),
            optim=OptimConfig(steps=steps, learning_rate=1e-4),
            best="last",
        )
    )
    print(f"loss on concepts never trained on: {trained.metrics['held_out_loss']:.3f}")

    steerer = hs.load(trained.folder)
    for concept in CONCEPTS[:2]:
        options = {"max_new_tokens": max_new_tokens, "repetition_penalty": 1.15}
        answer = steerer.generate("How do I make friends?", steer=concept, **options)
        print(f"{concept}\n  {answer}\n")
    return steerer


if __name__ == "__main__":
    main()
