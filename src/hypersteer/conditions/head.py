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

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from hypersteer.conditions.described import About
from hypersteer.conditions.score import score
from hypersteer.config import from_dict, to_dict
from hypersteer.config.conditions import HeadConfig
from hypersteer.errors import CheckpointError, SteeringError, one_line
from hypersteer.files import output_file, path_of
from hypersteer.tensor_files import read_value, write_value

FORMAT = "hypersteer-condition-head-1"
ABOUT: tuple[About, ...] = ("prompt", "answer")
"""What a condition may be about, in the order in which the head keeps their means and scales."""


class Written(NamedTuple):
    """What the head writes for N conditions.

    Attributes:
        directions: unit vectors, [N, K, D].
        offsets: what is added to the logit of the probability, [N].
    """

    directions: Float[Tensor, "N K D"]
    offsets: Float[Tensor, " N"]


class ConditionHead(nn.Module):
    """Writes conditions from encoded words.

    Args:
        width: D of the base LM's states.
        config: which blocks are read, and the size of the hidden layer.
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
        self.hidden = nn.Sequential(
            nn.Dropout(config.dropout),
            nn.Linear(words * width, config.hidden),
            nn.GELU(),
            nn.Dropout(config.dropout),
        )
        self.directions = nn.Linear(config.hidden, layers * width)
        self.offset = nn.Linear(config.hidden, 1)
        self.log_slope = nn.Parameter(torch.tensor(2.7))

    def forward(self, words: Float[Tensor, "N W D"]) -> Written:
        """Write conditions from the mean states of their words."""
        read = ((words.float() - self.words_mean) / self.words_scale).clamp(-6, 6)
        hidden = self.hidden(read.flatten(1))
        directions = self.directions(hidden).view(len(words), len(self.config.layers), self.width)
        return Written(F.normalize(directions, dim=-1), self.offset(hidden)[:, 0])

    @property
    def slope(self) -> Tensor:
        """By what a score is multiplied in the logit of the probability."""
        return self.log_slope.exp()

    def scores(
        self,
        directions: Float[Tensor, "*N K D"],
        states: Float[Tensor, "*N K D"],
        about: About,
    ) -> Float[Tensor, "*N"]:
        """Return scores of pooled states: those of the conditions that `forward` writes."""
        kind = ABOUT.index(about)
        each = score(states, directions, self.means[kind], "cosine", self.scales[kind])
        return each.mean(-1)

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
        config = from_dict(HeadConfig, header["config"], "config")
        head = ConditionHead(int(header["width"]), config, str(header["base_lm"]))
        for about in ABOUT:
            setattr(head, f"kept_{about}", torch.zeros_like(tensors[f"kept_{about}"]).float())
        head.load_state_dict({name: value.float() for name, value in tensors.items()})
    except (SteeringError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"the head '{path}' is damaged: {one_line(error)}") from error
    return head.eval().requires_grad_(False)
