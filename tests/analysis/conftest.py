"""Subjects of an analysis: tiny steerers on a few bundled concepts and base prompts."""

import json

import pytest

import tiny
from analysis.texts import PROMPTS, STEER
from hypersteer.analysis.subject import Subject
from hypersteer.data.sources import load_concepts


@pytest.fixture(scope="session")
def data():
    return load_concepts("bundled")


@pytest.fixture(scope="session")
def subject_of(data):
    """Makes a subject of a steerer, on the first so many concepts."""

    def make(steerer, concepts=4, name="tiny"):
        return Subject(
            name=name,
            steerer=steerer,
            data=data,
            concepts=data.concepts[:concepts],
            prompts=PROMPTS,
            steer=STEER,
        )

    return make


@pytest.fixture(scope="session")
def reading(subject_of):
    """A cross-attention hypernetwork on a tiny Llama."""
    return subject_of(tiny.steerer_of(tiny.lm_of("llama")))


@pytest.fixture(scope="session")
def blind(subject_of):
    """A hypernetwork that does not read the base prompt, on the same base LM."""
    return subject_of(tiny.steerer_of(tiny.lm_of("llama"), "no-context"), name="blind")


@pytest.fixture
def read_json():
    return lambda path: json.loads(path.read_text(encoding="utf-8"))
