"""The HTTP policy for web servers that hold shards: a session of aiohttp, as fsspec uses it.

fsspec itself waits as long as single bytes come, and keeps whatever a range brings. Does not belong
here: the policy itself (`bounded_body`).
"""

import asyncio
import socket
import weakref
from typing import Any

import aiohttp

from react_pipeline.extensions.web.bounded_body import BoundedBody, RefusedAccess
from react_pipeline.extensions.web.public_addresses import require_public
from react_pipeline.extensions.web.remote_store import CONNECT_SECONDS, READ_SECONDS

MAX_ANSWER_BYTES = 16 << 20
"""Twice the largest range that is asked for. A whole shard is not an answer: it is copied."""
HEAD_SECONDS = 30.0
"""Until the headers of an answer are whole."""
ANSWER_SECONDS = 120.0
"""For the answer to a request of a range, or of headers alone."""
_PART_BYTES = 1 << 16


async def open_session(**options: Any) -> aiohttp.ClientSession:
    """A session whose answers are bounded; `get_client` of fsspec.

    Args:
        options: `only_public`: connections go to public addresses alone, those of redirects too.
    """
    factory = _socket_to_public if options.pop("only_public") else None
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(socket_factory=factory),
        timeout=aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS
        ),
        trust_env=True,
        response_class=BoundedAnswer,
        # A few bytes of gzip may be gigabytes.
        auto_decompress=False,
        headers={"Accept-Encoding": "identity"},
        **options,
    )


def _socket_to_public(address: Any) -> socket.socket:
    family, kind, protocol, _, place = address
    require_public(str(place[0]))
    return socket.socket(family, kind, protocol)


class BoundedAnswer(aiohttp.ClientResponse):
    """A response of aiohttp with a deadline and a size."""

    async def start(self, connection: Any) -> aiohttp.ClientResponse:
        """Read the headers.

        Raises:
            TimeoutError: If they are not whole after `HEAD_SECONDS`.
        """
        response = await asyncio.wait_for(super().start(connection), HEAD_SECONDS)
        if self.method == "HEAD" or "Range" in self.request_info.headers:
            # Weak, since the timer outlives the answer.
            asyncio.get_running_loop().call_later(ANSWER_SECONDS, _expire, weakref.ref(self))
        return response

    async def read(self) -> bytes:
        """Read the body.

        Raises:
            RefusedAccess: If it is longer than `MAX_ANSWER_BYTES`.
        """
        if self._body is None:
            body = BoundedBody(MAX_ANSWER_BYTES)
            try:
                async for part in self.content.iter_chunked(_PART_BYTES):
                    body.add(part)
            except RefusedAccess:
                self.close()
                raise
            self._body = body.whole()
        return self._body


def _expire(reference: weakref.ref[BoundedAnswer]) -> None:
    if (answer := reference()) is not None:
        answer.close()
