"""``streamproc dev``: Kafka for development, in the foreground."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import FrameType

import click
import orjson

from streamproc.errors import EnvironmentFault
from streamproc.kafka.dev_broker import BrokerConfig, DevBroker


@click.command(short_help="Start Kafka for development.")
@click.option("--port", type=click.IntRange(1, 65535), help="The port on 127.0.0.1.  [default: a free one]")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep the data in this directory.  [default: a temporary one, removed at the end]",
)
@click.option("--brokers", type=click.IntRange(1, 5), default=1, show_default=True, help="How many, as one cluster.")
@click.option("--heap", default="1g", show_default=True, help="Memory of each broker's heap, as Java writes it.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text, once it is up.")
def dev(port: int | None, data_dir: Path | None, brokers: int, heap: str, as_json: bool) -> None:
    """Start Apache Kafka in the foreground, without Docker and without an installed Java.

    It listens on 127.0.0.1 only, and ends with Ctrl-C. Three brokers keep three copies of each topic and want two of
    them in sync: one can be killed (the pids are told) without losing anything.

    \b
    Examples:
      streamproc dev --port 9092
      streamproc dev --data-dir ./kafka-data --json
      streamproc dev --brokers 3 --heap 512m
    """
    config = BrokerConfig(data_dir=data_dir, port=port, nodes=brokers, heap=heap)
    broker = DevBroker(config, notify=lambda text: click.echo(text, err=True))
    previous = {number: signal.signal(number, _stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with broker:
            _announce(broker, as_json)
            broker.wait()
            raise EnvironmentFault("Kafka ended by itself", hint=broker.last_words())
    except _StopAsked:
        if not as_json:
            click.echo("stopped", err=True)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _announce(broker: DevBroker, as_json: bool) -> None:
    if as_json:
        facts = {
            "address": broker.address,
            "version": broker.version,
            "data_dir": str(broker.data_dir),
            "log": str(broker.log_path),
            "pid": broker.pid,
            "pids": list(broker.pids.values()),
        }
        click.echo(orjson.dumps(facts))
    else:
        click.echo(f"Apache Kafka {broker.version} at {broker.address}")
        click.echo(f"  data  {broker.data_dir}{'' if broker.config.data_dir else '  (removed at the end)'}")
        click.echo(f"  log   {broker.log_path}")
        click.echo(f"  use   export STREAMPROC_KAFKA={broker.address}")
        if len(broker.pids) > 1:
            click.echo(f"  pids  {', '.join(map(str, broker.pids.values()))}, in the order of the addresses")
        click.echo("  stop  Ctrl-C")
    sys.stdout.flush()


class _StopAsked(BaseException):
    """Ctrl-C or SIGTERM. Not an Exception: nothing on the way may take it for an error."""


def _stop(number: int, frame: FrameType | None) -> None:
    for other in (signal.SIGINT, signal.SIGTERM):
        signal.signal(other, signal.SIG_IGN)  # stopping is bounded, and is not to be interrupted
    raise _StopAsked
