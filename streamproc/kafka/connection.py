"""How streamproc reaches Kafka: addresses, TLS, login, and where these settings come from.

The command line wins over the environment, that over the settings file, that over the default
(``127.0.0.1:9092``). docs/connection.md lists every setting; the table is ``SETTINGS`` below.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from streamproc.errors import UserError
from streamproc.kafka.probe import REQUIRED, BrokerInfo, probe, require
from streamproc.kafka.settings import Secret, from_environment, from_file, keep_logins_out_of_logs
from streamproc.kafka.tokens import FileTokens, function_tokens

__all__ = ["REQUIRED", "BrokerInfo", "Connection", "Secret", "probe", "require"]

PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")
DEFAULT = "127.0.0.1:9092"


QUICK_TIMEOUT_MS = 8_000


@dataclass(frozen=True)
class Connection:
    """Everything a Kafka client needs. Making one checks that the settings go together (UserError)."""

    bootstrap_servers: tuple[str, ...] = (DEFAULT,)
    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str | None = None
    username: str | None = None
    password: Secret | None = None
    ssl_ca: Path | None = None
    ssl_certificate: Path | None = None
    ssl_key: Path | None = None
    ssl_key_password: Secret | None = None
    ssl_check_hostname: bool = True
    oauth_token_file: Path | None = None
    oauth_provider: str | None = None
    client_id: str = "streamproc"
    request_timeout_ms: int = 40_000
    metadata_max_age_ms: int = 300_000
    connections_max_idle_ms: int = 540_000
    retry_backoff_ms: int = 100

    def __post_init__(self) -> None:
        for address in self.bootstrap_servers:
            _check_address(address)
        if not self.bootstrap_servers:
            raise UserError("no Kafka address is given", hint="--kafka HOST:PORT")
        _check_choice("security_protocol", self.security_protocol, PROTOCOLS)
        if self.sasl_mechanism is not None:
            _check_choice("sasl_mechanism", self.sasl_mechanism, MECHANISMS)
        if self.uses_sasl:
            self._check_login()
        else:
            self._check_absent(
                "SASL_SSL", "sasl_mechanism", "username", "password", "oauth_token_file", "oauth_provider"
            )
        if not self.uses_tls:
            self._check_absent("SSL or SASL_SSL", "ssl_ca", "ssl_certificate", "ssl_key", "ssl_key_password")

    @classmethod
    def load(cls, kafka: str | None, settings_file: Path | None, environ: Mapping[str, str]) -> Self:
        """The connection that command line, environment and settings file describe together."""
        found: dict[str, Any] = {}
        if settings_file is not None:
            found |= from_file(settings_file)
        found |= from_environment(environ)
        if kafka is not None:
            found["bootstrap_servers"] = tuple(one.strip() for one in kafka.split(",") if one.strip())
        return cls(**found)

    @property
    def address(self) -> str:
        """The bootstrap servers as one text, for messages and for children's command lines."""
        return ",".join(self.bootstrap_servers)

    @property
    def uses_sasl(self) -> bool:
        """Whether the client logs in."""
        return self.security_protocol.startswith("SASL_")

    @property
    def uses_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.security_protocol.endswith("SSL")

    def quick_kwargs(self) -> dict[str, Any]:
        """The same for small requests that are tried again: a broker that is silent is given up soon.

        A transaction that waits as long as it may for one broker cannot go on with the one that took over.
        """
        return self.client_kwargs() | {"request_timeout_ms": min(self.request_timeout_ms, QUICK_TIMEOUT_MS)}

    def client_kwargs(self) -> dict[str, Any]:
        """Keyword arguments for every aiokafka client. Secrets are in it in the clear: never log it."""
        kwargs: dict[str, Any] = {
            "bootstrap_servers": list(self.bootstrap_servers),
            "client_id": self.client_id,
            "request_timeout_ms": self.request_timeout_ms,
            "metadata_max_age_ms": self.metadata_max_age_ms,
            "connections_max_idle_ms": self.connections_max_idle_ms,
            "retry_backoff_ms": self.retry_backoff_ms,
            "security_protocol": self.security_protocol,
        }
        if self.uses_tls:
            kwargs["ssl_context"] = self.ssl_context()
        if self.uses_sasl:
            keep_logins_out_of_logs()
            kwargs["sasl_mechanism"] = self.sasl_mechanism
            if self.oauth_token_file is not None:
                kwargs["sasl_oauth_token_provider"] = FileTokens(self.oauth_token_file)
            elif self.oauth_provider is not None:
                kwargs["sasl_oauth_token_provider"] = function_tokens(self.oauth_provider)
            else:
                assert self.password is not None
                kwargs["sasl_plain_username"] = self.username
                kwargs["sasl_plain_password"] = self.password.reveal()
        return kwargs

    def ssl_context(self) -> ssl.SSLContext:
        """The system's certificate authorities or ``ssl_ca``; our own certificate where one is set."""
        context = ssl.create_default_context()
        if self.ssl_ca is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # that authority and no other
            _load("ssl_ca", self.ssl_ca, context.load_verify_locations)
        context.check_hostname = self.ssl_check_hostname
        if self.ssl_certificate is not None:
            secret = self.ssl_key_password
            key = self.ssl_key

            def chain(path: Path) -> None:
                # a text and never None: OpenSSL would ask on the terminal
                context.load_cert_chain(path, key, password=secret.reveal() if secret else "")

            _load("ssl_certificate or ssl_key", self.ssl_certificate, chain)
        return context

    def _check_login(self) -> None:
        if self.sasl_mechanism is None:
            raise UserError(
                f"security_protocol {self.security_protocol} needs a sasl_mechanism",
                hint="one of " + ", ".join(MECHANISMS),
            )
        if self.sasl_mechanism == "OAUTHBEARER":
            if (self.oauth_token_file is None) == (self.oauth_provider is None):
                raise UserError("OAUTHBEARER needs either oauth_token_file or oauth_provider")
            return
        for name in ("oauth_token_file", "oauth_provider"):
            if getattr(self, name) is not None:
                raise UserError(f"{name} is set, but sasl_mechanism is {self.sasl_mechanism}")
        if not self.username or self.password is None:
            raise UserError(
                f"sasl_mechanism {self.sasl_mechanism} needs username and password",
                hint="STREAMPROC_KAFKA_USERNAME and STREAMPROC_KAFKA_PASSWORD_FILE, or the settings file",
            )

    def _check_absent(self, needed: str, *names: str) -> None:
        """A setting that would not be used was meant to be: a password without SASL, say."""
        for name in names:
            if getattr(self, name) is not None:
                raise UserError(
                    f"{name} is set, but security_protocol {self.security_protocol} does not use it",
                    hint=f"set security_protocol to {needed}",
                )


def _check_address(address: str) -> None:
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65_536 or "/" in address:
        raise UserError(f"{address!r} is not a Kafka address", hint="HOST:PORT, several with commas between them")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"{name} {value!r} is unknown", hint="one of " + ", ".join(choices))


def _load(name: str, path: Path, load: Any) -> None:
    try:
        load(path)
    except ssl.SSLError as error:
        hint = "PEM is expected, and ssl_key_password if the key is encrypted"
        raise UserError(f"{name}: {path} cannot be used: {error.reason or 'not PEM'}", hint=hint) from error
    except OSError as error:
        raise UserError(f"{name}: {path} cannot be read: {error.strerror}") from error
