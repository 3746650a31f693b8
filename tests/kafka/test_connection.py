"""Reaching a real broker: plainly, over TLS with each kind of login, and not at all."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import socket
import time
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from streamproc.errors import BrokerUnavailable, UserError
from streamproc.kafka import admin
from streamproc.kafka.connection import REQUIRED, Connection, Secret, probe, require
from tests.kafka.conftest import PASSWORDS, SecureBroker, topic_factory


async def round_trip(connection: Connection, topic: str, value: bytes) -> bytes:
    """Send a record in a transaction, and read it back."""
    kwargs = connection.client_kwargs()
    producer = AIOKafkaProducer(**kwargs, transactional_id=f"{topic}-producer")
    await producer.start()
    try:
        async with producer.transaction():
            await producer.send_and_wait(topic, value)
    finally:
        await producer.stop()
    consumer = AIOKafkaConsumer(**kwargs, isolation_level="read_committed")
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, 0)])
        await consumer.seek_to_beginning()
        return (await asyncio.wait_for(consumer.getone(), 20)).value
    finally:
        await consumer.stop()


def refused(connection: Connection, timeout: float = 5) -> BrokerUnavailable:
    with pytest.raises(BrokerUnavailable) as caught:
        asyncio.run(probe(connection, timeout))
    return caught.value


def unsecured_token(subject: str, seconds: int = 300) -> str:
    """A JSON Web Token without a signature, as Kafka's handler for tests takes it."""

    def part(content: dict[str, object]) -> str:
        return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")

    now = int(time.time())
    return f"{part({'alg': 'none'})}.{part({'sub': subject, 'iat': now, 'exp': now + seconds})}."


def test_a_broker_says_who_it_is(connection: Connection) -> None:
    info = asyncio.run(probe(connection))
    assert info.brokers == {1: connection.address}
    assert info.release == "Kafka 4.1 or later"
    assert {one.key for one in REQUIRED} <= set(info.versions)
    require(info)


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_records_pass_with_each_login(secure: SecureBroker, mechanism: str) -> None:
    topic = topic_factory(secure.plain, mechanism)()
    connection = secure.connection(mechanism)
    assert asyncio.run(round_trip(connection, topic, b"hello")) == b"hello"
    assert list(asyncio.run(admin.describe(connection, [topic]))) == [topic]


def test_records_pass_with_a_token(secure: SecureBroker, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(unsecured_token("admin") + "\n")
    topic = topic_factory(secure.plain, "oauth")()
    connection = secure.connection("OAUTHBEARER", username=None, password=None, oauth_token_file=tmp_path / "token")
    assert asyncio.run(round_trip(connection, topic, b"hello")) == b"hello"


def test_a_token_that_has_expired_is_refused(secure: SecureBroker, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(unsecured_token("admin", seconds=-60))
    connection = secure.connection("OAUTHBEARER", username=None, password=None, oauth_token_file=tmp_path / "token")
    error = refused(connection)
    assert "refused the login with OAUTHBEARER" in error.message


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_a_wrong_password_is_one_clear_error(
    secure: SecureBroker, mechanism: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    error = refused(secure.connection(mechanism, password=Secret("wr0ng-s3cret")))
    assert f"refused the login of 'admin' with {mechanism}" in error.message
    assert not [one for one in caplog.records if one.name.startswith("aiokafka")]
    assert "s3cret" not in caplog.text + error.message + error.hint + repr(error)


def test_an_authority_that_did_not_sign_the_certificate(secure: SecureBroker) -> None:
    error = refused(secure.connection(ssl_ca=secure.other_ca))
    assert "certificate" in error.message
    assert "is not trusted" in error.message
    assert "ssl_ca" in error.hint


def test_a_certificate_for_another_host(secure: SecureBroker) -> None:
    port = secure.broker.secure_address.rpartition(":")[2]
    here = {"bootstrap_servers": (f"localhost:{port}",)}
    base = secure.connection()
    kwargs = {name: getattr(base, name) for name in base.__dataclass_fields__} | here
    assert "is not trusted: Hostname mismatch" in refused(Connection(**kwargs)).message
    info = asyncio.run(probe(Connection(**kwargs | {"ssl_check_hostname": False})))
    assert info.brokers


def test_the_wrong_protocol_for_a_listener(secure: SecureBroker) -> None:
    secure_port = Connection((secure.broker.secure_address,))
    assert refused(secure_port).hint.endswith("for security_protocol PLAINTEXT? With TLS it is SSL or SASL_SSL")
    tls_on_plain = Connection((secure.broker.address,), security_protocol="SSL", ssl_ca=secure.ca)
    hint = refused(tls_on_plain).hint
    assert hint.endswith("for security_protocol SSL? Without TLS it is PLAINTEXT or SASL_PLAINTEXT")


def test_a_login_where_none_is_taken_and_none_where_one_is_wanted(secure: SecureBroker) -> None:
    for mechanism in ("PLAIN", "SCRAM-SHA-512"):
        login = {"sasl_mechanism": mechanism, "username": "admin", "password": Secret("any")}
        error = refused(Connection((secure.broker.address,), security_protocol="SASL_PLAINTEXT", **login))
        assert "takes no login, and security_protocol is SASL_PLAINTEXT" in error.message
        assert "set security_protocol to PLAINTEXT" in error.hint
    error = refused(Connection((secure.broker.secure_address,), security_protocol="SSL", ssl_ca=secure.ca))
    assert "wants a login, and security_protocol is SSL" in error.message
    assert "set security_protocol to SASL_SSL and sasl_mechanism" in error.hint


def test_a_missing_permission_names_the_acl(secure: SecureBroker) -> None:
    topic = topic_factory(secure.plain, "private")()
    alice = secure.connection(user="alice")
    with pytest.raises(UserError, match=f"not allowed: Describe on topic {topic}") as caught:
        asyncio.run(admin.describe(alice, [topic]))
    assert f"--operation Describe --topic {topic}" in caught.value.hint
    with pytest.raises(UserError, match="not allowed"):
        asyncio.run(admin.create(alice, [admin.TopicSpec("not-for-alice", 1)]))


def test_no_secret_is_logged_or_shown(
    secure: SecureBroker, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    topic = topic_factory(secure.plain, "secrets")()
    for mechanism in ("PLAIN", "SCRAM-SHA-512"):
        for user in ("admin", "alice"):
            connection = secure.connection(mechanism, user)
            asyncio.run(probe(connection))
            logging.getLogger("test").info("%s %r", connection, connection)
        asyncio.run(round_trip(secure.connection(mechanism), topic, b"x"))
    captured = capfd.readouterr()
    shown = caplog.text + captured.out + captured.err
    assert "***" in shown
    for password in PASSWORDS.values():
        assert password not in shown
        assert base64.b64encode(password.encode()).decode() not in shown


def test_what_does_not_answer(unused_port: int, caplog: pytest.LogCaptureFixture) -> None:
    error = refused(Connection((f"127.0.0.1:{unused_port}",)))
    assert error.message == f"no Kafka broker answers at 127.0.0.1:{unused_port}"
    assert "streamproc dev" in error.hint
    assert "is not known" in refused(Connection(("no-such-host.invalid:9092",))).message
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        began = time.monotonic()
        assert (
            "did not answer as a Kafka broker within 0.5 s"
            in refused(Connection((f"127.0.0.1:{port}",)), timeout=0.5).message
        )
        assert time.monotonic() - began < 2
    assert not caplog.records


def test_another_address_answers(connection: Connection, unused_port: int) -> None:
    both = Connection((f"127.0.0.1:{unused_port}", connection.address))
    assert asyncio.run(probe(both)).address == connection.address


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
