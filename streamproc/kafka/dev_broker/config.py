"""What a development broker is configured to be, and the server.properties that make it so."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

KAFKA_VERSION = "4.1.1"
HOST = "127.0.0.1"
SCRAM_ITERATIONS = 4096


@dataclass(frozen=True)
class Security:
    """A second listener, SASL_SSL, beside the plain one.

    ``certificate`` is a PEM file with the server's chain, ``key`` its private key (PEM, PKCS#8, not
    encrypted). ``users`` (name to password) may log in with PLAIN, SCRAM-SHA-256 and SCRAM-SHA-512. ``oauth``
    accepts OAUTHBEARER with *unsecured* tokens (RFC 7515 appendix A.5), which is for tests alone.
    ``client_ca`` (PEM) makes the broker ask for certificates of clients.
    """

    certificate: Path
    key: Path
    users: Mapping[str, str] = field(default_factory=dict, repr=False)
    oauth: bool = False
    client_ca: Path | None = None


@dataclass(frozen=True)
class BrokerConfig:
    """What to start. ``port`` is the first node's; ``properties`` override anything in server.properties.

    Without ``data_dir`` the data is in a temporary directory that goes with the broker.
    """

    data_dir: Path | None = None
    port: int | None = None
    nodes: int = 1
    security: Security | None = None
    heap: str = "1g"
    properties: Mapping[str, str] = field(default_factory=dict)
    start_timeout: float = 90.0


@dataclass(frozen=True)
class Ports:
    """The ports of one node."""

    plain: int
    controller: int
    secure: int


@dataclass(frozen=True)
class NodePaths:
    """The files of one node."""

    root: Path

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def properties(self) -> Path:
        return self.root / "server.properties"

    @property
    def log_config(self) -> Path:
        return self.root / "log4j2.properties"

    @property
    def log(self) -> Path:
        return self.root / "kafka.log"

    @property
    def output(self) -> Path:
        """What the process itself printed: JVM crashes, mostly."""
        return self.root / "output.log"

    @property
    def keystore(self) -> Path:
        return self.root / "keystore.pem"


def server_properties(config: BrokerConfig, node: int, ports: Sequence[Ports], paths: NodePaths) -> dict[str, str]:
    """The properties of one node. Node ids count from 1."""
    mine = ports[node - 1]
    listeners = {"PLAIN": mine.plain, "CONTROLLER": mine.controller}
    protocols = {"PLAIN": "PLAINTEXT", "CONTROLLER": "PLAINTEXT"}
    if config.security:
        listeners["SECURE"] = mine.secure
        protocols["SECURE"] = "SASL_SSL"
    replicas = str(min(config.nodes, 3))
    in_sync = str(min(config.nodes, 2))
    properties = {
        "process.roles": "broker,controller",
        "node.id": str(node),
        "controller.quorum.voters": ",".join(f"{i}@{HOST}:{p.controller}" for i, p in enumerate(ports, 1)),
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAIN",
        "listeners": ",".join(f"{name}://{HOST}:{port}" for name, port in listeners.items()),
        "advertised.listeners": ",".join(
            f"{name}://{HOST}:{port}" for name, port in listeners.items() if name != "CONTROLLER"
        ),
        "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
        "log.dirs": str(paths.data),
        # topics are made on purpose or not at all
        "auto.create.topics.enable": "false",
        "num.partitions": "1",
        "default.replication.factor": replicas,
        "min.insync.replicas": in_sync,
        # internal topics: few partitions, so that start and recovery are quick
        "offsets.topic.num.partitions": "5",
        "offsets.topic.replication.factor": replicas,
        "transaction.state.log.num.partitions": "5",
        "transaction.state.log.replication.factor": replicas,
        "transaction.state.log.min.isr": in_sync,
        "share.coordinator.state.topic.num.partitions": "1",
        "share.coordinator.state.topic.replication.factor": replicas,
        "share.coordinator.state.topic.min.isr": in_sync,
        # groups form at once, and tests may use short sessions
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "1000",
        # a killed broker's registration is refused for as long as its session lasts
        "broker.session.timeout.ms": "4000",
        "broker.heartbeat.interval.ms": "500",
        # after kill -9 the active segments are read through: keep them, and their indexes, small
        "log.segment.bytes": str(128 << 20),
        "log.index.size.max.bytes": str(2 << 20),
        "num.recovery.threads.per.data.dir": "4",
        "controlled.shutdown.max.retries": "1",
        # a small machine
        "num.network.threads": "2",
        "num.io.threads": "4",
        "background.threads": "4",
        "log.cleaner.dedupe.buffer.size": str(16 << 20),
    }
    if config.security:
        properties |= _secure_listener(config.security, paths)
    return properties | dict(config.properties)


def _secure_listener(security: Security, paths: NodePaths) -> dict[str, str]:
    listener = "listener.name.secure."
    modules = "org.apache.kafka.common.security."
    users = "".join(f' user_{name}="{_quoted(password)}"' for name, password in security.users.items())
    mechanisms = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
    properties = {
        listener + "ssl.keystore.type": "PEM",
        listener + "ssl.keystore.location": str(paths.keystore),
        listener + "plain.sasl.jaas.config": f"{modules}plain.PlainLoginModule required{users};",
        listener + "scram-sha-256.sasl.jaas.config": f"{modules}scram.ScramLoginModule required;",
        listener + "scram-sha-512.sasl.jaas.config": f"{modules}scram.ScramLoginModule required;",
    }
    if security.oauth:
        mechanisms.append("OAUTHBEARER")
        properties[listener + "oauthbearer.sasl.jaas.config"] = (
            f'{modules}oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";'
        )
    if security.client_ca:
        properties |= {
            listener + "ssl.client.auth": "requested",
            listener + "ssl.truststore.type": "PEM",
            listener + "ssl.truststore.location": str(security.client_ca),
        }
    return properties | {listener + "sasl.enabled.mechanisms": ",".join(mechanisms)}


def scram_arguments(security: Security | None) -> list[str]:
    """The users, as arguments of Kafka's storage tool, which writes them into a fresh data directory.

    Salted (RFC 5802), so that no password is seen in a list of processes, and none is too odd for the tool.
    """
    if security is None:
        return []
    arguments = []
    for name, password in security.users.items():
        for mechanism, algorithm in (("SCRAM-SHA-256", "sha256"), ("SCRAM-SHA-512", "sha512")):
            salt = os.urandom(16)
            salted = hashlib.pbkdf2_hmac(algorithm, password.encode(), salt, SCRAM_ITERATIONS)
            arguments += [
                "--add-scram",
                f'{mechanism}=[name="{name}",iterations={SCRAM_ITERATIONS},'
                f'salt="{base64.b64encode(salt).decode()}",saltedpassword="{base64.b64encode(salted).decode()}"]',
            ]
    return arguments


def properties_text(properties: Mapping[str, str]) -> str:
    """A Java properties file."""
    return "".join(f"{key}={value.replace(chr(92), chr(92) * 2)}\n" for key, value in properties.items())


def log4j2_text(log: Path) -> str:
    """Everything of note into one file that is rolled at 64 MB."""
    return properties_text(
        {
            "status": "error",
            "shutdownHook": "disable",  # Kafka's own shutdown is to be logged
            "appender.file.type": "RollingFile",
            "appender.file.name": "file",
            "appender.file.fileName": str(log),
            "appender.file.filePattern": f"{log}.%i",
            "appender.file.layout.type": "PatternLayout",
            "appender.file.layout.pattern": "%d{ISO8601} %-5p %c{1}: %m%n",
            "appender.file.policies.type": "Policies",
            "appender.file.policies.size.type": "SizeBasedTriggeringPolicy",
            "appender.file.policies.size.size": "64MB",
            "appender.file.strategy.type": "DefaultRolloverStrategy",
            "appender.file.strategy.max": "2",
            "rootLogger.level": "info",
            "rootLogger.appenderRef.file.ref": "file",
        }
    )


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
