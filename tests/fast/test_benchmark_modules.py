"""The benchmarks can be run: they use the package's inner parts, and nobody else tells when these change."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

import benchmarks
from benchmarks import review_cost, stages
from benchmarks.jobs import JOBS

BESIDE = {"quixstreams"}
"""What only a comparison needs, and is installed for that."""
MODULES = [found.name for found in pkgutil.walk_packages(benchmarks.__path__, "benchmarks.")]


@pytest.mark.parametrize("name", MODULES)
def test_it_is_whole(name: str) -> None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        assert error.name in BESIDE


def test_the_stages_are_measured() -> None:
    found = stages.measure(JOBS["full"], 36)
    assert {"stage: contract", "stage: rules", "effects", "place", "record batches"} <= set(found)
    assert all(milliseconds >= 0.0 for milliseconds in found.values())


def test_what_review_costs_is_measured() -> None:
    assert len(review_cost.measure(36)) == review_cost.TIMES
