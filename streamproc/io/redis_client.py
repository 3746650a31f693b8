"""Connections to a Redis, and to what speaks its protocol."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from streamproc.errors import EnvironmentFault, UserError

if TYPE_CHECKING:
    from redis.asyncio import Redis

ADDRESS = re.compile(r"(redis|rediss|unix)://\S+")
HINT = "write redis://HOST:PORT/DB, or rediss:// for TLS"


def redis_client(url: str, connections: int) -> Redis:
    """A client that connects when it is first used, and of the event loop that uses it first.

    Raises UserError for what is no address, whose text is never told, and EnvironmentFault where the package is not
    there. Its calls have no time of their own: whoever makes one bounds it.
    """
    try:
        from redis.asyncio import Redis
    except ImportError as error:
        raise EnvironmentFault("redis is not installed", "pip install 'streamproc[redis]'") from error
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    if not ADDRESS.fullmatch(url):
        raise UserError("this is no address of a Redis", HINT)
    try:
        return Redis.from_url(
            url,
            protocol=2,
            max_connections=connections,
            socket_timeout=None,  # a call has one time for all that it does
            socket_connect_timeout=None,
            retry=Retry(NoBackoff(), 1),  # a connection that was open may have been closed meanwhile
            client_name="streamproc",
        )
    except (ValueError, TypeError, AttributeError):  # its text may quote the password
        raise UserError("this is no address of a Redis", HINT) from None
