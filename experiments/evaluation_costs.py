"""What an evaluation of many concepts takes, on paper: hours, dollars, disk.

    python experiments/evaluation_costs.py --concepts 16000

Tokens of a judgement and bytes of a row are counted on the labelled answers; how fast a machine is,
and what it costs, is given. All of it is for one method that has a strength; one without takes
1 / strengths of it.
"""

import argparse
from dataclasses import fields
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

from hypersteer.config.evaluation import STRENGTHS
from hypersteer.evaluation.parts import write_rows
from hypersteer.evaluation.records import Answered, Judged
from hypersteer.judges import llm, local
from hypersteer.judges.gold import gold_answers
from hypersteer.lm.base import BaseLM
from hypersteer.lm.load import load_lm

HOUR_S = 3600.0


def tokens_of(lm: BaseLM, messages: object) -> int:
    """Tokens of chat messages."""
    return len(lm.chat.prompt(messages).ids)  # type: ignore[arg-type]


def read_by_judges(lm: BaseLM, answer_tokens: int) -> dict[str, float]:
    """Mean tokens that each judge reads per answer, over its three questions.

    What the local judge's questions begin with alike is counted apart: a server keeps it. The
    labelled answers are short, so what they lack in tokens is added to each question.
    """
    answers = [one.answer for one in gold_answers() if one.answer.response.strip()]
    names = list(local.QUESTIONS)
    alike = tokens_of(lm, [*local.SHOWN, {"role": "user", "content": ""}])
    lacking = answer_tokens - mean(len(lm.chat.text(answer.response)) for answer in answers)
    asked = {"llm": llm.question, "local": local.question}
    read = {
        judge: mean(sum(tokens_of(lm, ask(n, a)) for n in names) for a in answers)
        + len(names) * lacking
        for judge, ask in asked.items()
    }
    return {"llm": read["llm"], "local": read["local"] - len(names) * alike, "alike": alike}


def bytes_per_row(prompts: int, strengths: int) -> tuple[float, float]:
    """Mean bytes on disk of a row as an answer and as a judged one, in files as evaluations write.

    A file has the rows of one concept; its answers are the labelled ones, three of which make one
    of some 128 tokens.
    """
    gold = [one.answer for one in gold_answers()]
    texts = [" ".join(gold[(3 * i + k) % len(gold)].response for k in range(3)) for i in range(999)]
    rows = [
        Judged(
            method="hypernet",
            held="held_out",
            concept_id=3,
            concept=gold[0].concept,
            prompt_id=i // strengths,
            instruction=gold[i // strengths].instruction,
            strength=STRENGTHS[i % strengths % len(STRENGTHS)],
            seed=i // strengths * 2_654_435_761 % 2**32,
            given="",
            response=texts[i],
            tokens=128,
            nll=1 + i / 7,
            concept_score=i / 151 % 2,
            instruction_score=i / 97 % 2,
            fluency_score=i / 61 % 2,
            overall=i / 31 % 2,
            concept_reason=f"{i / 151 % 2:.2f} of 2; the judge says Yes with probability 0.{i}.",
            instruction_reason=f"{i / 97 % 2:.2f} of 2; the judge says Yes with probability 0.{i}.",
            fluency_reason=f"Least good in own words: -0.{i}.",
        )
        for i in range(prompts * strengths)
    ]
    names = [field.name for field in fields(Answered)]
    plain = [Answered(**{name: getattr(row, name) for name in names}) for row in rows]
    with TemporaryDirectory() as folder:
        answered, judged = Path(folder, "answered"), Path(folder, "judged")
        write_rows(answered, plain, Answered)
        write_rows(judged, rows, Judged)
        return answered.stat().st_size / len(rows), judged.stat().st_size / len(rows)


def main() -> None:
    """Count, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--concepts", type=int, default=16_000)
    parser.add_argument("--prompts", type=int, default=10)
    parser.add_argument("--strengths", type=int, default=len(STRENGTHS))
    parser.add_argument("--lm", default="smollm2-135m-instruct", help="whose tokens are counted")
    parser.add_argument("--answer-tokens", type=int, default=128)
    parser.add_argument("--together", type=int, default=560, help="protocol.batch_size")
    parser.add_argument("--step-ms", type=float, default=40.0, help="a decoding step of so many")
    parser.add_argument("--parameters", type=float, default=2.6e9, help="of the base LM")
    parser.add_argument("--judge-parameters", type=float, default=1.5e9)
    parser.add_argument("--peak", type=float, default=989e12, help="dense bf16 FLOP/s of the GPU")
    parser.add_argument("--share-of-peak", type=float, default=0.3)
    parser.add_argument("--reply-tokens", type=float, default=45.0, help="of a call to an API")
    parser.add_argument("--input-price", type=float, default=0.15, help="$ per million tokens")
    parser.add_argument("--output-price", type=float, default=0.60, help="$ per million tokens")
    parser.add_argument("--calls-a-second", type=float, default=100.0)
    parser.add_argument("--cpu-seconds", type=float, default=2.2, help="local judge, two threads")
    args = parser.parse_args()
    answers = args.concepts * args.prompts * args.strengths
    lm = load_lm(args.lm)
    read, speed = read_by_judges(lm, args.answer_tokens), args.peak * args.share_of_peak
    rows = [
        ("answers", f"{answers:,}"),
        (
            f"answering, {args.together} together, {args.step_ms:g} ms a step",
            f"{answers / args.together * args.answer_tokens * args.step_ms / 1e3 / HOUR_S:.1f} h",
        ),
        (
            "their likelihood, some 200 tokens each",
            f"{answers * 200 * 2 * args.parameters / speed / HOUR_S:.1f} h",
        ),
        (
            f"API judge: {3 * answers:,} calls, {read['llm']:.0f} tokens read an answer",
            (
                f"${answers * read['llm'] / 1e6 * args.input_price:,.0f} + "
                f"${3 * answers * args.reply_tokens / 1e6 * args.output_price:,.0f}"
            ),
        ),
        (
            f"the same, at {args.calls_a_second:g} calls a second",
            f"{3 * answers / args.calls_a_second / HOUR_S:.1f} h",
        ),
        (
            (
                f"local judge at a GPU server: {read['local']:.0f} tokens an answer, and "
                f"{read['alike']:.0f} that are kept"
            ),
            f"{answers * read['local'] * 2 * args.judge_parameters / speed / HOUR_S:.1f} h",
        ),
        (
            f"local judge in llama.cpp on two threads, {args.cpu_seconds:g} s an answer",
            f"{answers * args.cpu_seconds / HOUR_S / 24:.0f} days",
        ),
    ]
    answered, judged = bytes_per_row(args.prompts, args.strengths)
    rows += [
        (f"disk, answers: {answered:,.0f} bytes a row", f"{answers * answered / 1e9:.1f} GB"),
        (
            f"disk, judged answers, by concept and in one file: {judged:,.0f} bytes a row",
            f"{2 * answers * judged / 1e9:.1f} GB",
        ),
        ("files", f"{2 * args.concepts:,}"),
    ]
    print("| what | takes |\n|---|---|")
    for what, takes in rows:
        print(f"| {what} | {takes} |")


if __name__ == "__main__":
    main()
