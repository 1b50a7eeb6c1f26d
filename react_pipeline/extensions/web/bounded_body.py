"""How much an answer of a server may bring.

Each client applies it in the way of its library: `web_access` (images), `remote_store` and
`bounded_answer` (shards). Each bounds a whole answer in
time, counts its bytes as they come, and pauses as long as we say, whatever `Retry-After` asks for.
"""

from collections.abc import Iterable

TOO_MANY_BYTES = "too_many_bytes"


class RefusedAccess(OSError):  # noqa: N818 - names what was met; its text begins with the reason for the ledger
    """A connection or an answer that the policy does not allow."""


class BoundedBody:
    """The body of an answer, taken part by part."""

    def __init__(self, max_bytes: int, announced: int = 0) -> None:
        """Begin.

        Args:
            announced: Length by the headers; one that is too large is not read at all.

        Raises:
            RefusedAccess: If it is.
        """
        self._max_bytes = max_bytes
        self._parts: list[bytes] = []
        self._size_bytes = 0
        self._require(announced)

    def add(self, part: bytes) -> None:
        """Append a part.

        Raises:
            RefusedAccess: If all parts together are longer than allowed.
        """
        self._parts.append(part)
        self._size_bytes += len(part)
        self._require(self._size_bytes)

    def extend(self, parts: Iterable[bytes]) -> bytes:
        """Append parts; returns the whole. Errors as of `add`."""
        for part in parts:
            self.add(part)
        return self.whole()

    def whole(self) -> bytes:
        """All parts."""
        return b"".join(self._parts)

    def _require(self, size_bytes: int) -> None:
        if size_bytes > self._max_bytes:
            raise RefusedAccess(f"{TOO_MANY_BYTES}: allowed are {self._max_bytes:,}")
