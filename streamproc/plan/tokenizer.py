"""A language model's tokenizer, from a file beside the pipeline file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from streamproc.core.llm.tokens import Counted
from streamproc.errors import EnvironmentFault, UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

HASH_BYTES = 16
LARGEST = 64 << 20
"""Bytes of a file; the largest of today's have some 30 MB."""
HINT = "it is the `tokenizer.json` of the model, as Hugging Face's tokenizers write it"


def read_tokenizer(file: Path) -> Counted:
    """Counts by a ``tokenizer.json``. Raises UserError where it is none, EnvironmentFault where what reads it is not
    installed."""
    if find_spec("tokenizers") is None:
        raise EnvironmentFault("what reads a `tokenizer` is not installed", "pip install 'streamproc[llm]'")
    try:
        if file.stat().st_size > LARGEST:
            raise UserError(f"{file.name} is larger than {LARGEST >> 20} MB", HINT)
        raw = file.read_bytes()
    except (OSError, ValueError) as error:  # no file can have a name with a zero in it
        raise UserError(f"cannot read the tokenizer {file.name}", HINT) from error
    try:
        longest, count = counting(raw)
    except Exception as error:  # it raises nothing that is more of a kind
        raise UserError(f"{file.name} is no tokenizer", HINT) from error
    if not longest:
        raise UserError(f"{file.name} has no tokens", HINT)
    return Counted(hashlib.blake2b(raw, digest_size=HASH_BYTES).hexdigest(), longest, count)


def counting(raw: bytes) -> tuple[int, Callable[[str], int]]:
    """The length of the longest token, and how many tokens a text has at most: what looks like a token of its own is
    one to some servers, and text to others.
    """
    parses = _opened(raw)
    special = [token.content for token in parses.get_added_tokens_decoder().values() if token.special]

    @cache
    def plain() -> Tokenizer:
        """One of its own, which few need: several threads may count, so none is changed."""
        made = _opened(raw)
        made.encode_special_tokens = True
        return made

    def count(text: str) -> int:
        found = len(parses.encode(text, add_special_tokens=False).ids)
        if any(one in text for one in special):
            found = max(found, len(plain().encode(text, add_special_tokens=False).ids))
        return found

    longest = max(map(len, parses.get_vocab()), default=0)
    return longest, count


def _opened(raw: bytes) -> Tokenizer:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_buffer(raw)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
