"""Encryption of dead letters: AES-256-GCM, a random nonce in front."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from streamproc.errors import EnvironmentFault

NONCE_BYTES = 12


def sealer(key: bytes) -> Callable[[bytes], bytes]:
    """A function that encrypts with a 32-byte key."""
    cipher = _cipher(key)

    def seal(body: bytes) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        sealed: bytes = cipher.encrypt(nonce, body, None)
        return nonce + sealed

    return seal


def opener(key: bytes) -> Callable[[bytes], bytes]:
    """The inverse of ``sealer``. Raises cryptography's InvalidTag for another key or a changed body."""
    cipher = _cipher(key)

    def unseal(body: bytes) -> bytes:
        plain: bytes = cipher.decrypt(body[:NONCE_BYTES], body[NONCE_BYTES:], None)
        return plain

    return unseal


def _cipher(key: bytes) -> Any:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise EnvironmentFault("cryptography is not installed", "pip install 'streamproc[crypto]'") from error
    return AESGCM(key)
