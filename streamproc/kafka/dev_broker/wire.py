"""Is the broker ready? The two smallest requests of Kafka's protocol over a plain socket."""

from __future__ import annotations

import socket
import struct

_METADATA = 3
_API_VERSIONS = 18


def unfenced_brokers(host: str, port: int, timeout: float = 2.0) -> set[int]:
    """The ids of the brokers that serve clients, as the broker at this address knows them.

    Empty while there is no active controller. Raises OSError where nothing, or no Kafka, listens.
    """
    with socket.create_connection((host, port), timeout=timeout) as connection:
        _ask(connection, _API_VERSIONS, 0, b"")
        answer = _ask(connection, _METADATA, 1, struct.pack(">i", 0))
    try:
        return _brokers(answer)
    except struct.error as error:
        raise OSError(f"no Kafka answers at {host}:{port}") from error


def _ask(connection: socket.socket, key: int, version: int, body: bytes) -> bytes:
    message = struct.pack(">hhih", key, version, 1, -1) + body
    connection.sendall(struct.pack(">i", len(message)) + message)
    (size,) = struct.unpack(">i", _exactly(connection, 4))
    if not 4 <= size <= 1 << 20:
        raise OSError("the answer is no Kafka response")
    return _exactly(connection, size)[4:]


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise ConnectionError("the broker closed the connection")
        data += piece
    return data


def _brokers(answer: bytes) -> set[int]:
    (count,) = struct.unpack_from(">i", answer)
    position = 4
    brokers = set()
    for _ in range(count):
        (broker,) = struct.unpack_from(">i", answer, position)
        (length,) = struct.unpack_from(">h", answer, position + 4)
        position += 6 + length + 4  # id, host, port
        (length,) = struct.unpack_from(">h", answer, position)
        position += 2 + max(length, 0)  # rack
        brokers.add(broker)
    (controller,) = struct.unpack_from(">i", answer, position)
    return brokers if controller >= 0 else set()
