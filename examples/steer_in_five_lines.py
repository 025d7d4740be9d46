"""Steer a model by words, a different way for every prompt of one batch.

    python examples/steer_in_five_lines.py

The checkpoint that ships with the package steers SmolLM2-135M-Instruct on a CPU. Change the prompts
and the steering prompts; None is the unsteered model.
"""

import hypersteer as hs

PROMPTS = ["Tell me about your day.", "Why is sleep important?", "What makes a good friend?"]
STEER = ["talk like a pirate", "mention space travel", None]


def main(max_new_tokens: int = 64) -> list[str]:
    """Answer the prompts, print and return the answers."""
    steerer = hs.load()  # or hs.load("runs/mine"), a checkpoint of your own
    options = {"max_new_tokens": max_new_tokens, "repetition_penalty": 1.15}
    answers = steerer.generate(PROMPTS, steer=STEER, strength=1.0, **options)
    for prompt, steer, answer in zip(PROMPTS, STEER, answers, strict=True):
        print(f"{prompt} [{steer or 'unsteered'}]\n  {answer}\n")
    return list(answers)


if __name__ == "__main__":
    main()
