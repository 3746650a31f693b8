"""``streamproc check``: everything that is wrong with a pipeline file, at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import orjson

from streamproc.errors import Exit, PipelineError, Problem, UserError
from streamproc.wording import counted


@click.command()
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE", required=False)
@click.option("--schema", is_flag=True, help="Print the JSON Schema of pipeline files, for editors, and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: ok, counts, problems, warnings.")
@click.pass_context
def check(ctx: click.Context, file: Path | None, schema: bool, as_json: bool) -> None:
    """Check a pipeline file: its shape, contract, model, every expression, every rule, every test.

    Each problem is printed as FILE:LINE:COLUMN, what is wrong, and below it what would be right. Nothing is
    run and no broker is needed. Exit code 1 if there is a problem.

    \b
    Examples:
      streamproc check pipeline.yaml
      streamproc check pipeline.yaml --json | jq '.problems[].message'
      streamproc check --schema > pipeline.schema.json
    """
    if schema:
        from streamproc.plan.models import json_schema

        _print_json(json_schema())
        return
    if file is None:
        raise click.UsageError("Missing argument 'FILE'.", ctx)
    from streamproc.pipeline import open_pipeline

    try:
        pipeline = open_pipeline(file, masked=False)
    except UserError as error:
        if not as_json:
            raise
        _print_json({"file": str(file), "ok": False, "problems": _problems(file, error), "warnings": []})
        sys.exit(Exit.INPUT)
    warnings = sorted(pipeline.loaded.document.warnings)
    plan, tests = pipeline.plan, len(pipeline.loaded.file.tests)
    features, rules = len(plan.features), len(plan.rules) + len(plan.fallback)
    if as_json:
        counts = {"features": features, "rules": rules, "tests": tests}
        told = {"problems": [], "warnings": list(map(_told, warnings))}
        _print_json({"file": str(file), "ok": True, **told, **counts, "plan": plan.hash})
        return
    for warning in warnings:
        click.echo(warning, err=True)
    what = f"{counted(features, 'feature')}, {counted(rules, 'rule')}, {counted(tests, 'test')}"
    click.echo(f"{file}: good: {what}, plan {plan.hash}")


def _problems(file: Path, error: UserError) -> list[dict[str, Any]]:
    if not isinstance(error, PipelineError):
        return [{"file": str(file), "line": 1, "column": 1, "message": error.message, "remedy": error.hint}]
    return list(map(_told, error.problems))


def _told(problem: Problem) -> dict[str, Any]:
    return {
        "file": str(problem.file),
        "line": problem.line,
        "column": problem.column,
        "message": problem.message,
        "remedy": problem.remedy,
    }


def _print_json(value: Any) -> None:
    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2))
