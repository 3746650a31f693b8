"""``python -m benchmarks.drift``: every figure of docs/drift.md."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import orjson

from benchmarks.drift import budget, cost, delays, errors, loans, run_lengths, seen

SEED = 20_000
PARTS = ("budget", "delays", "errors", "loans", "lengths", "cost", "seen")


def main() -> None:
    """Run the parts that are asked for, tell of each as it comes, and print all at the end."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drift", description="How good the drift monitors are.")
    parser.add_argument("--part", default=",".join(PARTS), help=f"some of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--events", type=int, default=20_000_000, help="of each steady stream (default: 20 M)")
    parser.add_argument("--references", type=int, default=20, help="of each stream (default: 20)")
    parser.add_argument("--runs", type=int, default=200, help="of each change (default: 200)")
    parser.add_argument("--only", default="", help="streams and changes whose name contains this")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args()
    parts = [part for part in options.part.split(",") if part in PARTS]
    found: dict[str, Any] = {}
    for part in parts:
        found[part] = []
        for row in _rows(part, options):
            found[part].append(row)
            print(_line(part, row), file=sys.stderr if options.json else sys.stdout, flush=True)
    if options.json:
        print(orjson.dumps(found).decode())


def _rows(part: str, options: argparse.Namespace) -> Any:
    started = time.monotonic()
    match part:
        case "budget":
            for setting in budget.SETTINGS:
                if options.only in setting.name:
                    row = budget.measure(setting, options.events, options.references, options.seed)
                    yield row | {"seconds": round(time.monotonic() - started)}
                    started = time.monotonic()
        case "delays":
            for name in delays.SCENARIOS:
                if options.only in name:
                    yield delays.measure(name, options.runs, options.seed)
        case "errors":
            yield from errors.measure(options.seed)
        case "loans":
            yield from loans.measure()
        case "lengths":
            yield from run_lengths.measure(100_000, options.seed)
        case "cost":
            yield from cost.measure()
        case "seen":
            yield from seen.measure()


def _line(part: str, row: dict[str, Any]) -> str:
    match part:
        case "budget":
            where = f"{row['stream']:<22} {row['columns']:>3} columns, reference {row['reference']:>6,}"
            what = f"{row['events']:>11,} events {row['alarms']:>4} alarms {row['of_budget']:>6.2f} of the budget"
            return f"{where}: {what}, {row['tests_off']:.0%} of tests off {row['by_test']} {row['seconds']} s"
        case "delays":
            goal = "" if row["goal"] is None else f" (goal {row['goal']:,})"
            what = f"median {row['median']:>7,.0f}, 90 % {row['ninety']:>7,.0f}{goal}, missed {row['missed']:.1%}"
            return f"{row['change']:<34} {what}, {row['alarms_before']} alarms before, {row['runs']} runs"
        case "errors":
            per = f"one per {row['events_per_alarm']:>9,.0f} events, errors {row['errors']:.0%} and then 5 % more"
            told = (
                f"{name} {row['of_budget'][name]:.2f} of it, {delay:,.0f} events"
                for name, delay in row["delays"].items()
            )
            return f"{per}: {'; '.join(told)}"
        case "lengths":
            what = f"published {row['published']:>7.2f}, simulated {row['simulated']:>7.2f}, {row['off']:+.1%}"
            return f"{row['chart']:<20} shift {row['shift']:<4}: {what}"
        case "cost":
            core = f", {row['of_a_core']:.0%} of a core at {cost.EVENTS_PER_SECOND:,}/s" if "of_a_core" in row else ""
            return f"{row['what']:<68} {row['us_per_event']:.2f} µs an event, {row['ms_a_batch']:.2f} ms a batch{core}"
        case _:
            return f"{row['what']:<44} {row['value']}"


if __name__ == "__main__":
    main()
