"""``streamproc test``: the tests block of a pipeline file."""

from __future__ import annotations

import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import orjson
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from streamproc.cli.options import pipeline_argument
from streamproc.errors import Exit, UserError

if TYPE_CHECKING:
    from streamproc.core.plan import Plan, Rule
    from streamproc.pipeline import Pipeline
    from streamproc.plan.models import PipelineFile
    from streamproc.testing import Result

PASSED, FAILED = Text("pass", "green"), Text("FAIL", "bold red")
PLAIN_WIDTH = 160  # where there is no terminal


@click.command()
@pipeline_argument
@click.option("--only", multiple=True, metavar="NAME", help="Run this test; * stands for anything. May be repeated.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: counts, and every test's outcome.")
def test(file: Path, only: tuple[str, ...], as_json: bool) -> None:
    """Run the tests of a pipeline file through the real processor, without Kafka.

    Only what a test states under expect: is compared. A failing test shows what was expected, what came, and
    why: each rule with its outcome and the values that it read. Exit code 1 if one fails, or there is none.

    \b
    Examples:
      streamproc test pipeline.yaml
      streamproc test pipeline.yaml --only 'a large loan*'
    """
    from streamproc.pipeline import open_pipeline
    from streamproc.testing import run_tests

    pipeline = open_pipeline(file, masked=False)
    _demand(pipeline, file, only)
    results = run_tests(pipeline, lambda name: not only or any(fnmatchcase(name, one) for one in only))
    failed = sum(not result.passed for result in results)
    if as_json:
        summary = {
            "file": str(file),
            "plan": pipeline.plan.hash,
            "passed": len(results) - failed,
            "failed": failed,
        }
        click.echo(orjson.dumps({**summary, "tests": list(map(_as_json, results))}, option=orjson.OPT_INDENT_2))
    else:
        _show(pipeline, file, results, failed)
    sys.exit(Exit.INPUT if failed else Exit.GOOD)


def _demand(pipeline: Pipeline, file: Path, only: tuple[str, ...]) -> None:
    """Raises UserError where there is nothing to run."""
    names = [part.name for part in pipeline.loaded.file.tests]
    if not names:
        hint = "add `tests:` to it; docs/pipeline-file.md shows how, `streamproc init DIR` makes some"
        raise UserError(f"{file} has no tests", hint)
    for pattern in only:
        if not any(fnmatchcase(name, pattern) for name in names):
            from streamproc.plan.names import near

            raise UserError(f"{file} has no test {pattern!r}", near(pattern, names, "tests"))


def _as_json(result: Result) -> dict[str, Any]:
    outcome = result.outcome
    return {
        "name": result.name,
        "line": result.line,
        "passed": result.passed,
        "differences": [{"what": one.what, "expected": one.expected, "got": one.got} for one in result.differences],
        "decision": outcome.decision,
        "dead_letter": outcome.dead_letter,
    }


def _show(pipeline: Pipeline, file: Path, results: list[Result], failed: int) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    with console.capture() as captured:
        _print(console, pipeline, file, results, failed)
    # Tables fill their cells with blanks.
    click.echo("\n".join(line.rstrip() for line in captured.get().split("\n")), nl=False, color=True)


def _print(console: Console, pipeline: Pipeline, file: Path, results: list[Result], failed: int) -> None:
    for result in results:
        place = Text("" if result.passed else f" {file}:{result.line}", "dim")
        console.print(PASSED if result.passed else FAILED, Text(result.name) + place, soft_wrap=True)
        if not result.passed:
            console.print(Padding(Group(*_why(pipeline, result)), (0, 0, 1, 5), expand=False))
    passed = len(results) - failed
    console.print(Text(f"{passed} passed" + (f", {failed} failed" if failed else ""), "red" if failed else "green"))


def _why(pipeline: Pipeline, result: Result) -> list[RenderableType]:
    table = Table("", "expected", "got", box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for one in result.differences:
        table.add_row(one.what, Text(_shown(one.expected), "green"), Text(_shown(one.got), "red"))
    outcome = result.outcome
    if outcome.decision is None:
        return [table, Text(f"\nwhy: the event was refused: {outcome.dead_letter} ({outcome.detail})")]
    decision = outcome.decision
    lines: list[RenderableType] = [table, Text(f"\nwhy: {_reason(pipeline.plan, decision)}")]
    if pipeline.plan.model is not None or decision["confidence"] is not None:
        scored = "none" if decision["score"] is None else _shown(decision["score"])
        missing = f" ({decision['score_reason']})" if decision["score_reason"] else ""
        lines.append(Text(f"score: {scored}{missing}, confidence: {_shown(decision['confidence'])}"))
    return [*lines, _rules(pipeline.plan, pipeline.loaded.file, decision)]


def _reason(plan: Plan, decision: Any) -> str:
    match decision["why"]:
        case "rule" if decision["rule"] in {rule.id for rule in plan.rules}:
            return f"rule {decision['rule']} was the first that matched"
        case "undecided":
            rule = next((r.id for r in plan.rules if r.id in decision["undecided"] and not r.observe), "")
            return f"rule {rule} could not be evaluated, so `undecided` decided"
        case why:
            because = {
                "rule": "a rule left it to the fallback chain",
                "low_confidence": "a rule that reads confidence left it to the fallback chain",
                "no_score": "there was no usable score",
                "no_rule": "no rule matched",
                "stale": "the event was too old",
            }
            end = (
                f"rule {decision['rule']} of the fallback chain decided" if decision["rule"] else "no fallback decided"
            )
            return f"{because.get(why, why)}, and {end}"


def _rules(plan: Plan, file: PipelineFile, decision: Any) -> Table:
    """Every rule with its outcome and what it read."""
    table = Table("rule", "outcome", "values", box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    matched = {*decision["rules"], *decision["observed"]}
    ruled = decision["why"] == "undecided" or decision["rule"] in {rule.id for rule in plan.rules}
    chain = plan.rules if ruled else (*plan.rules, *plan.fallback)
    for rule in chain:
        if rule.id in matched or rule.id == decision["rule"]:
            outcome = Text("matches", "green")
        elif rule.id in decision["undecided"]:
            outcome = Text("unknown", "yellow")
        else:
            outcome = Text("-", "dim")
        table.add_row(rule.id, outcome, Text(_values(rule, file, decision)))
    return table


def _values(rule: Rule, file: PipelineFile, decision: Any) -> str:
    if rule.when is None:
        return "always matches"
    own = {name: decision[name] for name in ("score", "confidence", "scored_by")} | {"event_time": decision["time"]}
    values = {**file.params, **own, **decision["features"]}
    names = [*sorted(rule.when.columns), *sorted(rule.when.params)]
    read = ", ".join(f"{name} = {_shown(values.get(name))}" for name in names)
    condition = " ".join(rule.when.text.split())
    return f"{condition}\n  {read}" if read else condition


def _shown(value: Any) -> str:
    """A value as YAML and JSON have it."""
    return value if isinstance(value, str) else orjson.dumps(value, default=str).decode()
