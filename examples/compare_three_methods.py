"""Compare three methods on prompts of your own, as AxBench does.

    python examples/compare_three_methods.py

Prompting, DiffMean and the shipped checkpoint answer the same prompts at the same strengths; a
judge scores concept, instruction and fluency from 0 to 2. The report is runs/compare/report.html,
the same as text report.md beside it. With so few answers only large differences mean anything:
read the intervals.

The judge here is the steered model itself, which needs nothing else and is partial to itself. Leave
`judge` out once `pip install "hypersteer[local]"` and its models are there: docs/judges.md.
"""

import json
from pathlib import Path

import hypersteer as hs
from hypersteer.config import JudgeConfig, ProtocolConfig

PROMPTS = [
    "How do I ask for a day off?",
    "Describe a walk in the park.",
    "What should I read next?",
    "Explain why the sky is blue.",
]


def main(folder: str = "runs/compare", *, concepts: int = 3, max_new_tokens: int = 48) -> Path:
    """Evaluate, print the first table, and return the report's path.

    Args:
        folder: where answers, judgements and the report go; the same call goes on with them.
        concepts: how many of the bundled concepts, all of them in the checkpoint's training.
        max_new_tokens: of an answer.
    """
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    asked = out.with_name(f"{out.name}-prompts.json")
    asked.write_text(json.dumps([{"instruction": one} for one in PROMPTS]), encoding="utf-8")

    result = hs.evaluate(
        hs.EvaluateConfig(
            out=folder,
            methods=("prompting", "diffmean", "bundled"),
            protocol=ProtocolConfig(
                instructions=str(asked),
                prompts=len(PROMPTS),  # one half chooses the strength, the other is reported
                strengths=(0.5, 1.0),
                held_in_concepts=concepts,
                held_out_concepts=0,
                max_new_tokens=max_new_tokens,
                temperature=0.0,
                repetition_penalty=1.15,
                detection=False,
                skill_items=0,
                refusal_requests=0,
            ),
            judge=JudgeConfig(kind="likelihood"),
        )
    )
    report = result.markdown.read_text(encoding="utf-8")
    print(report[: report.find("\n## ", report.find("\n## ") + 1)])
    return result.markdown


if __name__ == "__main__":
    main()
