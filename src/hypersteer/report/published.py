"""Published results on Gemma-2, to stand beside ours; measured by others, on another model.

None is not reported; `UNKNOWN` is reported somewhere but not known to us as a number.
"""

from dataclasses import dataclass
from typing import Literal

UNKNOWN: Literal["unknown"] = "unknown"
Published = float | Literal["unknown"] | None

SETTING = "Gemma-2 instruction-tuned, Concept500, judged by gpt-4o-mini"
SETTINGS = ("2B L10", "2B L20", "9B L20", "9B L31", "average")


@dataclass(frozen=True, slots=True)
class PublishedTable:
    """A table of a paper.

    Attributes:
        title: what is measured, and its range.
        source: paper and table.
        columns: settings.
        rows: method -> one value per column.
    """

    title: str
    source: str
    columns: tuple[str, ...]
    rows: dict[str, tuple[Published, ...]]

    def row(self, method: str) -> tuple[Published, ...] | None:
        """Return the values of a method of ours, by its usual names; None if it is not there."""
        name = published_name(method)
        return None if name is None else self.rows.get(name)


HYPERSTEER_TABLE_1 = PublishedTable(
    "Overall score, 0 to 2, at layer 20",
    "HyperSteer (arXiv 2506.03292), Table 1; prompting held in: AxBench (arXiv 2501.17148), "
    "Table 2",
    ("2B held-out", "2B held-in", "9B held-out", "9B held-in"),
    {
        "Prompting, LM-written": (UNKNOWN, 0.731, UNKNOWN, 1.075),
        "LoReFT": (None, 0.722, None, 0.777),
        "SFT": (None, 0.714, None, None),
        "LoRA": (None, 0.641, None, 0.602),
        "ReFT-r1": (None, 0.509, None, 0.630),
        "DiffMean": (None, 0.178, None, 0.322),
        "SAE": (None, 0.151, None, 0.191),
        "SAE-A": (None, 0.132, None, 0.186),
        "HyperSteer, no context": (0.373, 0.512, 0.633, 0.751),
        "HyperSteer, in context": (0.480, 0.547, 0.760, 0.842),
        "HyperSteer, cross attention": (0.608, 0.742, 0.934, 1.091),
    },
)

AXBENCH_STEERING = PublishedTable(
    "Overall score, 0 to 2",
    "AxBench (arXiv 2501.17148), Table 2",
    SETTINGS,
    {
        "Prompting, LM-written": (0.698, 0.731, 1.075, 1.072, 0.894),
        "LoReFT": (0.701, 0.722, 0.777, 0.764, 0.741),
        "SFT": (0.637, 0.714, None, None, 0.676),
        "LoRA": (0.637, 0.641, 0.602, 0.580, 0.615),
        "ReFT-r1": (0.633, 0.509, 0.630, 0.401, 0.543),
        "DiffMean": (0.297, 0.178, 0.322, 0.158, 0.239),
        "SAE": (0.177, 0.151, 0.191, 0.140, 0.165),
        "SAE-A": (0.166, 0.132, 0.186, 0.143, 0.157),
        "LAT": (0.117, 0.130, 0.127, 0.134, 0.127),
        "PCA": (0.107, 0.083, 0.128, 0.104, 0.105),
        "Probe": (0.095, 0.091, 0.108, 0.099, 0.098),
        "SSV": (0.072, 0.001, 0.024, 0.008, 0.026),
    },
)

AXBENCH_DETECTION = PublishedTable(
    "AUROC of concept detection",
    "AxBench (arXiv 2501.17148), Table 1",
    SETTINGS,
    {
        "DiffMean": (0.948, 0.946, 0.955, 0.921, 0.942),
        "Probe": (0.940, 0.946, 0.933, 0.942, 0.94),
        "ReFT-r1": (0.952, 0.965, 0.966, 0.869, 0.938),
        "Prompting, LM-written": (0.910, 0.921, 0.940, 0.943, 0.929),
        "SAE-A": (0.924, 0.911, 0.924, 0.907, 0.917),
        "BoW": (0.909, 0.931, 0.904, 0.912, 0.914),
        "SSV": (0.934, 0.950, 0.910, 0.854, 0.912),
        "LAT": (0.742, 0.809, 0.572, 0.725, 0.712),
        "SAE": (0.735, 0.755, 0.631, 0.659, 0.695),
        "PCA": (0.714, 0.712, 0.559, 0.622, 0.652),
        "IG": (0.440, 0.375, 0.508, 0.383, 0.426),
        "IxG": (0.243, 0.217, 0.193, 0.330, 0.246),
    },
)

AXBENCH_WIN_RATE = PublishedTable(
    "Win rate against SAE, %",
    "AxBench (arXiv 2501.17148), Table 3",
    SETTINGS,
    {
        "Prompting, LM-written": (90.0, 91.5, 97.6, 99.1, 94.5),
        "LoReFT": (88.9, 88.2, 88.6, 90.3, 89.0),
        "SFT": (90.0, 87.5, None, None, 88.8),
        "LoRA": (85.0, 83.4, 79.9, 81.5, 82.5),
        "ReFT-r1": (85.2, 82.3, 83.6, 76.0, 81.8),
        "DiffMean": (63.2, 55.2, 64.3, 52.2, 58.7),
        "SAE": (50.0, 50.0, 50.0, 50.0, 50.0),
        "SAE-A": (49.3, 46.6, 48.5, 50.7, 48.8),
        "LAT": (43.5, 48.2, 42.7, 48.6, 45.8),
        "PCA": (42.1, 42.9, 42.2, 45.4, 43.1),
        "Probe": (40.4, 44.0, 41.9, 45.6, 43.0),
        "SSV": (38.8, 32.0, 32.5, 34.0, 34.3),
    },
)

TABLES = (HYPERSTEER_TABLE_1, AXBENCH_STEERING, AXBENCH_DETECTION, AXBENCH_WIN_RATE)

# The published prompting baseline has an LM write the steering prompt; the concept itself as the
# prompt is not published.
_ALSO = {
    "promptrewritten": "Prompting, LM-written",
    "rewrittenprompt": "Prompting, LM-written",
    "promptingrewritten": "Prompting, LM-written",
    "rewrittenprompting": "Prompting, LM-written",
    "promptsteering": "Prompting, LM-written",
    "linearprobe": "Probe",
    "bagofwords": "BoW",
}


# Checkpoints go by their folders' names, such as `cross-attention-long`.
_VARIANTS = {
    "nocontext": "HyperSteer, no context",
    "incontext": "HyperSteer, in context",
    "crossattention": "HyperSteer, cross attention",
}


def published_name(method: str) -> str | None:
    """Return the published name of a method of ours; None if nothing is published under it.

    Spelling, case and a leading `hypersteer` do not matter; a hypernetwork is known by the variant
    that its name begins with.
    """
    plain = _plain(method)
    for beginning, name in _VARIANTS.items():
        if plain.startswith(beginning):
            return name
    names = {_plain(name): name for table in TABLES for name in table.rows}
    return {**names, **_ALSO}.get(plain)


def _plain(name: str) -> str:
    letters = "".join(c for c in name.lower() if c.isalnum())
    return letters.removeprefix("hypersteer")
