"""Answers of web servers that hold shards: no more bytes than asked for, and an end to waiting.

fsspec bounds neither: it waits as long as single bytes come, and keeps whatever a range brings.
Does not belong here: images at the URLs of strangers (`web_access`), MLflow (`tracking`).
"""

import asyncio
import weakref
from typing import Any

import aiohttp

MAX_ANSWER_BYTES = 16 << 20
"""Twice the largest range that is asked for. A whole shard is not an answer: it is copied."""
HEAD_SECONDS = 30.0
"""Until the headers of an answer are whole."""
ANSWER_SECONDS = 120.0
"""For the answer to a request of a range, or of headers alone."""
_PART_BYTES = 1 << 16


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
            aiohttp.ClientPayloadError: If it is longer than `MAX_ANSWER_BYTES`.
        """
        if self._body is None:
            parts = []
            size_bytes = 0
            async for part in self.content.iter_chunked(_PART_BYTES):
                parts.append(part)
                size_bytes += len(part)
                if size_bytes > MAX_ANSWER_BYTES:
                    self.close()
                    raise aiohttp.ClientPayloadError(f"more than {MAX_ANSWER_BYTES:,} bytes")
            self._body = b"".join(parts)
        return self._body


def _expire(reference: weakref.ref[BoundedAnswer]) -> None:
    if (answer := reference()) is not None:
        answer.close()
