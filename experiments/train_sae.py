"""Train a small sparse autoencoder on a base LM's states at a site, and label its features.

    export HYPERSTEER_AXBENCH=/path/to/axbench    # may be left out; adds Concept10's training rows
    python experiments/train_sae.py --out runs/sae

By default it reads SmolLM2-135M-Instruct at its default site (block 12, residual stream), on the
prompts and responses of the bundled concept data and of both Concept10 sets, chat prefix left out:
330,000 tokens, of which one text in twenty is held back for the figures. That is little (the
published dictionaries saw billions), and all of it is synthetic chat about steering concepts. Ten
minutes on one core. The detection split (`latent_eval_data`) is never read.

It writes a SAELens folder (`cfg.json`, `sae_weights.safetensors`) and `labels.jsonl`, one feature
a line as Neuronpedia exports them: `index`, `description`, `maxActApprox`. A description lists the
words at which the feature is most active in training, and nothing else. Nobody has read them: many
features are about function words or punctuation, a word does not say in which sense or context it
counts, and a concept that is no word (a style, a persona) is in no label. (What decoder rows
promote through the vocabulary head was tried as a second half; so far below the head it is noise.)
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from sae_training import Figures, Recipe, figures, train
from torch import Tensor

from hypersteer.checkpoint import save_tensors
from hypersteer.data.sources import load_concepts
from hypersteer.edits.sites import Site
from hypersteer.errors import ConfigError, SteeringError
from hypersteer.learning.corpus import CorpusText, States, text_of
from hypersteer.learning.dictionaries import Dictionary
from hypersteer.lm.base import BaseLM
from hypersteer.lm.load import load_lm

CONCEPT10 = ("axbench:concept10/2b/l10", "axbench:concept10/2b/l20")
HELD_BACK = 20
"""One text in so many is kept for the figures."""
SPOTS, WORDS = 24, 6
"""Most active tokens that are looked at for a feature's label, and most words in it."""
HOOKS = {"residual": "hook_resid_post", "attention": "hook_attn_out", "mlp": "hook_mlp_out"}


class Tokens(NamedTuple):
    """Tokens of some texts, text after text.

    Attributes:
        states: [N, D].
        ids: [N].
        starts: which of them [N] a text begins with.
    """

    states: Tensor
    ids: Tensor
    starts: Tensor


def read_texts(
    lm: BaseLM, sources: Sequence[str], limit: int, seed: int
) -> tuple[list[CorpusText], list[CorpusText]]:
    """Distinct texts of the sources in seeded order, up to a number of tokens: training, held back.

    Raises:
        ConfigError: if so few tokens leave nothing to hold back.
    """
    examples = {}
    for source in sources:
        data = load_concepts(source)
        for example in data.examples(range(len(data))):
            examples.setdefault((example.prompt, example.response), example)
    found = list(examples.values())
    texts: list[CorpusText] = []
    for number in np.random.default_rng(seed).permutation(len(found)):
        text = text_of(lm, found[number])
        limit -= text.size - text.prompt.prefix
        if limit < 0:
            break
        texts.append(text)
    if len(texts) < HELD_BACK:
        raise ConfigError(f"--tokens is too small for {HELD_BACK} texts; try 330000")
    held = texts[::HELD_BACK]
    return [text for number, text in enumerate(texts) if number % HELD_BACK], held


def read_states(
    lm: BaseLM, site: Site, texts: list[CorpusText], done: Callable[[float], object]
) -> Tokens:
    """States of all tokens after the chat prefix, in the base LM's dtype."""
    reader = States(lm, site, texts, [1] * len(texts), batch_tokens=4096, cache_bytes=0)
    found: list[Tokens] = []
    for numbers, hidden, marks in reader.walk(range(len(texts))):
        starts = marks.cumsum(1) == 1
        parts = (hidden[marks], reader.batch(numbers).ids[marks], starts[marks])
        found.append(Tokens(*(part.cpu() for part in parts)))
        done(len(numbers) / len(texts))
    return Tokens(*map(torch.cat, zip(*found, strict=True)))


@torch.no_grad()
def most_active(
    dictionary: Dictionary, states: Tensor, done: Callable[[float], object], chunk: int = 4096
) -> tuple[Tensor, Tensor]:
    """The SPOTS largest activations of every feature, and the tokens [F, SPOTS] they are at."""
    values = torch.zeros(dictionary.size, SPOTS)
    places = torch.zeros(dictionary.size, SPOTS, dtype=torch.long)
    for start in range(0, len(states), chunk):
        latents = dictionary.latents(states[start : start + chunk]).T
        top = latents.topk(min(SPOTS, latents.shape[1]), dim=1)
        values, order = torch.cat([values, top.values], 1).topk(SPOTS, dim=1)
        places = torch.cat([places, top.indices + start], 1).gather(1, order)
        done(latents.shape[1] / len(states))
    return values, places


def make_labels(
    lm: BaseLM, dictionary: Dictionary, tokens: Tokens, done: Callable[[float], object]
) -> list[dict[str, Any]]:
    """One entry for every feature that is active somewhere."""
    values, places = most_active(dictionary, tokens.states, done)
    pieces = [lm.chat.decode([token]) for token in range(lm.vocab)]
    text = [
        "\n" * start + pieces[token]  # where a text begins, a word does
        for token, start in zip(tokens.ids.tolist(), tokens.starts.tolist(), strict=True)
    ]
    labels = []
    for feature in range(dictionary.size):
        spots = places[feature][values[feature] > 0].tolist()
        if not spots:
            continue
        description = ", ".join(distinct(word_at(text, spot) for spot in spots)) or "punctuation"
        labels.append(
            {
                "index": feature,
                "description": description,
                "maxActApprox": round(float(values[feature, 0]), 4),
            }
        )
    return labels


def word_at(pieces: Sequence[str], place: int) -> str:
    """The whole word that a token is part of; empty for punctuation."""
    first = last = place
    while first and pieces[first][:1].isalpha() and pieces[first - 1][-1:].isalpha():
        first -= 1
    while last + 1 < len(pieces) and pieces[last][-1:].isalpha() and pieces[last + 1][:1].isalpha():
        last += 1
    word = "".join(pieces[first : last + 1]).strip()
    return word if any(c.isalpha() for c in word) else ""


def distinct(words: Iterable[str]) -> list[str]:
    """The first few words of two letters or more, in lower case, each once."""
    wanted = (word.casefold() for word in words if sum(c.isalpha() for c in word) > 1)
    return list(dict.fromkeys(wanted))[:WORDS]


def keep(
    out: Path, dictionary: Dictionary, labels: list[dict[str, Any]], about: dict[str, Any]
) -> None:
    """Write the folder under a temporary name, then rename it."""
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    weights = {
        "W_enc": dictionary.encoder.T,
        "b_enc": dictionary.bias,
        "W_dec": dictionary.decoder,
        "b_dec": dictionary.offset,
        "threshold": dictionary.threshold,
    }
    save_tensors(weights, temporary / "sae_weights.safetensors")
    (temporary / "cfg.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    lines = "".join(json.dumps(label, ensure_ascii=False) + "\n" for label in labels)
    (temporary / "labels.jsonl").write_text(lines, encoding="utf-8")
    temporary.rename(out)


def describe(
    lm: BaseLM, site: Site, recipe: Recipe, data: dict[str, Any], found: Figures
) -> dict[str, Any]:
    """`cfg.json`: SAELens's keys, and what was trained on what with which result."""
    return {
        "architecture": "jumprelu",
        "d_in": lm.width,
        "d_sae": recipe.features,
        "dtype": "float32",
        "model_name": lm.name,
        "hook_name": f"blocks.{site.layer}.{HOOKS[site.kind]}",
        "hook_layer": site.layer,
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "finetuning_scaling_factor": False,
        "neuronpedia_id": None,
        "base_lm": str(lm.identity),
        "trained_on": data,
        "recipe": {name: getattr(recipe, name) for name in Recipe.__slots__},
        "held_back_figures": found._asdict(),
    }


@contextmanager
def bar(console: Console, text: str) -> Iterator[Callable[[float], None]]:
    """A progress bar of shares; where there is no terminal, a line at every tenth."""
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task, told = progress.add_task(text, total=1.0), 0

        def advance(share: float) -> None:
            nonlocal told
            progress.advance(task, share)
            tenth = int(10 * progress.tasks[task].completed + 1e-9)
            if tenth > told and not console.is_terminal:
                console.print(f"{text}: {10 * tenth} %", highlight=False)
            told = tenth

        yield advance


def arguments(given: Sequence[str]) -> argparse.Namespace:
    """What the command line says."""
    standard = Recipe()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default="runs/sae", type=Path, help="folder to make")
    parser.add_argument("--lm", default="smollm2-135m-instruct", help="alias, id or folder")
    parser.add_argument("--dtype", help="bfloat16 is quicker where the processor has it")
    parser.add_argument("--layer", type=int, help="by default 40 %% of the way up")
    parser.add_argument("--kind", default="residual", choices=sorted(HOOKS))
    parser.add_argument("--source", action="append", help="concept data; may be repeated")
    parser.add_argument("--tokens", type=int, default=330_000, help="most tokens to read")
    for name, kind in (("features", int), ("active", int), ("epochs", int), ("batch", int)):
        parser.add_argument(f"--{name}", type=kind, default=getattr(standard, name))
    parser.add_argument("--rate", type=float, default=standard.rate)
    parser.add_argument("--seed", type=int, default=standard.seed)
    return parser.parse_args(given)


def main(given: Sequence[str]) -> None:
    """Read, train, measure, label, write."""
    asked, console = arguments(given), Console(stderr=True)
    if asked.out.exists():
        raise ConfigError(f"'{asked.out}' is there already; delete it or choose another --out")
    extra = CONCEPT10 if os.environ.get("HYPERSTEER_AXBENCH") else ()
    sources = asked.source or ["bundled", *extra]
    names = ("features", "active", "epochs", "batch", "rate", "seed")
    recipe = Recipe(**{name: getattr(asked, name) for name in names})
    lm = load_lm(asked.lm, dtype=asked.dtype)
    site = lm.site(asked.layer, asked.kind)
    training, held = read_texts(lm, sources, asked.tokens, recipe.seed)
    with bar(console, "reading states") as done:
        both = read_states(lm, site, training, lambda share: done(share * 0.95))
        check = read_states(lm, site, held, lambda share: done(share * 0.05))
    with bar(console, "training") as done:
        dictionary = train(both.states, recipe, done)
    found = figures(dictionary, check.states)
    with bar(console, "labelling") as done:
        labels = make_labels(lm, dictionary, both, done)
    data = {
        "sources": list(sources),
        "split": "train",
        "texts": len(training),
        "tokens": len(both.ids),
        "held_back_texts": len(held),
        "held_back_tokens": len(check.ids),
        "dead_features": recipe.features - len(labels),
        "states_dtype": str(lm.dtype).removeprefix("torch."),
    }
    keep(asked.out, dictionary, labels, describe(lm, site, recipe, data, found))
    print(
        f"{asked.out}: {recipe.features} features at {site} of {lm.name}, {data['tokens']:,} "
        f"tokens; on {data['held_back_tokens']:,} held-back tokens explained variance "
        f"{found.explained_variance:.3f}, L0 {found.l0:.1f}, silent {found.silent:.1%}; dead in "
        f"training {data['dead_features'] / recipe.features:.1%}"
    )


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except SteeringError as error:
        sys.exit(f"error: {error}")
