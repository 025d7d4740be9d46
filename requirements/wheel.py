"""Builds the wheel, installs it where nothing else is, and uses it as a new user would.

python requirements/wheel.py [--torch "torch==2.13.0"] [--steps 2]

What a working tree has and a wheel may lack (data files, the shipped checkpoint) shows here.
Everything runs in a folder of its own, so that no file of the repository is found by chance, and
the base LM is fetched as it is for a new user.
"""

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
LARGEST = 60 * 2**20
"""Bytes that the wheel may have; what ships in it is one checkpoint and the bundled data."""


def run(*command: str | Path, folder: Path) -> str:
    """Run a command with nothing of ours in its environment, the base LM's cache neither.

    Returns:
        what it prints.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_"))}
    environment["HYPERSTEER_CACHE"] = str(folder / "cache")
    print("$", shlex.join(map(str, command)), flush=True)
    done = subprocess.run(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, check=False
    )
    print(done.stdout, flush=True)
    if done.returncode:
        sys.exit(f"exit code {done.returncode}")
    return done.stdout


def main() -> None:
    """Build, install, use."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--torch", default=f"-r {ROOT / 'requirements/torch.txt'}")
    parser.add_argument("--steps", default="2", help="of the demo's training")
    args = parser.parse_args()
    torch = [str(ROOT / one) if one.endswith(".txt") else one for one in shlex.split(args.torch)]
    with tempfile.TemporaryDirectory(prefix="hypersteer-wheel-") as made:
        folder = Path(made)
        python, command = folder / "env/bin/python", folder / "env/bin/hypersteer"
        venv.create(folder / "env", with_pip=True)
        pip = (python, "-m", "pip", "-q", "--disable-pip-version-check")
        run(*pip, "wheel", "--no-deps", "-w", folder / "dist", ROOT, folder=folder)
        wheel = next((folder / "dist").glob("hypersteer-*.whl"))
        check(wheel)
        run(*pip, "install", *torch, folder=folder)
        run(*pip, "install", wheel, folder=folder)
        run(*pip, "check", folder=folder)

        where = run(python, "-c", "import hypersteer; print(hypersteer.__file__)", folder=folder)
        if not where.startswith(str(folder)):
            sys.exit(f"another hypersteer than the wheel's: {where}")
        run(command, "--help", folder=folder)
        run(command, "concepts", "bundled", folder=folder)
        generate = ("generate", "Tell me about your day.", "--steer", "talk like a pirate")
        if not run(command, *generate, "--max-new-tokens", "16", folder=folder).strip():
            sys.exit("no answer")
        run(command, "demo", "--steps", args.steps, folder=folder)
        if not (folder / "runs/demo/model.safetensors").is_file():
            sys.exit("the demo left no checkpoint")
    print("the wheel works")


def check(wheel: Path) -> None:
    """See that the wheel holds what it should, and nothing of the tests."""
    names = zipfile.ZipFile(wheel).namelist()
    head = "data/condition_heads/smollm2-135m-instruct.safetensors"
    shipped = ("data/pretrained/model.safetensors", head)
    for wanted in (*shipped, "py.typed", "serving/page/index.html"):
        if f"hypersteer/{wanted}" not in names:
            sys.exit(f"the wheel lacks hypersteer/{wanted}")
    strays = [name for name in names if name.split("/")[0].startswith(("tests", "docs", "runs"))]
    if strays or wheel.stat().st_size > LARGEST:
        sys.exit(f"the wheel has {wheel.stat().st_size} bytes and holds {strays[:3]}")


if __name__ == "__main__":
    main()
