"""``streamproc serve``: the door for HTTP."""

from __future__ import annotations

import os
from pathlib import Path

import click

from streamproc import logs
from streamproc.cli.options import connection_options, log_options, pipeline_argument
from streamproc.kafka.connection import Connection

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@pipeline_argument
@click.option("--port", type=click.IntRange(1, 65535), default=8080, show_default=True, help="Listen here.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--keys", type=FILE, help="A file of API keys: a line is NAME SHA256 [SCOPES].  [env: STREAMPROC_SERVE_KEYS]"
)
@click.option("--no-keys", "keyless", is_flag=True, help="Let whoever reaches an address that is not local do all.")
@click.option("--tls-certificate", "certificate", type=FILE, help="Serve TLS with this certificate (PEM).")
@click.option("--tls-key", "key", type=FILE, help="Its private key, where that is in a file of its own.")
@click.option("--client-ca", type=FILE, help="Callers need a certificate of this authority (mTLS).")
@click.option("--connections", type=click.IntRange(1), default=4000, show_default=True, help="So many at once.")
@click.option(
    "--create-topics/--no-create-topics",
    default=True,
    show_default=True,
    help="Make the pipeline's own topics where they are missing.",
)
@connection_options
@log_options
def serve(
    file: Path,
    port: int,
    host: str,
    keys: Path | None,
    keyless: bool,
    certificate: Path | None,
    key: Path | None,
    client_ca: Path | None,
    connections: int,
    create_topics: bool,
    connection: Connection,
    log_format: logs.LogFormat,
    log_level: str,
) -> None:
    """Serve a pipeline over HTTP: events in, decisions out. Workers (`streamproc run`) decide.

    Any number of doors may serve one pipeline. SIGTERM answers what was asked, and ends.

    \b
    Examples:
      streamproc serve pipeline.yaml
      streamproc serve pipeline.yaml --host 0.0.0.0 --port 8443 --keys keys.txt --tls-certificate door.pem
    """
    from streamproc.plan.inspect import ModelFacts
    from streamproc.plan.load import load_plan
    from streamproc.serve.callers import read_keys
    from streamproc.serve.run import run
    from streamproc.serve.settings import ServeSettings

    logs.configure(log_format, log_level)
    settings = ServeSettings(
        host=host,
        port=port,
        certificate=certificate,
        key=key,
        client_ca=client_ca,
        keyless=keyless,
        connections=connections,
    )
    loaded = load_plan(file, lambda *_: ModelFacts(""))  # only workers ask models
    run(loaded, connection, settings, read_keys(keys, os.environ), create=create_topics)
