"""Servers on loopback that answer as no server should: a port where nothing listens, and sockets
with bad manners.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNK = b"x" * (1 << 20)


PARTIAL = b"HTTP/1.1 206 Partial Content\r\nETag: x\r\nContent-Range: bytes 0-32767/100000\r\n"
"""The first range that a shard is asked for."""
NO_BODY = b"Content-Length: 0\r\nConnection: close\r\n\r\n"

SICK = {
    "silent": (b"", b""),
    "overloaded": (b"HTTP/1.1 503 Busy\r\nRetry-After: 3600\r\n" + NO_BODY, None),
    "dripping_body": (OK + b"Content-Length: 100000\r\n\r\n", b" "),
    "dripping_head": (OK + b"X-Long: ", b"x"),
    "dripping_range": (PARTIAL + b"Content-Length: 32768\r\n\r\n", b" "),
    "endless_range": (PARTIAL + b"Content-Length: 100000000000\r\n\r\n", CHUNK),
    "endless_body": (OK + b"\r\n", CHUNK),
    "looping": (b"HTTP/1.1 307 Away\r\nLocation: /again\r\n" + NO_BODY, None),
}
"""What each sends, and then again and again; None: it hangs up. At the port of another kind nothing
listens.
"""


@contextmanager
def sick_server(kind: str) -> Iterator[str]:
    """The address of one; its connections end with the block."""
    over = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"

    def answer(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.recv(1 << 16)
            first, more = SICK[kind]
            connection.sendall(first)
            while more is not None and not over.wait(0 if more is CHUNK else 0.05):
                connection.sendall(more)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    if kind not in SICK:
        listener.close()
    else:
        threading.Thread(target=accept, daemon=True).start()
    try:
        yield address
    finally:
        over.set()
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
