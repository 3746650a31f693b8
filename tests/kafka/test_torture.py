"""Short runs of the torture with fixed seeds. No time is asserted, but that everything is drained in a bound."""

from __future__ import annotations

import asyncio

import pytest

from streamproc.kafka.connection import Connection
from tests.torture.recreated import recreated
from tests.torture.run import Settings, torture
from tests.torture.seeds import SECONDS, SEEDS

pytestmark = pytest.mark.long


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("seed", "faults"), SEEDS, ids=[f"seed {seed}" for seed, _ in SEEDS])
def test_nothing_is_lost_doubled_or_different(seed: int, faults: tuple[str, ...]) -> None:
    said: list[str] = []
    report = torture(Settings(SECONDS, seed, faults=faults), said.append)
    problems = {check: told for check, told in report.problems.items() if told}
    assert not problems, (report.command, report.logs, report.said, said)
    assert report.drained is not None
    assert report.events > 1_000


@pytest.mark.timeout(300)
def test_a_topic_made_anew_stops_its_lanes(connection: Connection) -> None:
    assert asyncio.run(recreated(connection)) == []
