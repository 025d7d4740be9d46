"""Vectors that other tools fitted, as edits.

What they know of a base LM is its type at most. They steer every token, the chat prefix too, so
their edits have the scope `everywhere`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hypersteer.edits.edit import Edit, VectorEdit
from hypersteer.edits.sites import Site
from hypersteer.errors import CheckpointError, SteeringError, one_line, shown
from hypersteer.files import is_file, read_json
from hypersteer.identity import of_type

SVEC = ".svec"


def edits_of(path: Path, vectors: Mapping[int, Any], model_type: str) -> list[Edit]:
    """Return vectors as edits of the output of blocks.

    Args:
        path: the file that they are from; its name is what the edits are called.
        vectors: vectors [D] by block.
        model_type: of the models that they are for; may be empty.

    Raises:
        CheckpointError: for a vector that is none, or is not finite.
    """
    try:
        return [
            VectorEdit(
                vector=vector,
                site=Site(layer),
                scope="everywhere",
                base_lm=of_type(model_type),
                steering_prompt=path.name,
            )
            for layer, vector in vectors.items()
        ]
    except SteeringError as error:
        raise CheckpointError(f"the edit '{path}' is damaged: {error}") from error


def read_svec(path: Path) -> list[Edit]:
    """Read a vector of CAST, which IBM's `activation-steering` writes (`SteeringVector.save`).

    It is JSON: `model_type`, `directions` with a list of numbers by layer, `explained_variances`.
    CAST adds the direction of layer N to the *input* of block N (`LeashLayer.forward`), where
    block N - 1 ends. That of layer 0, which would change the embeddings, is left out.

    Raises:
        CheckpointError: if the file is missing, damaged, or no such vector.
    """
    if not is_file(path):
        raise CheckpointError(f"no edit at '{path}'; give a vector of CAST, or what save() wrote")
    try:
        held = read_json(path)
        by_layer = held["directions"]
        vectors = {_layer(name): vector for name, vector in by_layer.items()}
        model_type = held.get("model_type", "")
    except KeyError as error:
        raise CheckpointError(f"'{path}' is no vector of CAST: it lacks {error}") from error
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"'{path}' is no vector of CAST: {one_line(error)}") from error
    vectors.pop(0, None)
    if not isinstance(model_type, str):
        raise CheckpointError(f"'{path}' is no vector of CAST: its type is {shown(model_type)}")
    if not vectors:
        raise CheckpointError(f"'{path}' has no vector of a layer above 0, and 0 is before block 0")
    found = edits_of(path, {layer - 1: vectors[layer] for layer in sorted(vectors)}, model_type)
    if len(widths := {one.width for one in found}) > 1:
        raise CheckpointError(f"'{path}' has vectors of different widths: {sorted(widths)}")
    return found


def _layer(name: str) -> int:
    """Return the number of a layer, which as a key of JSON is a text."""
    if not (name.isascii() and name.isdecimal()):
        raise ValueError(f"its layer {shown(name)} is no number")
    return int(name)
