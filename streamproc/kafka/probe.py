"""Asking a broker who it is before anything relies on it, with an answer that a person can act on."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiokafka import errors as kafka_errors
from aiokafka.conn import collect_hosts, create_conn
from aiokafka.protocol.metadata import MetadataRequest

from streamproc.errors import BrokerTooOld, BrokerUnavailable

if TYPE_CHECKING:
    from streamproc.kafka.connection import Connection

NO_BROKER_HINT = "start one with `streamproc dev`, or pass --kafka HOST:PORT"
WITH_LOGIN = {"PLAINTEXT": "SASL_PLAINTEXT", "SSL": "SASL_SSL"}
WITHOUT_LOGIN = {protocol: plain for plain, protocol in WITH_LOGIN.items()}


@dataclass(frozen=True)
class Required:
    """A request that the broker must understand in this version at least."""

    key: int
    name: str
    version: int
    since: str  # the first Kafka that has it
    why: str


REQUIRED = (
    Required(0, "Produce", 3, "0.11", "records with headers, in transactions"),
    Required(1, "Fetch", 4, "0.11", "read_committed"),
    Required(3, "Metadata", 10, "2.8", "topic ids, to notice a topic that was deleted and made again"),
    Required(9, "OffsetFetch", 7, "2.5", "offsets that no open transaction can still change"),
    Required(10, "FindCoordinator", 1, "0.11", "coordinators of transactions"),
    Required(22, "InitProducerId", 1, "2.0", "transactions"),
    Required(28, "TxnOffsetCommit", 3, "2.5", "offsets that are checked against the group's generation"),
)
OLDEST = "2.8"

# The highest Fetch version of each release, from Apache Kafka's FetchRequest.json and its history.
_FETCH_OF = {
    4: "0.11",
    6: "1.0",
    7: "1.1",
    8: "2.0",
    10: "2.1",
    11: "2.3",
    12: "2.7",
    13: "3.1",
    15: "3.5",
    16: "3.7",
    17: "3.9",
    18: "4.1",
}


@dataclass(frozen=True)
class BrokerInfo:
    """What a broker said about itself and its cluster."""

    address: str
    cluster_id: str | None
    brokers: Mapping[int, str]  # "host:port" by broker id
    versions: Mapping[int, tuple[int, int]]  # lowest and highest version by API key

    @property
    def release(self) -> str:
        """Which Kafka this is, guessed from the versions: the first release that has them."""
        highest = self.versions.get(1, (0, 0))[1]
        at_least = [name for version, name in _FETCH_OF.items() if version <= highest]
        return f"Kafka {at_least[-1]} or later" if at_least else "a Kafka older than 0.11"


class _LoginWanted(kafka_errors.KafkaConnectionError):
    """The broker told its versions, which anybody may ask for, and hung up on the next request."""


def require(info: BrokerInfo) -> None:
    """Raises BrokerTooOld if the broker lacks what exactly-once lanes need."""
    lacking = []
    for one in REQUIRED:
        highest = info.versions.get(one.key, (0, -1))[1]
        if highest < one.version:
            has = f"has {highest}" if highest >= 0 else "has none"
            lacking.append(f"{one.name} {one.version} ({has})")
    if lacking:
        raise BrokerTooOld(
            f"the broker at {info.address} looks like {info.release} and lacks {', '.join(lacking)}",
            hint=f"streamproc needs Apache Kafka {OLDEST} or later",
        )


async def probe(connection: Connection, timeout: float = 5.0) -> BrokerInfo:  # noqa: ASYNC109 - part of the message
    """Ask the first bootstrap server that answers. Raises BrokerUnavailable that says what is in the way.

    ``timeout`` is in seconds, for all addresses together.
    """
    kwargs = connection.client_kwargs()
    servers = kwargs.pop("bootstrap_servers")
    for name in ("metadata_max_age_ms", "connections_max_idle_ms", "retry_backoff_ms"):
        kwargs.pop(name)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    hosts = collect_hosts(servers)
    failures = []
    with _quiet():
        for left, (host, port, _) in zip(range(len(hosts), 0, -1), hosts, strict=True):
            share = max(0.1, (deadline - loop.time()) / left)
            try:
                async with asyncio.timeout(share):
                    return await _ask(host, port, kwargs | {"request_timeout_ms": int(share * 1000) + 1000})
            except (OSError, kafka_errors.KafkaError, TimeoutError, ValueError) as error:
                failures.append((_explain(error, f"{host}:{port}", connection, share), error))
    # refused connections say least: another address may have said more
    failures.sort(key=lambda failure: isinstance(failure[1], ConnectionRefusedError))
    explained, cause = failures[0]
    raise explained from cause


async def _ask(host: str, port: int, kwargs: dict[str, Any]) -> BrokerInfo:
    conn = await create_conn(host, port, **kwargs)
    try:
        try:
            answer = await conn.send(MetadataRequest([]))
        except kafka_errors.KafkaConnectionError as error:
            raise _LoginWanted(str(error)) from error
        if not answer.brokers:
            raise kafka_errors.KafkaConnectionError("an answer without brokers")
        return BrokerInfo(
            address=f"{host}:{port}",
            cluster_id=getattr(answer, "cluster_id", None),
            brokers={broker[0]: f"{broker[1]}:{broker[2]}" for broker in answer.brokers},
            versions=dict(conn._versions),
        )
    finally:
        await conn.close()


def _explain(error: Exception, at: str, connection: Connection, seconds: float) -> BrokerUnavailable:
    protocol = connection.security_protocol
    match error:
        case ssl.SSLCertVerificationError():
            return BrokerUnavailable(
                f"the TLS certificate of the broker at {at} is not trusted: {error.verify_message}",
                hint="set ssl_ca to the certificate of the authority that issued it",
            )
        case ssl.SSLError():
            return BrokerUnavailable(
                f"no TLS connection to {at}: {error.reason or error}",
                hint=_other_listener(protocol),
            )
        case ConnectionRefusedError():
            return BrokerUnavailable(f"no Kafka broker answers at {at}", hint=NO_BROKER_HINT)
        case socket.gaierror():
            return BrokerUnavailable(f"the host of {at} is not known: {error.strerror}", hint=NO_BROKER_HINT)
        case kafka_errors.UnsupportedSaslMechanismError():
            return BrokerUnavailable(
                f"the broker at {at} does not offer sasl_mechanism {connection.sasl_mechanism}",
                hint="ask for the mechanisms of this listener",
            )
        case kafka_errors.IllegalSaslStateError():
            other = WITHOUT_LOGIN.get(protocol, "PLAINTEXT")
            return BrokerUnavailable(
                f"the listener at {at} takes no login, and security_protocol is {protocol}",
                hint=f"use the address of a listener with SASL; or set security_protocol to {other}"
                " and leave out sasl_mechanism and what goes with it",
            )
        case _LoginWanted() if protocol in WITH_LOGIN:
            return BrokerUnavailable(
                f"the listener at {at} wants a login, and security_protocol is {protocol}",
                hint=f"set security_protocol to {WITH_LOGIN[protocol]} and sasl_mechanism, username and password with"
                " it; or use the address of a listener without SASL",
            )
        case kafka_errors.SaslAuthenticationFailed() | kafka_errors.AuthenticationFailedError():
            return _login_refused(at, connection)
        case kafka_errors.RequestTimedOutError() | TimeoutError():
            return BrokerUnavailable(
                f"{at} did not answer as a Kafka broker within {seconds:.1f} s",
                hint=f"is it Kafka, and a listener for security_protocol {protocol}?",
            )
        case kafka_errors.KafkaConnectionError() | ConnectionError():
            # A broker that did not let us in closes the connection or names no brokers. A refused token shows
            # in no other way: aiokafka takes the broker's answer to it for a yes.
            if connection.sasl_mechanism == "OAUTHBEARER":
                return _login_refused(at, connection)
            return BrokerUnavailable(
                f"the broker at {at} closed the connection or told nothing",
                hint=_other_listener(protocol),
            )
        case OSError():
            return BrokerUnavailable(f"no connection to {at}: {error.strerror or error}", hint=NO_BROKER_HINT)
    return BrokerUnavailable(f"{at} does not answer as a Kafka broker: {type(error).__name__}", hint=NO_BROKER_HINT)


def _other_listener(protocol: str) -> str:
    """What to try where the two ends do not agree about TLS."""
    if protocol.endswith("SSL"):
        return f"is it a listener for security_protocol {protocol}? Without TLS it is PLAINTEXT or SASL_PLAINTEXT"
    return f"is it a listener for security_protocol {protocol}? With TLS it is SSL or SASL_SSL"


def _login_refused(at: str, connection: Connection) -> BrokerUnavailable:
    who = f" of {connection.username!r}" if connection.username else ""
    return BrokerUnavailable(
        f"the broker at {at} refused the login{who} with {connection.sasl_mechanism}",
        hint="check " + ("the token" if connection.sasl_mechanism == "OAUTHBEARER" else "username and password"),
    )


_silent: ContextVar[bool] = ContextVar("streamproc_probe_silent", default=False)


class _Silence(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not _silent.get()


_SILENCE = _Silence()


@contextmanager
def _quiet() -> Iterator[None]:
    """What aiokafka logs on the way to a failure is in the error that we raise; other clients' lines stay."""
    logging.getLogger("aiokafka.conn").addFilter(_SILENCE)
    token = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(token)
