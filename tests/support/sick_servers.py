"""Servers on loopback that answer as no server should: a port where nothing listens, and sockets
with bad manners.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNK = b"x" * (1 << 20)


def silent(_connection: socket.socket, over: threading.Event) -> None:
    over.wait()


def overloaded(connection: socket.socket, _over: threading.Event) -> None:
    connection.sendall(
        b"HTTP/1.1 503 Busy\r\nRetry-After: 3600\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )


def dripping_body(connection: socket.socket, over: threading.Event) -> None:
    connection.sendall(OK + b"Content-Length: 100000\r\n\r\n")
    _drip(connection, over, b" ")


def dripping_head(connection: socket.socket, over: threading.Event) -> None:
    connection.sendall(OK + b"X-Long: ")
    _drip(connection, over, b"x")


def endless_body(connection: socket.socket, over: threading.Event) -> None:
    connection.sendall(OK + b"\r\n")
    while not over.is_set():
        connection.sendall(CHUNK)


PARTIAL = b"HTTP/1.1 206 Partial Content\r\nETag: x\r\nContent-Range: bytes 0-32767/100000\r\n"
"""The first range that a shard is asked for."""


def dripping_range(connection: socket.socket, over: threading.Event) -> None:
    connection.sendall(PARTIAL + b"Content-Length: 32768\r\n\r\n")
    _drip(connection, over, b" ")


def endless_range(connection: socket.socket, over: threading.Event) -> None:
    connection.sendall(PARTIAL + b"Content-Length: 100000000000\r\n\r\n")
    while not over.is_set():
        connection.sendall(CHUNK)


def looping(connection: socket.socket, _over: threading.Event) -> None:
    connection.sendall(
        b"HTTP/1.1 307 Away\r\nLocation: /again\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )


SICK: dict[str, Callable[[socket.socket, threading.Event], None] | None] = {
    "down": None,
    **{
        f.__name__: f
        for f in (
            silent,
            overloaded,
            dripping_body,
            dripping_head,
            dripping_range,
            endless_range,
            endless_body,
            looping,
        )
    },
}
"""How each answers; None: nothing listens."""


@contextmanager
def sick_server(kind: str) -> Iterator[str]:
    """The address of one; its connections end with the block."""
    behave, over = SICK[kind], threading.Event()
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"

    def answer(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.recv(1 << 16)
            if behave is not None:
                behave(connection, over)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    if behave is None:
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


def _drip(connection: socket.socket, over: threading.Event, byte: bytes) -> None:
    while not over.is_set():
        connection.sendall(byte)
        time.sleep(0.05)
