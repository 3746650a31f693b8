"""A language model's tokenizer, from a file beside the pipeline file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
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

ANY_HINT = (
    "take the model's own file: its model needs a token for what it does not know, which its vocabulary has, or bytes"
)


def read_tokenizer(file: Path, texts: Iterable[str] = ()) -> Counted:
    """Counts by a ``tokenizer.json``. Raises UserError where it is none, or cannot encode any text, and these ``texts``
    above all; EnvironmentFault where what reads it is not installed."""
    if find_spec("tokenizers") is None:
        raise EnvironmentFault("what reads a `tokenizer` is not installed", "pip install 'streamproc[llm]'")
    try:
        if file.stat().st_size > LARGEST:
            raise UserError(f"{file.name} is larger than {LARGEST >> 20} MB", HINT)
        raw = file.read_bytes()
    except (OSError, ValueError) as error:  # no file can have a name with a zero in it
        raise UserError(f"cannot read the tokenizer {file.name}", HINT) from error
    try:
        parses = _opened(raw)
        longest = max(map(len, parses.get_vocab()), default=0)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # it raises nothing that is more of a kind, and a panic of Rust is no Exception
        raise UserError(f"{file.name} is no tokenizer", HINT) from error
    if not longest:
        raise UserError(f"{file.name} has no tokens", HINT)
    if any(_tokens(parses, text) is None for text in (*probes(), *texts)):
        raise UserError(f"{file.name} cannot encode every text", ANY_HINT)
    return Counted(hashlib.blake2b(raw, digest_size=HASH_BYTES).hexdigest(), longest, counting(parses, raw))


def counting(parses: Tokenizer, raw: bytes) -> Callable[[str], int]:
    """How many tokens a text has at most: what looks like a token of its own is one to some servers, and text to
    others. What cannot be encoded counts as its bytes.
    """
    special = {number for number, token in parses.get_added_tokens_decoder().items() if token.special}

    @cache
    def plain() -> Tokenizer:
        """One of its own, which few need: several threads may count, so none is changed."""
        made = _opened(raw)
        made.encode_special_tokens = True
        return made

    def count(text: str) -> int:
        found = _tokens(parses, text)
        if found is None:
            return len(text.encode())
        if special.isdisjoint(found):  # looked for in what was found: a text may be made another one before
            return len(found)
        other = _tokens(plain(), text)
        return max(len(found), len(text.encode()) if other is None else len(other))

    return count


def probes() -> list[str]:
    """Texts of which each kind of tokenizer has to make something: all bytes that UTF-8 has, several scripts, words
    that no vocabulary has, and those that expressions go back and forth in."""
    leads = [*range(0x100), *range(0x100, 0x800, 0x40), *range(0x800, 0xD800, 0x800), *range(0xE000, 0x110000, 0x8000)]
    letters = [chr(number) for number in leads]
    scripts = [
        "Wo ist mein Päckchen?",
        "Где моя посылка?",
        "我想退货",
        "返品できません",
        "환불이 안 돼요",
        "هذا لا يعمل",
        "क्या",
    ]
    return ["", *letters, " ".join(letters), "".join(letters), *scripts, "x" * 1_000, "a" * 40 + "!", " " * 40 + "!"]


def _tokens(tokenizer: Tokenizer, text: str) -> list[int] | None:
    """``None`` where the text cannot be encoded."""
    try:
        return tokenizer.encode(text, add_special_tokens=False).ids
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # whatever its parts raise: a panic of Rust is no Exception
        return None


def _opened(raw: bytes) -> Tokenizer:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_buffer(raw)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if getattr(tokenizer.model, "dropout", None) is not None:
        tokenizer.model.dropout = None  # by it pieces are left out by chance
    return tokenizer
