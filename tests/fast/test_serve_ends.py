"""How long ago an offset was the end of a partition."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamproc.serve.ends import SAMPLES, SHARE, Ends


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(0, 100))
def test_the_age_of_a_record_is_since_its_end_was_seen(steps: list[int], position: int) -> None:
    ends, end, seen = Ends(), 0, list[tuple[int, int]]()
    for now, step in enumerate(steps):
        end += step
        seen.append((now, end))
        ends.add(float(now), end)
    since = next((now for now, at in seen if at > position), None)
    assert ends.age(50.0, position) == (0.0 if since is None else 50.0 - since)


def test_an_age_of_days_is_known_in_bounded_memory() -> None:
    ends, seconds = Ends(), 200_000
    for now in range(seconds):
        ends.add(float(now), now + 1)  # at each second comes the record with its number
        assert len(ends) <= SAMPLES
    for position in (0, 1, 1_000, seconds // 2, seconds - 700, seconds - 5, seconds - 1):
        age = seconds - position
        assert age <= ends.age(seconds, position) <= age * (1 + SHARE)
    assert ends.age(seconds, seconds) == 0


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(0, 100), st.integers(0, 100))
def test_what_was_passed_is_forgotten_and_changes_no_age(steps: list[int], passed: int, position: int) -> None:
    whole, short, end = Ends(), Ends(), 0
    for now, step in enumerate(steps):
        end += step
        for ends in (whole, short):
            ends.add(float(now), end)
        short.forget(passed)
    assert short.age(50.0, max(passed, position)) == whole.age(50.0, max(passed, position))
    assert passed < end or len(short) == 1
