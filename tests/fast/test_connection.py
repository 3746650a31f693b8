"""Connection settings: where they come from, which go together, and that secrets stay secret."""

from __future__ import annotations

import asyncio
import copy
import logging
import pickle
import ssl
from dataclasses import asdict
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from streamproc.errors import BrokerTooOld, UserError
from streamproc.kafka.connection import REQUIRED, BrokerInfo, Connection, Secret, require
from streamproc.kafka.settings import SETTINGS, environment_name, keep_logins_out_of_logs
from streamproc.kafka.tokens import FileTokens, function_tokens

TLS_LOGIN = {
    "STREAMPROC_KAFKA": "kafka:9093",
    "STREAMPROC_KAFKA_SECURITY_PROTOCOL": "sasl_ssl",
    "STREAMPROC_KAFKA_SASL_MECHANISM": "scram-sha-512",
    "STREAMPROC_KAFKA_USERNAME": "alice",
    "STREAMPROC_KAFKA_PASSWORD": "s3cret",
}


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


# where settings come from


def test_the_default_is_a_broker_on_this_machine() -> None:
    assert Connection.load(None, None, {}) == Connection(("127.0.0.1:9092",))


def test_command_line_over_environment_over_file(tmp_path: Path) -> None:
    file = written(tmp_path / "s.yaml", "kafka: {bootstrap_servers: [a:1, b:2], client_id: file}")
    assert Connection.load(None, file, {}).bootstrap_servers == ("a:1", "b:2")
    environ = {"STREAMPROC_KAFKA": "c:3"}
    assert Connection.load(None, file, environ).bootstrap_servers == ("c:3",)
    loaded = Connection.load("d:4, e:5", file, environ)
    assert loaded.bootstrap_servers == ("d:4", "e:5")
    assert loaded.client_id == "file"
    assert loaded.address == "d:4,e:5"


def test_everything_from_the_environment(tmp_path: Path) -> None:
    loaded = Connection.load(None, None, TLS_LOGIN | {"STREAMPROC_KAFKA_REQUEST_TIMEOUT_MS": "15000"})
    assert loaded.security_protocol == "SASL_SSL"
    assert loaded.sasl_mechanism == "SCRAM-SHA-512"
    assert loaded.password == Secret("s3cret")
    assert loaded.request_timeout_ms == 15_000
    # what a Kubernetes service of that name puts there is none of ours
    assert Connection.load(None, None, {"STREAMPROC_KAFKA_PORT": "tcp://10.0.0.1:9092"}) == Connection()


def test_a_password_file_wins_over_a_password_of_a_weaker_source(tmp_path: Path) -> None:
    password = written(tmp_path / "password", "from the file\n")
    environ = {name: value for name, value in TLS_LOGIN.items() if not name.endswith("PASSWORD")}
    environ["STREAMPROC_KAFKA_PASSWORD_FILE"] = str(password)
    file = written(tmp_path / "s.yaml", "kafka: {password: weaker}")
    assert Connection.load(None, file, environ).password == Secret("from the file")
    with pytest.raises(UserError, match="sets both"):
        Connection.load(None, None, environ | TLS_LOGIN)


def test_paths_in_a_file_are_relative_to_it(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    written(tmp_path / "secrets" / "p", "s3cret")
    text = """
    kafka:
      security_protocol: SASL_SSL
      sasl_mechanism: PLAIN
      username: alice
      password_file: secrets/p
      ssl_ca: secrets/ca.pem
      ssl_check_hostname: false
    """
    loaded = Connection.load(None, written(tmp_path / "s.yaml", text), {})
    assert loaded.ssl_ca == tmp_path / "secrets" / "ca.pem"
    assert loaded.password == Secret("s3cret")
    assert loaded.ssl_check_hostname is False


def test_a_java_clients_properties(tmp_path: Path) -> None:
    text = r"""
    # from the platform team
    bootstrap.servers=a:1,b:2
    security.protocol = SASL_SSL
    sasl.mechanism: SCRAM-SHA-256
    sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required \
        username="alice" password="s3=cr\\"et";
    ssl.truststore.type=PEM
    ssl.truststore.location=ca.pem
    ssl.endpoint.identification.algorithm=
    """
    loaded = Connection.load(None, written(tmp_path / "client.properties", text), {})
    assert loaded == Connection(
        ("a:1", "b:2"),
        security_protocol="SASL_SSL",
        sasl_mechanism="SCRAM-SHA-256",
        username="alice",
        password=Secret('s3=cr"et'),
        ssl_ca=tmp_path / "ca.pem",
        ssl_check_hostname=False,
    )


@pytest.mark.parametrize(
    ("name", "text", "message", "hint"),
    [
        (
            "s.yaml",
            "kafka: {bootstrap_server: a:1}",
            "unknown setting 'bootstrap_server'",
            "bootstrap_servers",
        ),
        ("s.yaml", "kafak: {}", "unknown key 'kafak'", "kafka"),
        ("s.yaml", "username: x", "unknown key 'username'", "under the key kafka"),
        ("s.yaml", "- a", "is not a mapping", ""),
        ("s.yaml", "kafka: a:1", "kafka is not a mapping", ""),
        ("s.yaml", "kafka: {username: {a: 1}}", "username must be a text", ""),
        ("s.yaml", 'kafka: {password: "s3cret', ":1:", ""),
        ("s.yaml", "kafka: {request_timeout_ms: soon}", "'soon' in .*milliseconds is expected", ""),
        ("s.yaml", "kafka: {ssl_check_hostname: perhaps}", "true or false is expected", ""),
        ("s.yaml", "kafka: {password_file: not-there}", "not-there cannot be read", ""),
        ("s.yaml", "kafka: {password: s3cret}", "does not use it", "SASL_SSL"),
        ("c.properties", "sasl.mechanisn=PLAIN", "unknown property 'sasl.mechanisn'", "sasl.mechanism"),
        ("c.properties", "ssl.keystore.type=JKS", "JKS is not supported", "PEM"),
        ("c.properties", "sasl.jaas.config=x password=s3cret;", "no username and password", ""),
    ],
)
def test_what_is_wrong_in_a_file(tmp_path: Path, name: str, text: str, message: str, hint: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Connection.load(None, written(tmp_path / name, text), {})
    assert hint in caught.value.hint
    assert "s3cret" not in str(caught.value) + caught.value.hint


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be read: No such file"):
        Connection.load(None, tmp_path / "s.yaml", {})


def test_every_setting_has_an_environment_variable_and_is_documented() -> None:
    docs = (Path(__file__).parents[2] / "docs" / "connection.md").read_text()
    for name, setting in SETTINGS.items():
        assert f"`{name}`" in docs
        assert f"`{environment_name(name)}`" in docs
        assert (setting.sets or name) in Connection.__dataclass_fields__


# what goes together


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bootstrap_servers": ()}, "no Kafka address"),
        ({"bootstrap_servers": ("localhost",)}, "'localhost' is not a Kafka address"),
        ({"bootstrap_servers": ("http://a:1",)}, "is not a Kafka address"),
        ({"bootstrap_servers": ("a:99999",)}, "is not a Kafka address"),
        ({"security_protocol": "TLS"}, "security_protocol 'TLS' is unknown"),
        ({"security_protocol": "SASL_SSL"}, "needs a sasl_mechanism"),
        ({"security_protocol": "SASL_SSL", "sasl_mechanism": "GSSAPI"}, "'GSSAPI' is unknown"),
        ({"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN", "username": "a"}, "needs username and"),
        ({"security_protocol": "SASL_SSL", "sasl_mechanism": "OAUTHBEARER"}, "needs either"),
        ({"sasl_mechanism": "PLAIN"}, "sasl_mechanism is set, but security_protocol PLAINTEXT"),
        ({"ssl_ca": Path("ca.pem")}, "ssl_ca is set, but security_protocol PLAINTEXT"),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Connection(**settings)  # type: ignore[arg-type]


# secrets


def test_a_secret_shows_itself_nowhere() -> None:
    connection = Connection.load(None, None, TLS_LOGIN)
    secret = connection.password
    assert secret is not None
    shown = f"{secret} {secret!r} {connection} {connection!r} {asdict(connection)} {[secret]} %s" % secret
    assert "s3cret" not in shown
    assert "***" in shown
    assert copy.deepcopy(secret) == pickle.loads(pickle.dumps(secret)) == secret != Secret("other")
    assert connection.client_kwargs()["sasl_plain_password"] == "s3cret"


def test_logins_are_kept_out_of_aiokafkas_log(caplog: pytest.LogCaptureFixture) -> None:
    from aiokafka.protocol.admin import SaslAuthenticateRequest_v1

    caplog.set_level(logging.DEBUG)
    keep_logins_out_of_logs()
    log = logging.getLogger("aiokafka.conn")
    log.debug("Request to %s:%d %d: %s", "h", 1, 2, SaslAuthenticateRequest_v1(b"\0alice\0s3cret"))
    log.debug("Request to %s:%d %d: %s", "h", 1, 2, "another")
    assert [record.getMessage() for record in caplog.records] == ["Request to h:1 2: another"]


# TLS files


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = tmp_path_factory.mktemp("certificates")
    ca = trustme.CA()
    ca.cert_pem.write_to_path(files / "ca.pem")
    client = ca.issue_cert("client@example.org")
    (files / "client.pem").write_bytes(b"".join(pem.bytes() for pem in client.cert_chain_pems))
    client.private_key_pem.write_to_path(files / "client.key")
    encrypted = serialization.load_pem_private_key(client.private_key_pem.bytes(), None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"s3cret"),
    )
    (files / "encrypted.key").write_bytes(encrypted)
    (files / "rubbish.pem").write_text("rubbish")
    return files


def tls(files: Path, **names: str) -> Connection:
    return Connection(
        security_protocol="SSL",
        **{name: files / file for name, file in names.items()},  # type: ignore[arg-type]
    )


def test_only_the_given_authority_is_trusted(certificates: Path) -> None:
    context = tls(certificates, ssl_ca="ca.pem").ssl_context()
    assert len(context.get_ca_certs()) == 1
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    unnamed = Connection(security_protocol="SSL", ssl_check_hostname=False).ssl_context()
    assert unnamed.verify_mode == ssl.CERT_REQUIRED
    assert not unnamed.check_hostname


def test_our_own_certificate(certificates: Path) -> None:
    tls(certificates, ssl_certificate="client.pem", ssl_key="client.key").ssl_context()
    encrypted = {"ssl_certificate": certificates / "client.pem", "ssl_key": certificates / "encrypted.key"}
    Connection(security_protocol="SSL", ssl_key_password=Secret("s3cret"), **encrypted).ssl_context()
    for password in (None, Secret("wrong")):
        with pytest.raises(UserError, match="cannot be used") as caught:
            Connection(security_protocol="SSL", ssl_key_password=password, **encrypted).ssl_context()
        assert "password" in caught.value.hint


def test_tls_files_that_are_no_use(certificates: Path) -> None:
    with pytest.raises(UserError, match=r"ssl_ca: .*not-there.pem cannot be read: No such file"):
        tls(certificates, ssl_ca="not-there.pem").ssl_context()
    with pytest.raises(UserError, match=r"ssl_ca: .*rubbish.pem cannot be used"):
        tls(certificates, ssl_ca="rubbish.pem").ssl_context()


# tokens


def plain_token() -> str:
    return "from-a-function"


async def awaited_token() -> str:
    return "from-a-coroutine"


def no_token() -> None:
    return None


def test_tokens_from_a_file_are_read_anew(tmp_path: Path) -> None:
    file = written(tmp_path / "token", "first\n")
    tokens = FileTokens(file)
    assert asyncio.run(tokens.token()) == "first"
    written(file, "second\n")
    assert asyncio.run(tokens.token()) == "second"
    for wrong in ("", "s3cret\x01auth=", "two\nlines"):
        written(file, wrong)
        with pytest.raises(UserError, match="gave no token") as caught:
            asyncio.run(tokens.token())
        assert "s3cret" not in str(caught.value)
    file.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        asyncio.run(tokens.token())


def test_tokens_from_a_function() -> None:
    assert asyncio.run(function_tokens(f"{__name__}:plain_token").token()) == "from-a-function"
    assert asyncio.run(function_tokens(f"{__name__}:awaited_token").token()) == "from-a-coroutine"
    with pytest.raises(UserError, match="gave no token"):
        asyncio.run(function_tokens(f"{__name__}:no_token").token())
    for wrong in ("no-colon", "not.a.module:f", "os:not_there", "os:sep"):
        with pytest.raises(UserError, match="oauth_provider"):
            function_tokens(wrong)


def test_a_connection_hands_its_tokens_on() -> None:
    login = {"security_protocol": "SASL_SSL", "sasl_mechanism": "OAUTHBEARER"}
    from_file = Connection(oauth_token_file=Path("t"), **login).client_kwargs()  # type: ignore[arg-type]
    assert isinstance(from_file["sasl_oauth_token_provider"], FileTokens)
    assert "sasl_plain_password" not in from_file


# brokers


def test_a_broker_that_lacks_versions_is_refused_with_its_release() -> None:
    good = {one.key: (0, one.version) for one in REQUIRED}
    info = BrokerInfo("a:1", "id", {1: "a:1"}, good | {1: (0, 18)})
    require(info)
    old = BrokerInfo("a:1", "id", {1: "a:1"}, good | {1: (0, 11), 3: (0, 9), 28: (0, 2)})
    with pytest.raises(BrokerTooOld) as caught:
        require(old)
    assert "looks like Kafka 2.3 or later" in caught.value.message
    assert "lacks Metadata 10 (has 9), TxnOffsetCommit 3 (has 2)" in caught.value.message
    assert "2.8" in caught.value.hint
    with pytest.raises(BrokerTooOld, match=r"TxnOffsetCommit 3 \(has none\)"):
        require(BrokerInfo("a:1", None, {}, {one: good[one] for one in good if one != 28}))
