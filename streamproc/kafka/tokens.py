"""Tokens for SASL OAUTHBEARER: from a file that something else keeps fresh, or from a user's function."""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiokafka.abc import AbstractTokenProvider

from streamproc.errors import UserError

TokenFunction = Callable[[], str | Awaitable[str]]


class FileTokens(AbstractTokenProvider):
    """The content of a file, read anew for every connection."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def token(self) -> str:
        """The token that the file holds now. Raises UserError where it holds none."""
        try:
            text = (await asyncio.to_thread(self.path.read_text)).strip()
        except OSError as error:
            raise UserError(f"the token file {self.path} cannot be read: {error.strerror}") from error
        return _sound(text, f"the token file {self.path}")


class FunctionTokens(AbstractTokenProvider):
    """What a function without arguments returns; it may be a coroutine function. It is asked for every
    connection, so it keeps a token itself for as long as that is valid.
    """

    def __init__(self, function: TokenFunction, name: str) -> None:
        self.function = function
        self.name = name

    async def token(self) -> str:
        """What the function returns; a plain one is called in a thread. Raises UserError where it is no token."""
        if inspect.iscoroutinefunction(self.function):
            text = await self.function()
        else:
            text = await asyncio.to_thread(self.function)
        return _sound(text, f"the token function {self.name}")


def function_tokens(reference: str) -> FunctionTokens:
    """The provider for ``module:function``. Raises UserError where there is no such function."""
    module, _, name = reference.partition(":")
    if not module or not name:
        raise UserError(f"oauth_provider {reference!r} is not of the form module:function")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"oauth_provider {reference!r} cannot be loaded: {error}") from error
    if not callable(function):
        raise UserError(f"oauth_provider {reference!r} is not a function")
    return FunctionTokens(function, reference)


def _sound(text: object, source: str) -> str:
    """The token, if it can be one. What it is must never be in a message."""
    if not isinstance(text, str) or not text or not text.isascii() or not text.isprintable():
        raise UserError(f"{source} gave no token", hint="a token is a line of printable ASCII")
    return text
