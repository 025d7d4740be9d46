"""From the name of a concept data source to its files, on disk or fetched from the Hub."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from hypersteer.data.schema import METADATA, STEMS
from hypersteer.errors import DataError, nearest, one_line
from hypersteer.files import is_file, is_folder, package_data, path_of, reason

AXBENCH_VARIABLE = "HYPERSTEER_AXBENCH"
FORMS = (
    "expected a folder of AxBench data, 'bundled', 'bundled:wide', 'bundled:more', "
    "'bundled:plain', 'axbench:concept10/2b/l20', or 'hub:owner/name[/sub/folder]'"
)
# Per split, where its files may lie: (folder, stem) in AxBench's git, bare, and Hub layouts.
LAYOUTS = {
    "train": (("generate", STEMS["train"]), ("", STEMS["train"]), ("train", "data")),
    "test": (("inference", STEMS["test"]), ("", STEMS["test"]), ("test", "data")),
}
BUNDLED = {
    "bundled": "bundled",
    "bundled:wide": "wide",
    "bundled:more": "more",
    "bundled:plain": "plain",
}
"""Sources that ship with the package, and their folders."""
METADATA_FOLDERS = ("generate", "", "train", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """The files of one source.

    Attributes:
        files: Data files, in the numeric order in which AxBench rotates them.
        metadata: The concepts' `metadata.jsonl`; None where the source has none.
    """

    files: tuple[Path, ...]
    metadata: Path | None


def locate(source: str, split: str) -> Location:
    """Find the files of a source, downloading them where the source is on the Hub.

    Args:
        source: One of the forms that `load_concepts` takes.
        split: `train` or `test`.

    Raises:
        DataError: The source or the split is unknown, or the source cannot be had.
    """
    if split not in LAYOUTS:
        raise DataError(f"unknown split {split!r}{nearest(split, LAYOUTS)}")
    folder = _folder(source)
    for sub, stem in LAYOUTS[split]:
        files = _rotated(folder / sub, stem)
        if files:
            named = (folder / name / METADATA for name in METADATA_FOLDERS)
            return Location(files=files, metadata=next(filter(is_file, named), None))
    expected = ", ".join(str(Path(sub, f"{stem}*.parquet")) for sub, stem in LAYOUTS[split])
    raise DataError(f"{source} has no {split} split: none of {expected} (or .jsonl) is in {folder}")


def is_at_hand(source: str) -> bool:
    """Return whether a source is read from this disk, and not fetched; it may still be missing."""
    scheme = source.partition(":")[0]
    return scheme != "hub" and (scheme != "axbench" or bool(os.environ.get(AXBENCH_VARIABLE)))


def _rotated(folder: Path, stem: str) -> tuple[Path, ...]:
    """Return `stem`, `stem_1`, ..., `stem_10` in numeric order; parquet wins over JSON lines."""
    try:
        names = [path.name for path in folder.iterdir()] if is_folder(folder) else []
    except OSError as error:
        raise DataError(f"cannot look into {folder}: {reason(error)}") from error
    for suffix in ("parquet", "jsonl"):
        pattern = re.compile(rf"{stem}(?:_(\d+))?\.{suffix}")
        numbered = [(int(m[1] or 0), m[0]) for m in map(pattern.fullmatch, names) if m]
        if numbered:
            return tuple(folder / name for _, name in sorted(numbered))
    return ()


def _folder(source: str) -> Path:
    """Return the folder that a source names."""
    scheme, _, rest = source.partition(":")
    if source in BUNDLED:
        return _bundled_folder(BUNDLED[source])
    if scheme == "axbench":
        return _axbench_folder(source, rest)
    if scheme == "hub":
        parts = _parts(source, rest, at_least=2)
        return _download("/".join(parts[:2]), parts[2:], "or give a local folder instead")
    folder = path_of(source, "the concept data source", DataError)
    if is_file(folder):
        raise DataError(f"{source} is a file; give the folder that holds it")
    if not is_folder(folder):
        raise DataError(f"there is no concept data source {source!r}; {FORMS}")
    return folder


def _bundled_folder(name: str) -> Path:
    """Return the folder of data that ship with the package."""
    folder = package_data("data", name)
    if not folder.is_dir():
        raise DataError(f"the bundled concept data are not in {folder}; reinstall hypersteer")
    return folder


def _axbench_folder(source: str, rest: str) -> Path:
    """Return a setting of AxBench, in the folder that HYPERSTEER_AXBENCH names or from the Hub."""
    family, *setting = _parts(source, rest, at_least=3)
    root = os.environ.get(AXBENCH_VARIABLE)
    git_name = Path(family, f"prod_{'_'.join(setting)}_v1")
    if not root:
        way_out = f"or set {AXBENCH_VARIABLE} to a local folder that holds {git_name}"
        return _download(f"pyvene/axbench-{family}", setting, way_out)
    hub_name = Path(family, *setting)
    for name in (git_name, hub_name):
        if is_folder(folder := path_of(root, AXBENCH_VARIABLE, DataError) / name):
            return folder
    raise DataError(
        f"{AXBENCH_VARIABLE}={root} holds neither {git_name} nor {hub_name}, wanted for {source}; "
        "correct it, or unset it to download"
    )


def _parts(source: str, rest: str, *, at_least: int) -> list[str]:
    """Return the path parts after a scheme; none of them may lead out of the folder."""
    parts = rest.split("/")
    if len(parts) < at_least or not all(re.fullmatch(r"\w[\w.-]*", part) for part in parts):
        raise DataError(f"cannot read the concept data source {source!r}; {FORMS}")
    return parts


def _download(repo: str, sub: list[str], way_out: str) -> Path:
    """Fetch the data files of one folder of a Hub data set; `way_out` ends the message."""
    # Slow to import, and only this function needs it.
    import huggingface_hub

    prefix = "".join(f"{part}/" for part in sub)
    try:
        snapshot = huggingface_hub.snapshot_download(
            repo,
            repo_type="dataset",
            # Never AxBench's pickles.
            allow_patterns=[f"{prefix}*.parquet", f"{prefix}*.jsonl"],
        )
    # The Hub's client raises its own, its HTTP library's and the system's errors alike.
    except Exception as error:
        raise DataError(
            f"cannot download the data set {repo} from the Hugging Face Hub: {one_line(error)}; "
            f"check the name and the network, {way_out}"
        ) from error
    folder = Path(snapshot, *sub)
    if not folder.is_dir():
        raise DataError(f"the data set {repo} has no data in {prefix}; look it up on the Hub")
    return folder
