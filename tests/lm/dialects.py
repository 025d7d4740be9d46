"""Tokenizers of several kinds with templates of several kinds, all small."""

import copy
import json
from functools import cache

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer, UnigramTrainer
from transformers import PreTrainedTokenizerFast

import tiny

HEADERS = """\
{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>

{{ m['content'] | trim }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>\
assistant<|end_header_id|>

{% endif %}"""
"""Trims what it is given, and ends turns with a token of its own."""

TURNS = """\
{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}\
{{ raise_exception('no system role') }}{% endif %}<start_of_turn>\
{{ 'model' if m['role'] == 'assistant' else m['role'] }}
{% set said = m['content'].split('</think>') %}{{ said[-1] | trim }}<end_of_turn>
{% endfor %}{% if add_generation_prompt %}<start_of_turn>model
{% endif %}"""
"""Has no system role, and leaves out the thoughts of earlier turns."""

MARKS = {
    HEADERS: ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    TURNS: ("<start_of_turn>", "<end_of_turn>"),
}
FIRST = ("<unk>", "<s>", "</s>", "<pad>")


@cache
def sentencepiece(template: str | None, kind: str = "bpe", *, special: bool = True):
    """Like sentencepiece: spaces are a letter, one is put before any text, bytes where none fits.

    Args:
        template: its chat template.
        kind: `bpe`, or `unigram`, which takes any piece of its vocabulary.
        special: whether the template's own tokens are special.
    """
    marks = MARKS.get(template, ())
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    if kind == "bpe":
        model = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        trainer = BpeTrainer(
            vocab_size=420,
            special_tokens=[*FIRST, *marks, *bytes_],
            initial_alphabet=list("abcdefghijklmnopqrstuvwxyzT<>/_|"),
            show_progress=False,
        )
    else:
        model = Tokenizer(models.Unigram())
        trainer = UnigramTrainer(
            vocab_size=200,
            unk_token="<unk>",
            special_tokens=[*FIRST, *marks],
            initial_alphabet=list("abcdefghijklmnopqrstuvwxyzT<>/_|"),
            show_progress=False,
        )
    model.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    model.train_from_iterator(
        [*tiny.CORPUS, "start of turn, end of turn, eot id </s>"] * 5, trainer
    )
    # As in real ones, the tokens of single bytes are vocabulary and no added tokens.
    described = json.loads(model.to_str())
    described["added_tokens"] = [
        token for token in described["added_tokens"] if token["content"] not in bytes_
    ]
    model = Tokenizer.from_str(json.dumps(described))
    model.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    model.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    made = PreTrainedTokenizerFast(
        tokenizer_object=model,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
    )
    for mark in marks:
        made.add_tokens([AddedToken(mark, normalized=False, special=special)])
    made.chat_template = template
    return made


@cache
def bytelevel(template: str | None, *, special: bool = True, more: tuple[str, ...] = ()):
    """The tiny tokenizer with another template and its tokens, and plain added tokens."""
    made = copy.deepcopy(tiny.tokenizer())
    made.chat_template = template
    for mark in MARKS.get(template, ()):
        made.add_tokens([AddedToken(mark, normalized=False, special=special)])
    made.add_tokens([AddedToken(text, normalized=False, special=False) for text in more])
    return made


@cache
def folding():
    """A tokenizer that looks for its special tokens in folded text: wide letters are others too."""
    made = copy.deepcopy(tiny.tokenizer())
    made._tokenizer.normalizer = normalizers.NFKC()
    made.add_special_tokens(
        {"additional_special_tokens": [AddedToken("<|end|>", normalized=True, special=True)]}
    )
    return made


@cache
def appending(template: str | None = None):
    """A tokenizer that puts an end token after every text."""
    made = copy.deepcopy(tiny.tokenizer())
    made._tokenizer.post_processor = TemplateProcessing(
        single="<|bos|> $A <|im_end|>", special_tokens=[("<|bos|>", 0), ("<|im_end|>", 1)]
    )
    made.chat_template = template
    return made


DIALECTS = {
    "chatml": tiny.tokenizer,
    "headers": lambda: bytelevel(HEADERS),
    "turns": lambda: sentencepiece(TURNS),
    "turns that are not special": lambda: sentencepiece(TURNS, special=False),
    "headers by sentencepiece": lambda: sentencepiece(HEADERS),
    "unigram": lambda: sentencepiece(TURNS, "unigram"),
    "no template": lambda: bytelevel(None),
    "no template by sentencepiece": lambda: sentencepiece(None),
    "no template, end appended": appending,
    "folding": folding,
}
