"""Texts, numbers, paths and files as no caller should give them."""

import copy
import json
from pathlib import Path

import numpy as np
import torch
from hypothesis import strategies as st

NO_PATH = ("x" * 300, "a/" * 2500, "~nobody-of-that-name/x", "a\0b", "\ud800", "")
"""What can be the name of no file."""
NO_PLACE = ("/proc/x", "/proc/self/x/y", "/dev/null/x", "/dev/null", "//", "/sys/x.safetensors")
"""Places where nothing can be written."""
ODD_TEXTS = (
    "TCP/IP",
    "word " * 60,
    "why/" * 1200,
    "talk like \udcff",
    "\ud83c",
    "a\0b",
    "a\u2028b\x0cc\x85d",
    "\ufeffHi.",
    "<|im_end|>",
    "{{ messages }} {% raw",
    "%s %d {0} {x}",
    "--steer",
    "--",
    "-",
    "bundled",
    "owner/name",
    "~",
    "\x1b[31mred",
    "\r\n\r\n",
    "(" * 200,
    "é" * 3000,
)
ODD_NUMBERS = (
    "nan",
    "inf",
    "-inf",
    "1e39",
    "-1e400",
    "0",
    "-1",
    "2",
    "9" * 20,
    "9" * 5000,
    "-" + "9" * 20,
    str(2**63),
    "0.5",
    "1e-400",
    "0x10",
    "1_000",
    "\u0661",
    "",
    "many",
)

TOML_VALUES = (
    "nan",
    "-inf",
    "1e400",
    "0x7fff",
    "9" * 5000,
    "1979-05-27",
    "''",
    "[[]]",
    "{a = 1}",
    "true",
)

whole_text = st.text(max_size=40)
plain_text = st.sampled_from(["sing", "Hi.", "talk like a pirate", "random", "x=sing"])
any_text = st.one_of(
    plain_text,
    plain_text,
    st.sampled_from(ODD_TEXTS),
    whole_text,
    st.text(st.characters(codec=None), max_size=30),  # surrogates too
)
any_number = st.one_of(
    st.sampled_from(["1", "2", "3", "0.5", "0"]),
    st.sampled_from(["1", "2", "3", "0.5", "0"]),
    st.sampled_from(ODD_NUMBERS),
    st.integers().map(str),
    st.floats().map(str),
    whole_text,
)
no_path = st.sampled_from(NO_PATH + NO_PLACE)

json_leaf = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    any_text,
    st.sampled_from([10**30, -1, 2**63, [], {}, [[]], "", "nan", "\ud800"]),
)
json_value = st.recursive(
    json_leaf,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(whole_text, inner),
    max_leaves=6,
)

python_number = st.one_of(
    st.integers(),
    st.floats(),
    st.booleans(),
    st.sampled_from(
        [
            np.float32(1),
            np.int64(2),
            np.float64("nan"),
            torch.tensor(1.0),
            torch.ones(2),
            np.ones(3),
        ]
    ),
    st.sampled_from([None, "1", 1j, 10**400, -(10**400), [1.0], {}, object()]),
)
python_value = st.one_of(python_number, any_text, json_value, st.binary(max_size=8))


@st.composite
def mutated(draw, value):
    """A JSON value, one part of which is left out, put in twice, or replaced by anything."""
    value = copy.deepcopy(value)
    places = list(_places(value, ()))
    for _ in range(draw(st.integers(1, 2))):
        *outer, last = draw(st.sampled_from(places))
        parent = value
        try:
            for key in outer:
                parent = parent[key]
            if draw(st.booleans()):
                parent[last] = draw(_alike(parent[last]))
            elif draw(st.booleans()):
                parent[last] = draw(json_value)
            elif isinstance(parent, dict):
                name = draw(whole_text)
                parent[name] = parent.pop(last)
            else:
                parent.append(parent.pop(last))
        except (KeyError, IndexError, TypeError):  # the first change took the place of the second
            continue
    return value


def _alike(value):
    """Values of the same type, which get further."""
    if isinstance(value, bool):
        return st.booleans()
    if isinstance(value, str):
        return any_text
    if isinstance(value, int):
        return st.one_of(st.integers(-1, 9), st.sampled_from([2**31, 2**32, 2**63, 10**30]))
    if isinstance(value, float):
        return st.floats() | st.sampled_from([0.0, 1e39, -1e-300])
    return st.just(value)


def _places(value, path):
    if isinstance(value, dict):
        keys = list(value)
    elif isinstance(value, list):
        keys = range(min(len(value), 3))
    else:
        return
    for key in keys:
        yield (*path, key)
        yield from _places(value[key], (*path, key))


garbage = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        [
            b"",
            b"\n\n",
            b"\xff\xfe\x00",
            b"\xef\xbb\xbf",
            b"[" * 100_000,
            b"{" * 50,
            b'"\\ud800"',
            b"9" * 5000,
            b"\0" * 64,
            b"PAR1" + b"\0" * 20 + b"PAR1",
            b"GGUF" + b"\0" * 60,
            "a = 'ü'".encode("utf-16"),
            (10**18).to_bytes(8, "little") + b"{}",
        ]
    ),
)


@st.composite
def spoiled(draw, whole: bytes):
    """A file's bytes: cut, with a few changed, or something else."""
    kind = draw(st.sampled_from(["cut", "changed", "other", "marked", "windows"]))
    if kind == "cut":
        return whole[: draw(st.integers(0, len(whole)))]
    if kind == "other":
        return draw(garbage)
    if kind == "marked":
        return b"\xef\xbb\xbf" + whole
    if kind == "windows":
        return whole.replace(b"\n", b"\r\n")
    held = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, min(len(held), 2000) - 1))
        held[place] = draw(st.integers(0, 255))
    return bytes(held)


@st.composite
def spoiled_json(draw, path: Path, *, lines: bool = False):
    """The bytes of a JSON file, or of one with an object a line, spoilt in its values or bytes."""
    whole = path.read_bytes()
    if draw(st.integers(0, 3)) == 0:
        return draw(spoiled(whole))
    value = [json.loads(line) for line in whole.splitlines()] if lines else json.loads(whole)
    value = draw(mutated(value))
    escape = draw(st.booleans())
    if lines:
        parts = value if isinstance(value, list) else [value]
        text = "".join(json.dumps(one, ensure_ascii=escape) + "\n" for one in parts)
    else:
        text = json.dumps(value, ensure_ascii=escape)
    return text.encode("utf-8", "surrogatepass")


@st.composite
def spoiled_tensors(draw, path: Path, header: str):
    """The bytes of a safetensors file, spoilt in its bytes, its shapes, or its own header."""
    whole = path.read_bytes()
    if draw(st.integers(0, 3)) == 0:
        return draw(spoiled(whole))
    size = int.from_bytes(whole[:8], "little")
    described, data = json.loads(whole[8 : 8 + size]), whole[8 + size :]
    if header and draw(st.integers(0, 3)):
        own = json.loads(described["__metadata__"][header])
        described["__metadata__"][header] = json.dumps(draw(mutated(own)))
    elif draw(st.booleans()):
        described = draw(mutated(described))
    else:
        data = draw(st.sampled_from([b"\0", b"\xff", b"\x7f\x80"])) * len(data)
        data = data[: len(whole) - 8 - size]
    text = json.dumps(described).encode()
    return len(text).to_bytes(8, "little") + text + data


@st.composite
def spoiled_toml(draw, path: Path):
    """Settings with one value of any kind, or a table or a key that is not known."""
    if draw(st.integers(0, 3)) == 0:
        return draw(spoiled(path.read_bytes()))
    lines = path.read_text().splitlines()
    place = draw(st.integers(0, len(lines) - 1))
    literal = draw(st.one_of(st.sampled_from(TOML_VALUES), json_value.map(json.dumps), any_number))
    key = lines[place].split("=")[0]
    lines[place] = draw(st.sampled_from([f"{key} = {literal}", f"[{key}", f"x = {literal}", "[x]"]))
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def spoilt(good: Path, kind: str):
    """Bytes that are almost those of a good file, of JSON, lines, TOML, tensors or text."""
    if kind in ("json", "lines"):
        return spoiled_json(good, lines=kind == "lines")
    if kind == "toml":
        return spoiled_toml(good)
    if kind:
        return spoiled_tensors(good, "" if kind == "tensors" else kind)
    return spoiled(good.read_bytes())
