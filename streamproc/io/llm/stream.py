"""What a server of chat completions sends, as it comes: server-sent events, or one JSON object."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import orjson

LARGEST_LINE = 1 << 17
MOST_TOKENS = 1 << 16
"""Of more tokens of one answer nothing is kept."""
DONE = b"[DONE]"


class Broken(Exception):
    """The stream is none that can be understood, or it ended before its end. Nothing of its content is told."""


@dataclass(slots=True)
class Completion:
    """What was said so far. ``finish`` is empty while it is not over; ``input_tokens`` and ``output_tokens`` are 0
    where the server does not count. ``tokens`` are those of the text with the logarithms of their probabilities: none
    where the server does not tell them, ``None`` where what it tells cannot be used."""

    text: list[str] = field(default_factory=list)
    finish: str = ""
    refused: bool = False
    input_tokens: int = 0
    output_tokens: int = 0
    model: str = ""
    size: int = 0
    tokens: list[tuple[bytes, float]] | None = field(default_factory=list)


class Events:
    """Server-sent events out of chunks of bytes: the ``data`` of each, as the HTML standard has it.

    A lone carriage return ends no line.

    >>> list(Events().feed(b"data: 1\\r\\n\\r\\n: hello\\ndata: 2\\ndata: 3\\n\\ndata: 4"))
    [b'1', b'2\\n3']
    """

    def __init__(self) -> None:
        self._rest = b""
        self._data = list[bytes]()
        self._size = 0

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The data of the events that are whole with this chunk. Raises Broken where one is too large."""
        *lines, rest = (self._rest + chunk).split(b"\n")
        if len(rest) > LARGEST_LINE:
            raise Broken("an event is too large")
        self._rest = rest
        for line in (one.removesuffix(b"\r") for one in lines):
            if not line:
                if self._data:
                    yield b"\n".join(self._data)
                self._data, self._size = [], 0
            elif line.startswith(b"data:"):
                self._size += len(line)
                if self._size > LARGEST_LINE:
                    raise Broken("an event is too large")
                self._data.append(line[5:].removeprefix(b" "))


def take(completion: Completion, data: bytes) -> bool:
    """Add an event to what was said; whether it was the last one. Raises Broken for what is no chunk."""
    if data == DONE:
        if not completion.finish:
            raise Broken("the stream says that it is done, and the answer is not")
        return True
    _add(completion, _object(data), "delta")
    return False


def whole(raw: bytes) -> Completion:
    """The completion in a body that is no stream. Raises Broken where it is none."""
    completion = Completion()
    _add(completion, _object(raw), "message")
    if not completion.finish:
        raise Broken("the answer does not say why it ends")
    return completion


def _object(raw: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Broken("no JSON") from error
    if not isinstance(found, dict):
        raise Broken("no object")
    if found.get("error"):
        raise Broken("the server tells of an error")
    return found


def _add(completion: Completion, found: dict[str, Any], part: str) -> None:
    choices, usage = found.get("choices"), found.get("usage")
    if not isinstance(choices, list):
        raise Broken("no choices")
    if isinstance(model := found.get("model"), str):
        completion.model = model
    if isinstance(usage, dict):
        completion.input_tokens = _count(usage.get("prompt_tokens"))
        completion.output_tokens = _count(usage.get("completion_tokens"))
    for choice in choices[:1]:
        said = choice.get(part) if isinstance(choice, dict) else None
        if said is not None and not isinstance(said, dict):
            raise Broken("no message")
        text = (said or {}).get("content")
        if isinstance(text, str):
            completion.text.append(text)
            completion.size += len(text)
        elif text is not None:
            raise Broken("no text")
        _add_tokens(completion, choice.get("logprobs") if isinstance(choice, dict) else None)
        completion.refused |= bool((said or {}).get("refusal"))
        if isinstance(finish := choice.get("finish_reason") if isinstance(choice, dict) else None, str):
            completion.finish = finish


def _add_tokens(completion: Completion, logprobs: object) -> None:
    """Nobody's answer is given up for what is wrong with these."""
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    if completion.tokens is None or content is None:
        return
    found = list(map(_token, content)) if isinstance(content, list) else [None]
    sound = [one for one in found if one is not None]
    if len(sound) < len(found) or len(completion.tokens) + len(sound) > MOST_TOKENS:
        completion.tokens = None
    else:
        completion.tokens += sound


def _token(one: object) -> tuple[bytes, float] | None:
    """A token's bytes, which may be a part of a character, and the logarithm of its probability."""
    if not isinstance(one, dict):
        return None
    raw, text, logprob = one.get("bytes"), one.get("token"), one.get("logprob")
    if isinstance(logprob, bool) or not isinstance(logprob, int | float) or not isfinite(logprob):
        return None
    if isinstance(raw, list) and all(type(byte) is int and 0 <= byte < 256 for byte in raw):
        return bytes(raw), float(logprob)
    return (text.encode(errors="replace"), float(logprob)) if isinstance(text, str) else None


def _count(value: object) -> int:
    return value if type(value) is int and 0 <= value < 2**31 else 0
