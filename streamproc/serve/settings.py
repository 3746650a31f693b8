"""Where a door listens, and with which certificates."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from streamproc.errors import UserError
from streamproc.serve.callers import Keys

LOCAL: Final = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """Where a door listens, and how. With ``client_ca`` callers need a certificate of that authority."""

    host: str = "127.0.0.1"
    port: int = 8080
    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None
    keyless: bool = False
    connections: int = 4_000

    def check(self, keys: Keys) -> None:
        """Raises UserError where everybody in the network could send events."""
        if self.host not in LOCAL and not (keys.known or self.client_ca or self.keyless):
            raise UserError(
                f"whoever reaches {self.host} could send events: there are no API keys",
                "name a file with --keys, or certificates with --client-ca, or say --no-keys",
            )

    def tls(self) -> ssl.SSLContext | None:
        """The TLS context, where there is a certificate. Raises UserError where files cannot be used."""
        if self.certificate is None:
            if self.client_ca is not None or self.key is not None:
                raise UserError("TLS needs a certificate", "name one with --tls-certificate")
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.certificate, self.key, password="")
            if self.client_ca is not None:
                context.load_verify_locations(self.client_ca)
                context.verify_mode = ssl.CERT_REQUIRED
        except (OSError, ssl.SSLError) as error:
            raise UserError(f"the certificates cannot be used: {error}", "PEM is expected") from error
        return context
