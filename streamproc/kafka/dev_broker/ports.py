"""Ports on 127.0.0.1 that nobody uses at the moment."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator

from streamproc.kafka.dev_broker.config import HOST

# Below the range that systems give to outgoing connections: a client that knocks at the port of a stopped
# broker in that range may be connected to itself, and then the broker cannot have its port back.
PORTS = range(20_000, 32_000)


def free_ports() -> Iterator[int]:
    """Free ports in an order that no other process has."""
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        if is_free(port):
            yield port


def is_free(port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
