"""The head that writes conditions from words: from their encoding to directions and an offset.

The words are read by the base LM's lower blocks, as the texts are that a condition is tried on.
The head maps their mean states to one unit direction for each layer; a condition's score is the
mean of the cosines with the pooled states of a text, which a probability follows from. So what it
writes is a condition like any other.
Shapes: N conditions, W blocks that words are read at, K layers, D width.
"""

import math
from pathlib import Path
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from hypersteer.conditions.described import About
from hypersteer.conditions.score import score
from hypersteer.config import from_dict, to_dict
from hypersteer.config.conditions import HeadConfig
from hypersteer.errors import CheckpointError, SteeringError, one_line
from hypersteer.files import is_file, output_file, package_data, path_of
from hypersteer.lm.base import BaseLM
from hypersteer.tensor_files import read_value, write_value

FORMAT = "hypersteer-condition-head-1"
ABOUT: tuple[About, ...] = ("prompt", "answer")
"""What a condition may be about, in the order in which the head keeps their means and scales."""
EARLIER = {"members": 1, "read_dropout": 0.0}
"""What the settings of heads were before their files said so."""
ONE = ("hidden", "directions", "offset", "log_slope")
"""What the names of tensors begin with in files that hold one network."""
FIRST_SLOPE = 2.7
"""Logarithm of the slope that training begins with."""

SHIPPED = tuple(
    package_data("data", "condition_heads", f"{name}.safetensors")
    for name in ("smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct")
)
"""Heads that ship, each for another base LM."""
BUNDLED = SHIPPED[0]
"""The head for the base LM of the checkpoint that ships."""

_heads: dict[Path, tuple[float, "ConditionHead"]] = {}
_chosen: WeakKeyDictionary[nn.Module, Path] = WeakKeyDictionary()


class Written(NamedTuple):
    """What the head writes for N conditions.

    Attributes:
        directions: unit vectors, [N, K, D].
        offsets: what is added to the logit of the probability, [N].
        slopes: by what scores are multiplied in it, [N].
    """

    directions: Float[Tensor, "N K D"]
    offsets: Float[Tensor, " N"]
    slopes: Float[Tensor, " N"]


class Member(nn.Module):
    """One of the networks of a head: each writes conditions of its own.

    Args:
        width: D of the base LM's states.
        config: which blocks are read, and the size of the hidden layer.
    """

    def __init__(self, width: int, config: HeadConfig) -> None:
        super().__init__()
        self.shape = (len(config.layers), width)
        self.hidden = nn.Sequential(
            nn.Dropout(config.dropout),
            nn.Linear(len(config.words_layers) * width, config.hidden),
            nn.GELU(),
            nn.Dropout(config.dropout),
        )
        self.directions = nn.Linear(config.hidden, len(config.layers) * width)
        self.offset = nn.Linear(config.hidden, 1)
        self.log_slope = nn.Parameter(torch.tensor(FIRST_SLOPE))

    def forward(self, read: Float[Tensor, "N F"]) -> Written:
        """Write conditions from centred and scaled states of words, those of W blocks joined."""
        hidden = self.hidden(read)
        directions = F.normalize(self.directions(hidden).view(-1, *self.shape), dim=-1)
        return Written(
            directions, self.offset(hidden)[:, 0], self.log_slope.exp().expand(len(read))
        )


class ConditionHead(nn.Module):
    """Writes conditions from encoded words.

    Several networks write one each, and their logits are averaged. That is a condition again: the
    mean of the logits of cosines is the cosine with the mean direction, each weighted by its slope.
    (Layers count alike in it, though those on which the networks agree more would count for more.)

    Args:
        width: D of the base LM's states.
        config: which blocks are read, how many networks there are, and how large.
        base_lm: identity of the base LM whose states it reads.
    """

    words_mean: Float[Tensor, "W D"]
    words_scale: Float[Tensor, "W D"]
    means: Float[Tensor, "A K D"]
    scales: Float[Tensor, "A K D"]
    kept_prompt: Float[Tensor, "P K D"]
    kept_answer: Float[Tensor, "Q K D"]

    def __init__(self, width: int, config: HeadConfig, base_lm: str = "") -> None:
        super().__init__()
        self.width, self.config, self.base_lm = width, config, base_lm
        words, layers = len(config.words_layers), len(config.layers)
        for name, rows in (("words", (words,)), ("texts", (len(ABOUT), layers))):
            mean, scale = ("means", "scales") if name == "texts" else ("words_mean", "words_scale")
            self.register_buffer(mean, torch.zeros(*rows, width))
            self.register_buffer(scale, torch.ones(*rows, width))
        for about in ABOUT:
            self.register_buffer(f"kept_{about}", torch.zeros(0, layers, width))
        self.members = nn.ModuleList(Member(width, config) for _ in range(config.members))

    def forward(self, words: Float[Tensor, "N W D"]) -> Written:
        """Write conditions from the mean states of their words."""
        each = self.each(words)
        weighted = [one.directions * one.slopes[:, None, None] for one in each]
        together = torch.stack(weighted).mean(0)
        offsets = torch.stack([one.offsets for one in each]).mean(0)
        slopes = torch.linalg.vector_norm(together, dim=-1).mean(-1)
        return Written(F.normalize(together, dim=-1), offsets, slopes)

    def each(self, words: Float[Tensor, "N W D"]) -> list[Written]:
        """Return what every one of its networks writes."""
        read = ((words.float() - self.words_mean) / self.words_scale).clamp(-6, 6).flatten(1)
        return [member(read) for member in self.members]

    def scores(
        self,
        directions: Float[Tensor, "*N K D"],
        states: Float[Tensor, "*T K D"],
        about: About,
    ) -> Float[Tensor, "*S"]:
        """Return scores of pooled states: those of the conditions that `forward` writes.

        The shapes of the two before their layers are broadcast.
        """
        kind = ABOUT.index(about)
        each = score(states, directions, self.means[kind], "cosine", self.scales[kind])
        return each.mean(-1)

    def logits(
        self, written: Written, states: Float[Tensor, "T K D"], about: About
    ) -> Float[Tensor, " T"]:
        """Return the logits of the probability that one written condition holds of each text."""
        return self.scores(written.directions, states, about) * written.slopes + written.offsets

    def kept(self, about: About) -> Float[Tensor, "P K D"]:
        """Return pooled states of texts of many kinds, which the head was not trained on."""
        return getattr(self, f"kept_{about}")

    @torch.no_grad()
    def budget(self, directions: Float[Tensor, "K D"], about: About, share: float) -> float:
        """Return the lowest score above which at most a share of texts of many kinds lies.

        By conformal calibration: on a new text drawn as those that are kept, the chance of a
        higher score is at most `share`, whatever the condition.

        Raises:
            SteeringError: if too few texts are kept to tell.
        """
        texts = self.kept(about)
        place = math.ceil((len(texts) + 1) * (1 - share))
        if not 1 <= place <= len(texts):
            raise SteeringError(
                f"the head keeps {len(texts)} texts about the {about}, too few for a share of "
                f"{share:g} false positives; the least is {1 / (len(texts) + 1):.4f}"
            )
        scores = self.scores(directions.expand_as(texts), texts, about)
        return float(scores.sort().values[place - 1])

    def save(self, path: str | Path) -> Path:
        """Write the head to one safetensors file, weights in float16.

        Raises:
            SteeringError: if the file cannot be written.
        """
        header = {
            "format": FORMAT,
            "width": self.width,
            "base_lm": self.base_lm,
            "config": to_dict(self.config),
        }
        kept = dict(self.named_buffers())  # massive activations would not survive it
        half = {f"kept_{about}" for about in ABOUT} | self.state_dict().keys() - kept.keys()
        tensors = {n: v.half() if n in half else v for n, v in self.state_dict().items()}
        return write_value(output_file(path, "the file of the head"), tensors, header, "head")


def load_head(path: str | Path) -> ConditionHead:
    """Read a head that `save` wrote, ready to write conditions.

    Raises:
        CheckpointError: if the file is missing, corrupt, or no head.
    """
    path = path_of(path, "the head", CheckpointError)
    header, tensors = read_value(path, FORMAT, "head")
    try:
        config = from_dict(HeadConfig, EARLIER | header["config"], "config")
        head = ConditionHead(int(header["width"]), config, str(header["base_lm"]))
        for about in ABOUT:
            setattr(head, f"kept_{about}", torch.zeros_like(tensors[f"kept_{about}"]).float())
        head.load_state_dict({_named(name): value.float() for name, value in tensors.items()})
    except (SteeringError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"the head '{path}' is damaged: {one_line(error)}") from error
    return head.eval().requires_grad_(False)


def _named(name: str) -> str:
    """Return the name of a tensor; earlier files hold one network, under names of its own."""
    return f"members.0.{name}" if name.split(".")[0] in ONE else name


def head_for(lm: BaseLM, path: str | Path | None = None) -> tuple[Path, ConditionHead]:
    """Return the head that writes conditions for a base LM, and its file.

    It is read once, as long as its file stays the same.

    Args:
        lm: the base LM whose states its conditions read.
        path: its file; by default that of the head that ships for this base LM.

    Raises:
        CheckpointError: if it cannot be read, is for another base LM, or none ships for this one.
    """
    if path is not None:
        path = Path(path)
        head = _read(path)
        way_out = "train one for this base LM with 'hypersteer conditions teach'"
        lm.check_made_for(head.base_lm, f"the head '{path.name}'", way_out, "trained")
        return path, head
    if lm.model not in _chosen:
        fits = (one for one in SHIPPED if is_file(one) and not _differs(lm, _read(one)))
        if (found := next(fits, None)) is None:
            raise CheckpointError(
                f"no head that writes conditions from words ships for {lm.name}; train one with "
                "'hypersteer conditions teach', and lay it beside the checkpoint or give it as head"
            )
        _chosen[lm.model] = found
    return _chosen[lm.model], _read(_chosen[lm.model])


def _differs(lm: BaseLM, head: ConditionHead) -> bool:
    return bool(lm.difference(head.base_lm, "a head that ships"))


def _read(path: Path) -> ConditionHead:
    changed = path.stat().st_mtime if is_file(path) else 0.0
    if path not in _heads or _heads[path][0] != changed:
        _heads[path] = changed, load_head(path)
    return _heads[path][1]
