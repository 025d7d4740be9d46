"""Steered against unsteered tokens per second through vLLM, with many distinct edits in one run.

    python benchmarks/vllm_serving.py MODEL [--edits 1 16 64] [--requests 64] [--new-tokens 32]
    python benchmarks/vllm_serving.py MODEL --soak 1000
    python benchmarks/vllm_serving.py MODEL --rules
    python benchmarks/vllm_serving.py MODEL --gpu --checkpoint CHECKPOINT

To be run in the environment of `make test-vllm`. Prompts are the same with and without steering: no
words are said, so that both have as many tokens, and the answers do not end before their length.
Settings take turns, so that a busy machine hits all alike, and what is told is the median of the
ratios. The edits are new to the plug-in in each round, so each round makes them.

`--soak N` asks N requests and tells how the memory of this process grew over the second half.

`--rules` tells how long the worker takes to decide rules, of words that are new to it and of words
that it has kept, for one prompt and for several at once; beside it the time to an unsteered first
token, and the size of the blocks that stay in memory.

`--gpu` takes the published setting of EasySteer: DeepSeek-R1-Distill-Qwen-1.5B, 256 requests at
once, greedy, 128 new tokens, bfloat16, CUDA graphs. On an RTX PRO 6000 it made 30,633 tokens/s
without steering, 23,211 with one vector, 11,082 with 64 and 5,620 with 256, its vectors at scale 0
(this plug-in would leave those out: here they act). Where there is no checkpoint for the model,
`--untrained FOLDER` writes one there first, of random vectors at one block, which cost as much.
"""

import argparse
import os
import statistics
import time
from pathlib import Path

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_PLUGINS", "hypersteer")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "4")  # GiB; by default most of what is free

import psutil  # type: ignore[import-untyped]

from hypersteer.checkpoint import write_folder
from hypersteer.conditions.rules import rules
from hypersteer.config import HypernetConfig, to_dict
from hypersteer.config.vllm_plugin import PluginConfig
from hypersteer.hypernet.card import Card
from hypersteer.hypernet.network import new_hypernet
from hypersteer.lm.load import load_lm
from hypersteer.vllm_plugin.front import Front
from hypersteer.vllm_plugin.questions import METHOD, Question, asked, rules_told
from timing import machine, table

PROMPT = (
    "Describe in plain words how a small town by a river prepares for winter, who does what, and "
    "which of the old customs are kept. Request {number}."
)
WORDS = ("calm", "formal", "cheerful", "blunt", "poetic", "technical", "gloomy", "warm")
Asked = list[tuple[list[int], dict[str, str]]]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder or Hub id, as vLLM takes it")
    parser.add_argument("--checkpoint", default="bundled")
    parser.add_argument("--edits", type=int, nargs="+", default=None, help="distinct edits")
    parser.add_argument("--requests", type=int, default=None)
    parser.add_argument("--new-tokens", type=int, default=None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--soak", type=int, default=0, help="requests to ask for the memory")
    parser.add_argument("--rules", action="store_true", help="how long rules take to decide")
    parser.add_argument("--untrained", help="folder for a checkpoint that has learnt nothing")
    parser.add_argument("--gpu", action="store_true", help="256 edits, bfloat16, CUDA graphs")
    given = parser.parse_args()
    given.edits = given.edits or ([1, 16, 64, 256] if given.gpu else [1, 16, 64])
    given.requests = given.requests or (256 if given.gpu else 64)
    given.new_tokens = given.new_tokens or (128 if given.gpu else 32)
    return given


def engine(given: argparse.Namespace, settings: dict):
    """The engine, with the prefix cache off: it would spare later rounds their prefill."""
    from vllm import LLM

    return LLM(
        given.model,
        dtype="bfloat16" if given.gpu else "float32",
        enforce_eager=not given.gpu,
        max_model_len=1024,
        max_num_seqs=min(given.requests, 256),
        gpu_memory_utilization=0.9 if given.gpu else 0.4,  # on a CPU: of its memory
        enable_prefix_caching=False,
        worker_cls="hypersteer.vllm_plugin.worker.SteeringWorker",
        scheduler_cls="hypersteer.vllm_plugin.scheduler.new_scheduler",
        additional_config={"hypersteer": settings},
    )


def write_untrained(model: str, folder: str) -> str:
    """Write a checkpoint whose hypernetwork has learnt nothing; returns its folder."""
    lm = load_lm(model, device="cpu")
    config = HypernetConfig(variant="no-context", blocks=2)
    card = Card(
        base_lm=model,
        fingerprint=lm.fingerprint,
        identity=str(lm.identity),
        site=lm.site(),
        scope="all",
        hypernet=config,
    )
    Path(folder).mkdir(parents=True, exist_ok=True)
    write_folder(Path(folder), new_hypernet(lm, config, lm.site(), 0).state_dict(), card)
    return folder


def requests(front: Front, count: int, edits: int, round_: int) -> Asked:
    """Requests under so many distinct edits; none is steered at 0 edits."""
    made = []
    for number in range(count):
        text = (
            f"be {WORDS[number % len(WORDS)]}, in manner {number % edits} of {round_}"
            if edits
            else ""
        )
        part = {"text": text, "prompted": False} if edits else None
        made.append(front.request(PROMPT.format(number=number), part))
    return made


def timed(llm, asked: Asked, new: int) -> float:
    """Seconds until all requests have their answers."""
    from vllm import SamplingParams

    params = [
        SamplingParams(temperature=0, max_tokens=new, ignore_eos=True, extra_args=extra or None)
        for _, extra in asked
    ]
    begun = time.perf_counter()
    llm.generate([{"prompt_token_ids": ids} for ids, _ in asked], params, use_tqdm=False)
    return time.perf_counter() - begun


def throughput(llm, front: Front, given: argparse.Namespace) -> None:
    lines = []
    for edits in given.edits:
        ratios, firsts, rates = [], [], []
        for round_ in range(given.rounds):
            plain = requests(front, given.requests, 0, round_)
            steered = requests(front, given.requests, edits, round_ * 1000 + edits)
            tokens = given.requests * given.new_tokens
            before = timed(llm, plain, given.new_tokens)
            during = timed(llm, steered, given.new_tokens)
            ratios.append(before / during)
            rates.append(tokens / during)
            other = requests(front, 1, min(edits, 1), round_ * 1000 + edits + 500)
            firsts.append(timed(llm, other, 1) / timed(llm, plain[:1], 1))
        lines.append(
            [
                str(edits),
                f"{statistics.median(rates):.1f}",
                f"{statistics.median(ratios):.3f}",
                f"{min(ratios):.3f} to {max(ratios):.3f}",
                f"{statistics.median(firsts):.2f}",
            ]
        )
    heads = ["edits", "steered tokens/s", "of unsteered", "range", "first token, times unsteered"]
    table(heads, lines)


def soak(llm, front: Front, given: argparse.Namespace) -> None:
    process, sizes = psutil.Process(), []
    for part in range(0, given.soak, 20):
        timed(llm, requests(front, 20, 20, part), 4)
        sizes.append(process.memory_info().rss / 2**20)
    half = len(sizes) // 2
    print(
        f"{given.soak} requests, each with an edit of its own: {sizes[0]:.0f} MiB after 20, "
        f"{sizes[half]:.0f} half way, {sizes[-1]:.0f} at the end "
        f"(highest of the second half {max(sizes[half:]):.0f})"
    )


def decide(llm, front: Front, given: argparse.Namespace) -> None:
    lines = []
    for count, length in ((1, 3), (1, 16), (16, 3), (16, 16)):
        new, kept, plain = [], [], []
        prompt = front.chat.prompt("What helps? " + "my knee hurts " * length)
        for round_ in range(given.rounds):
            told = rules_told(rules(f'if "asks about matter {len(lines)} of {round_}" then "a"'))
            text = asked([Question(prompt, told)] * count)
            for times in (new, kept):
                begun = time.perf_counter()
                llm.collective_rpc(METHOD, args=(text,))
                times.append(1e3 * (time.perf_counter() - begun))
            plain.append(1e3 * timed(llm, [(prompt.ids, {})] * count, 1))
        tokens = len(prompt.ids)
        figures = [f"{statistics.median(one):.0f}" for one in (new, kept, plain)]
        lines.append([str(count), f"{tokens} ({tokens - prompt.prefix})", *figures])
    heads = ["prompts", "tokens (of these, the user's)", "new words, ms", "kept words, ms"]
    table([*heads, "unsteered first token, ms"], lines)
    worker = llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker
    blocks = worker.deciding.lm.blocks
    size = sum(one.numel() * one.element_size() for one in blocks.parameters()) / 2**20
    print(f"{len(blocks)} blocks stay for rules, {size:.0f} MiB")


def main() -> None:
    given = arguments()
    if given.untrained:
        given.checkpoint = write_untrained(given.model, given.untrained)
    config = PluginConfig(checkpoint=given.checkpoint, max_parts=1, kinds=(), rules=given.rules)
    front = Front(config, given.model)
    llm = engine(given, to_dict(config))
    print(machine())
    timed(llm, requests(front, 4, 2, -1), 4)  # whatever is made at the first use
    if given.soak:
        soak(llm, front, given)
    elif given.rules:
        decide(llm, front, given)
    else:
        throughput(llm, front, given)


if __name__ == "__main__":
    main()
