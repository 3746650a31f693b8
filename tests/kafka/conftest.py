"""One real Kafka for the session, and one with TLS and logins for the tests that need it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from streamproc.kafka import admin
from streamproc.kafka.connection import Connection
from streamproc.kafka.dev_broker import BrokerConfig, DevBroker, Security

PASSWORDS = {"admin": "admin-s3cret", "alice": 'quo"te\\d-s3cret'}


@pytest.fixture(scope="session")
def broker() -> Iterator[DevBroker]:
    """A Kafka of one node, for the whole session."""
    with DevBroker() as broker:
        yield broker


@pytest.fixture(scope="session")
def connection(broker: DevBroker) -> Connection:
    """How to reach the session's Kafka."""
    return Connection((broker.address,))


TopicFactory = Callable[..., str]


@pytest.fixture
def topic(connection: Connection, request: pytest.FixtureRequest) -> TopicFactory:
    """Makes topics with names of their own: ``topic(partitions=4, cleanup_policy="compact")``."""
    return topic_factory(connection, request.node.name)


def topic_factory(connection: Connection, test: str) -> TopicFactory:
    stem = "".join(c if c.isalnum() else "-" for c in test)[:80]

    def make(partitions: int = 1, cleanup_policy: str = "delete", **more: int | None) -> str:
        name = f"{stem}-{uuid4().hex[:8]}"
        spec = admin.TopicSpec(name, partitions, cleanup_policy=cleanup_policy, **more)  # type: ignore[arg-type]
        asyncio.run(admin.create(connection, [spec]))
        return name

    return make


@dataclass(frozen=True)
class SecureBroker:
    """A broker whose second listener wants TLS and a login. ``alice`` is known there and may do nothing."""

    broker: DevBroker
    ca: Path
    other_ca: Path  # one that did not sign the broker's certificate

    @property
    def plain(self) -> Connection:
        """As the super user."""
        return Connection((self.broker.address,))

    def connection(self, mechanism: str = "PLAIN", user: str = "admin", **other: object) -> Connection:
        from streamproc.kafka.connection import Secret

        settings = {
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": mechanism,
            "username": user,
            "password": Secret(PASSWORDS[user]),
            "ssl_ca": self.ca,
        }
        return Connection((self.broker.secure_address,), **(settings | other))  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureBroker]:
    """A second Kafka with SASL_SSL and ACLs, for the tests of connections."""
    files = tmp_path_factory.mktemp("certificates")
    ca = trustme.CA()
    ca.cert_pem.write_to_path(files / "ca.pem")
    trustme.CA().cert_pem.write_to_path(files / "other-ca.pem")
    server = ca.issue_cert("127.0.0.1")
    (files / "server.pem").write_bytes(b"".join(pem.bytes() for pem in server.cert_chain_pems))
    key = serialization.load_pem_private_key(server.private_key_pem.bytes(), None)
    (files / "server.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    config = BrokerConfig(
        security=Security(files / "server.pem", files / "server.key", users=PASSWORDS, oauth=True),
        heap="512m",
        properties={
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS;User:admin",
        },
    )
    with DevBroker(config) as broker:
        yield SecureBroker(broker, files / "ca.pem", files / "other-ca.pem")
