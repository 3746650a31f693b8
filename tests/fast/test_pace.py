"""When works begin: pure arithmetic on times that are given."""

from __future__ import annotations

import pytest

from streamproc.kafka.pace import APART, MARGIN, MOST_APART, Mean, Pace


def pace(transaction: float, work: float) -> Pace:
    made = Pace()
    made.transaction.took(transaction)
    made.worked("decide", work)
    return made


def test_what_comes_first_begins_at_once() -> None:
    assert pace(0.03, 0.01).wait("decide", 5.0) == 0.0


@pytest.mark.parametrize(
    ("transaction", "work", "apart"),
    [(0.004, 0.002, APART * 0.006), (0.008, 0.006, APART * 0.014), (0.02, 0.02, MOST_APART), (0.02, 3.0, MOST_APART)],
)
def test_the_slower_works_are_the_fewer_they_become_to_a_bound(transaction: float, work: float, apart: float) -> None:
    made = pace(transaction, work)
    made.starts("decide", 5.0)
    assert made.due("decide") == pytest.approx(5.0 + apart)
    assert made.wait("decide", 5.0) == pytest.approx(apart)
    assert made.wait("decide", 5.0 + apart) == pytest.approx(0.0)
    assert made.wait("decide", 60.0) == 0.0


def test_where_much_is_there_nothing_is_put_off() -> None:
    made = pace(0.008, 0.006)
    made.starts("decide", 5.0)
    assert made.wait("decide", 5.0, patience=0.1) == pytest.approx(0.1)
    assert made.wait("decide", 5.0, patience=0.1, much=True) == 0.0


def test_a_work_does_not_finish_long_before_the_transaction_under_way() -> None:
    made = pace(0.05, 0.01)
    made.starts("decide", 5.0)
    made.begins(5.02)
    assert made.wait("decide", 5.02) == pytest.approx(0.05 - 0.01 - MARGIN)
    assert made.wait("decide", 5.02, much=True) == pytest.approx(0.05 - 0.01 - MARGIN)
    made.ends(5.04)
    assert made.wait("decide", 5.04, much=True) == 0.0


def test_agents_do_not_wait_for_one_another() -> None:
    made = pace(0.008, 0.006)
    made.starts("decide", 5.0)
    assert made.wait("drift", 5.0) == 0.0


def test_a_wait_for_a_broker_that_was_away_says_little_of_what_comes() -> None:
    mean = Mean()
    mean.took(0.01)
    mean.took(600.0)
    assert mean.seconds <= 0.01 + 0.2 * 0.1
