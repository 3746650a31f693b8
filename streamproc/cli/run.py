"""``streamproc run``: the worker."""

from __future__ import annotations

from pathlib import Path

import click

from streamproc import logs
from streamproc.cli.options import connection_options, log_options, pipeline_argument
from streamproc.kafka.connection import Connection


@click.command()
@pipeline_argument
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=1,
    help="Processes under one parent, which restarts them.",
)
@click.option(
    "--web-port", type=click.IntRange(1, 65535), help="Serve /healthz and /metrics here (worker N: port + N)."
)
@click.option("--web-host", default="127.0.0.1", show_default=True, help="The address that they are served on.")
@click.option(
    "--artefacts",
    type=click.Path(file_okay=False, path_type=Path),
    help="Archive plans and models in this directory instead of a topic.",
)
@click.option(
    "--create-topics/--no-create-topics",
    default=True,
    show_default=True,
    help="Make the pipeline's own topics where they are missing.",
)
@click.option("--watchdog", type=float, default=60.0, show_default=True, help="Seconds that a lane may be stuck.")
@click.option(
    "--session-timeout",
    type=float,
    default=6.0,
    show_default=True,
    help="Seconds until a silent worker is replaced.",
)
@click.option(
    "--state-dir",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="STREAMPROC_STATE_DIR",
    show_envvar=True,
    help="Keep checkpoints of the lanes' state here, and start from them.",
)
@click.option(
    "--checkpoint",
    type=click.FloatRange(min=1.0),
    default=300.0,
    show_default=True,
    help="Seconds between two checkpoints of a lane.",
)
@click.option("--supervised", is_flag=True, hidden=True)
@connection_options
@log_options
@click.pass_context
def run(
    ctx: click.Context,
    file: Path,
    workers: int,
    web_port: int | None,
    web_host: str,
    artefacts: Path | None,
    create_topics: bool,
    watchdog: float,
    session_timeout: float,
    state_dir: Path | None,
    checkpoint: float,
    supervised: bool,
    connection: Connection,
    log_format: logs.LogFormat,
    log_level: str,
) -> None:
    """Run a pipeline: events in, decisions out, exactly once.

    SIGTERM finishes the batches in flight and leaves the group.

    \b
    Examples:
      streamproc run pipeline.yaml
      streamproc run pipeline.yaml --kafka kafka:9092 --workers 4 --web-port 8080
    """
    from streamproc.turn import Turn, stand_by

    turn = stand_by() if supervised else Turn(web_port)
    if turn is None:
        return
    from streamproc.pipeline import open_pipeline

    logs.configure(log_format, log_level)
    pipeline = open_pipeline(file)
    if workers > 1:
        from streamproc.supervisor import Supervisor, worker_command

        arguments = [str(file), *_passed_on(ctx)]
        ctx.exit(Supervisor(worker_command(arguments), workers, web_port).run())
    from streamproc.app import WorkerSettings
    from streamproc.kafka.lanes import LaneSettings
    from streamproc.worker import run_in_process, stop_with_parent

    if supervised:
        stop_with_parent()
    settings = WorkerSettings(
        session_timeout=session_timeout,
        web_host=web_host,
        web_port=turn.web_port,
        lanes=LaneSettings(watchdog=watchdog, state_dir=state_dir, checkpoint=checkpoint),
    )
    restarts = turn.restarts
    run_in_process(pipeline, connection, settings, create=create_topics, archive=artefacts, restarts=restarts)


def _passed_on(ctx: click.Context) -> list[str]:
    """The options as they were given, for the worker processes; what the parent does itself is left out."""
    own = {"workers", "web_port", "supervised", "file"}
    words: list[str] = []
    for parameter in ctx.command.params:
        name = parameter.name or ""
        if name in own or not isinstance(parameter, click.Option):
            continue
        value = ctx.params.get(name, ctx.obj.get(name) if isinstance(ctx.obj, dict) else None)
        source = ctx.get_parameter_source(name)
        if value is None or source is not click.core.ParameterSource.COMMANDLINE:
            continue
        if parameter.is_flag:
            words.append(parameter.opts[0] if value else (parameter.secondary_opts or parameter.opts)[0])
        else:
            words += [parameter.opts[0], str(value)]
    return words
