"""The parts of the torture: what samples say, failpoints, the wrong clock, the command."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter

import pytest
from aiokafka import TopicPartition
from click.testing import CliRunner

from streamproc.kafka import failpoints
from tests.kafka.processes import ROOT
from tests.torture import __main__ as command
from tests.torture.progress import Recovery, Sample, recovery, standstill
from tests.torture.report import Report, figures
from tests.torture.run import Settings

IN, OUT = TopicPartition("in", 0), TopicPartition("out", 0)


def samples(*rows: tuple[float, int, int, int, int]) -> list[Sample]:
    """From time, committed and end of ``in``, committed and end of ``out``."""
    return [Sample(at, {IN: a, OUT: c}, {IN: b, OUT: d}) for at, a, b, c, d in rows]


STALLED = samples(
    (0.0, 5, 5, 5, 5),
    (1.0, 5, 9, 5, 5),
    (2.0, 5, 12, 5, 5),
    (3.0, 12, 13, 5, 12),
    (4.0, 13, 14, 12, 13),
    (5.0, 14, 14, 14, 14),
)


def test_a_recovery_is_when_all_moved_and_nothing_is_behind() -> None:
    assert recovery(STALLED[:4], 0.5, "in") is None
    assert recovery(STALLED, 0.5, "in") == Recovery(fed=1.5, moved=3.5, caught_up=3.5, still=1.0)
    assert recovery(STALLED, 9.0, "in") is None


def test_lanes_catch_up_one_by_one() -> None:
    turns = samples((0.0, 0, 5, 0, 5), (1.0, 6, 7, 4, 7), (2.0, 6, 9, 8, 9), (3.0, 6, 11, 8, 11))
    assert recovery(turns[:2], 0.0, "in") is None
    assert recovery(turns, 0.0, "in") == Recovery(fed=1.0, moved=1.0, caught_up=2.0, still=2.0)
    stuck = samples((0.0, 0, 5, 0, 5), (1.0, 6, 7, 4, 7), (2.0, 8, 9, 5, 9), (3.0, 9, 11, 6, 11))
    assert recovery(stuck, 0.0, "in") is None


def test_a_partition_without_work_does_not_stand_still() -> None:
    assert standstill(STALLED, IN) == 1.0
    assert standstill(STALLED[:3], OUT) == 0.0


def test_figures_are_medians_and_worsts() -> None:
    told = figures([Recovery(1, 2, 3, 4), Recovery(3, 4, 5, 6), None])
    assert told["moved"] == {"median": 3, "worst": 4}
    assert (told["count"], told["late"]) == (3, 1)


PASSING = """
from streamproc.kafka.failpoints import failpoint
for number in range(4):
    failpoint("sent")
    failpoint("committing")
    print(number, flush=True)
"""


@pytest.mark.parametrize(("text", "passed"), [("", 4), ("committing:3", 2), ("committing", 0), ("claimed:1", 4)])
def test_a_failpoint_kills_at_the_passing_that_was_named(text: str, passed: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PASSING],
        env={failpoints.VARIABLE: text}, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.stdout.split() == [str(number) for number in range(passed)], done.stderr
    assert done.returncode == (0 if passed == 4 else -signal.SIGKILL)


def test_a_failpoint_that_is_none_is_refused() -> None:
    for text in ("nowhere", "committing:soon"):
        with pytest.raises(ValueError, match="committing"):
            failpoints.Armed(text)


def test_a_wrong_clock_is_wrong_where_the_engine_reads_it() -> None:
    script = (
        "import time; right = time.time\n"
        "from tests.torture.worker import shift_clock\n"
        "readers = shift_clock(-3600)\n"
        "print(round(time.time() - right()))\n"
        "print(all(reader.datetime.now().timestamp() - right() < -3500 for reader in readers))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.split() == ["-3600", "True"], done.stderr


def test_the_command_tells_what_failed_and_how_to_do_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Settings] = []

    def run(settings: Settings, notify: object) -> Report:
        asked.append(settings)
        report = Report(
            settings.seed, settings.seconds, settings.workers, 4, 1, settings.command, faults=Counter(kill=2)
        )
        report.recoveries["kill"] = [Recovery(0.1, 0.2, 0.3, 0.4)]
        report.problems = {"Nothing is lost.": ["1 events without a result: (0, 7)"]}
        return report

    monkeypatch.setattr(command, "torture", run)
    words = ["--seconds", "5", "--seed", "7", "--faults", "kill,big"]
    shown = CliRunner().invoke(command.main, words)
    assert shown.exit_code == 1, shown.output
    assert asked[0].faults == ("kill", "big")
    assert "FAILED Nothing is lost." in shown.stdout
    assert "python -m tests.torture --seconds 5 --seed 7 --workers 3 --faults kill,big" in shown.stdout
    told = json.loads(CliRunner().invoke(command.main, [*words, "--json"]).stdout)
    assert (told["seed"], told["good"], told["recoveries"]["kill"]["moved"]["worst"]) == (7, False, 0.2)
    several = json.loads(CliRunner().invoke(command.main, [*words, "--seed", "7-9", "--json"]).stdout)
    assert (several["title"], several["faults"], several["seconds"]) == ("seeds 7 to 9", {"kill": 6}, 15.0)
    assert several["problems"]["Nothing is lost."][2] == "seed 9: 1 events without a result: (0, 7)"
    assert several["recoveries"]["kill"]["count"] == 3
    assert "1-20" in CliRunner().invoke(command.main, ["--seed", "9-7"]).output
    assert "no such fault: flood" in CliRunner().invoke(command.main, ["--faults", "flood"]).output
