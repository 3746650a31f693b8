"""Connection settings as people write them: environment, YAML file, a Java client's properties."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from streamproc.errors import UserError


class Secret:
    """A text that shows itself as ``***`` everywhere but in ``reveal()``.

    >>> f"{Secret('hunter2')} {Secret('hunter2')!r}"
    '*** ***'
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself: for a client that logs in, and never for a message."""
        return self._text

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


class _NoLogins(logging.Filter):
    """Drops lines about SASL messages."""

    def filter(self, record: logging.LogRecord) -> bool:
        arguments = record.args if isinstance(record.args, tuple) else ()
        return not any("SaslAuthenticate" in type(one).__name__ for one in arguments)


_NO_LOGINS = _NoLogins()


def keep_logins_out_of_logs() -> None:
    """aiokafka logs requests at level DEBUG, and one of them carries the password. Harmless to repeat."""
    logging.getLogger("aiokafka.conn").addFilter(_NO_LOGINS)


@dataclass(frozen=True)
class Setting:
    """One setting. ``java`` are its names in a Java (or librdkafka) client's properties."""

    parse: Callable[[str, Path], Any]
    java: tuple[str, ...] = ()
    environment: str = ""
    is_secret: bool = False
    sets: str = ""  # the field of Connection, where it has another name


def _text(value: str, _: Path) -> str:
    return value


def _servers(value: str, _: Path) -> tuple[str, ...]:
    return tuple(one.strip() for one in value.split(",") if one.strip())


def _upper(value: str, _: Path) -> str:
    return value.upper()


def _path(value: str, base: Path) -> Path:
    return base / Path(value).expanduser()


def _secret(value: str, _: Path) -> Secret:
    return Secret(value)


def _secret_file(value: str, base: Path) -> Secret:
    path = _path(value, base)
    try:
        return Secret(path.read_text().rstrip("\r\n"))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read") from error


def _boolean(value: str, _: Path) -> bool:
    choice = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}.get(value.lower())
    if choice is None:
        raise ValueError("true or false is expected")
    return choice


def _milliseconds(value: str, _: Path) -> int:
    if not value.isdecimal() or int(value) == 0:
        raise ValueError("a positive number of milliseconds is expected")
    return int(value)


SETTINGS: dict[str, Setting] = {
    "bootstrap_servers": Setting(_servers, ("bootstrap.servers",), "STREAMPROC_KAFKA"),
    "security_protocol": Setting(_upper, ("security.protocol",)),
    "sasl_mechanism": Setting(_upper, ("sasl.mechanism", "sasl.mechanisms")),
    "username": Setting(_text, ("sasl.username",)),
    "password": Setting(_secret, ("sasl.password",), is_secret=True),
    "password_file": Setting(_secret_file, sets="password"),
    "ssl_ca": Setting(_path, ("ssl.truststore.location", "ssl.ca.location")),
    "ssl_certificate": Setting(_path, ("ssl.keystore.location", "ssl.certificate.location")),
    "ssl_key": Setting(_path, ("ssl.key.location",)),
    "ssl_key_password": Setting(_secret, ("ssl.key.password",), is_secret=True),
    "ssl_key_password_file": Setting(_secret_file, sets="ssl_key_password"),
    "ssl_check_hostname": Setting(_boolean),
    "oauth_token_file": Setting(_path),
    "oauth_provider": Setting(_text),
    "client_id": Setting(_text, ("client.id",)),
    "request_timeout_ms": Setting(_milliseconds, ("request.timeout.ms",)),
    "metadata_max_age_ms": Setting(_milliseconds, ("metadata.max.age.ms",)),
    "connections_max_idle_ms": Setting(_milliseconds, ("connections.max.idle.ms",)),
    "retry_backoff_ms": Setting(_milliseconds, ("retry.backoff.ms",)),
}
_JAVA = {java: name for name, setting in SETTINGS.items() for java in setting.java}
_JAVA_SPECIAL = (
    "sasl.jaas.config",
    "ssl.truststore.type",
    "ssl.keystore.type",
    "ssl.endpoint.identification.algorithm",
)


def environment_name(name: str) -> str:
    """The environment variable of a setting."""
    return SETTINGS[name].environment or f"STREAMPROC_KAFKA_{name.upper()}"


def from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """Fields of Connection that the environment sets. An empty variable counts as not set."""
    found = {name: environ[at] for name in SETTINGS if environ.get(at := environment_name(name))}
    return _parse(found, Path.cwd(), environment_name, "the environment")


def from_file(path: Path) -> dict[str, Any]:
    """Fields of Connection that a settings file sets.

    It is YAML with a section ``kafka:``, or a ``.properties`` file of a Java client. Paths in it are relative
    to it. Raises UserError for what is unknown.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise UserError(f"the settings file {path} cannot be read: {reason}") from error
    found = _from_properties(text, path) if path.suffix == ".properties" else _from_yaml(text, path)
    return _parse(found, path.absolute().parent, lambda name: name, str(path))


def _parse(found: Mapping[str, str], base: Path, shown: Callable[[str], str], where: str) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in found.items():
        setting = SETTINGS[name]
        field = setting.sets or name
        if field in fields:
            raise UserError(f"{where} sets both {shown(field)} and {shown(field + '_file')}")
        try:
            fields[field] = setting.parse(value, base)
        except ValueError as error:
            given = "" if setting.is_secret else f" {value!r}"
            raise UserError(f"{shown(name)}{given} in {where}: {error}") from error
    return fields


def _from_yaml(text: str, path: Path) -> dict[str, str]:
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        # not from the error: it quotes the line, which may hold a secret
        raise UserError(f"{path}{place}: not YAML: {getattr(error, 'problem', 'unreadable')}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"{path} is not a mapping", hint="kafka: {bootstrap_servers: HOST:PORT}")
    for key in tree:
        if key != "kafka":
            flat = "put it under the key kafka" if key in SETTINGS else _nearest(str(key), ["kafka"])
            raise UserError(f"{path}: unknown key {key!r}", hint=flat)
    section = tree["kafka"]
    if section is None:
        return {}
    if not isinstance(section, dict):
        raise UserError(f"{path}: kafka is not a mapping", hint="kafka: {bootstrap_servers: HOST:PORT}")
    found = {}
    for key, value in section.items():
        if key not in SETTINGS:
            raise UserError(f"{path}: unknown setting {key!r}", hint=_nearest(str(key), list(SETTINGS)))
        if isinstance(value, list) and key == "bootstrap_servers":
            found[key] = ",".join(str(one) for one in value)
        elif isinstance(value, bool):
            found[key] = str(value).lower()
        elif isinstance(value, str | int):
            found[key] = str(value)
        else:
            raise UserError(f"{path}: {key} must be a text or a number")
    return found


def _from_properties(text: str, path: Path) -> dict[str, str]:
    found = {}
    joined = re.sub(r"\\\r?\n[ \t]*", "", text)
    for line in joined.splitlines():
        if not line.strip() or line.lstrip()[0] in "#!":
            continue
        key, _, value = (part.strip() for part in re.sub("[=:]", "\n", line, count=1).partition("\n"))
        value = re.sub(r"\\(.)", r"\1", value)
        if key in _JAVA:
            found[_JAVA[key]] = value
        elif key == "sasl.jaas.config":
            found |= _from_jaas(value, path)
        elif key in ("ssl.truststore.type", "ssl.keystore.type"):
            if value.upper() != "PEM":
                raise UserError(f"{path}: {key} {value} is not supported", hint="convert the store to PEM files")
        elif key == "ssl.endpoint.identification.algorithm":
            found["ssl_check_hostname"] = "true" if value.lower() == "https" else "false"
        else:
            raise UserError(f"{path}: unknown property {key!r}", hint=_nearest(key, [*_JAVA, *_JAVA_SPECIAL]))
    return found


def _from_jaas(value: str, path: Path) -> dict[str, str]:
    options = {
        name: re.sub(r"\\(.)", r"\1", quoted) for name, quoted in re.findall(r'(\w+)\s*=\s*"((?:[^"\\]|\\.)*)"', value)
    }
    if "username" not in options or "password" not in options:
        raise UserError(f"{path}: sasl.jaas.config has no username and password in double quotes")
    return {"username": options["username"], "password": options["password"]}


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else "known are " + ", ".join(known)
