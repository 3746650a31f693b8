"""Signatures of what people say: ed25519, whose private keys never come here but by the command that signs."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from pathlib import Path
from typing import Any

from streamproc.errors import EnvironmentFault, UserError

MAKE = "make one with `openssl genpkey -algorithm ed25519 -out KEY.pem`"


def verifier() -> Callable[[bytes, bytes, bytes], bool]:
    """Says of a public key of 32 bytes, a value and a signature in base64 whether they belong together.

    Raises EnvironmentFault where nothing can tell.
    """
    ed25519, invalid = _library()

    def verify(key: bytes, value: bytes, signature: bytes) -> bool:
        try:
            ed25519.Ed25519PublicKey.from_public_bytes(key).verify(base64.b64decode(signature, validate=True), value)
        except (invalid, ValueError, binascii.Error):
            return False
        return True

    return verify


def sign(private: Path, value: bytes) -> bytes:
    """The signature of ``value`` in base64, by a private key in PEM. Raises UserError where the file is none."""
    ed25519, _ = _library()
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(private.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"cannot use the key {private}: {error}", MAKE) from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise UserError(f"{private} is no ed25519 key", MAKE)
    return base64.b64encode(key.sign(value))


def _library() -> tuple[Any, type[Exception]]:
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise EnvironmentFault("cryptography is not installed", "pip install 'streamproc[crypto]'") from error
    return ed25519, InvalidSignature
