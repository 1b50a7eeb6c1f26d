"""The HTTP policy for images at URLs that strangers wrote: an opener of urllib.

A table of URLs could make this machine call services of its own network (server-side request
forgery). Does not belong here: the policy itself (`bounded_body`).
"""

import http.client
import io
import socket
import time
import urllib.request
from functools import partial
from typing import Any

from react_pipeline.extensions.web.bounded_body import BoundedBody, RefusedAccess
from react_pipeline.extensions.web.public_addresses import connect_to_public
from react_pipeline.web_policy import REFUSED_URL, plain_url

MAX_REDIRECTS = 5
MAX_RESPONSE_BYTES = 32 << 20
"""A larger answer is dropped unread."""
_READ_AT_ONCE_BYTES = 1 << 20


def guarded_opener(*, allow_private_addresses: bool) -> urllib.request.OpenerDirector:
    """What `urllib.request.urlopen` uses once it is installed: http and https only, nothing of this
    host's files.

    With `allow_private_addresses` any address is connected to, and the proxies of the environment
    are used. Without, connections go to public addresses, directly: behind a proxy an address could
    not be checked.
    """
    opener = urllib.request.OpenerDirector()
    handlers: list[urllib.request.BaseHandler] = [
        urllib.request.ProxyHandler(None if allow_private_addresses else {}),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        _Redirects(),
        urllib.request.HTTPErrorProcessor(),
        _Web(only_public=not allow_private_addresses),
    ]
    for handler in handlers:
        opener.add_handler(handler)
    return opener


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = MAX_REDIRECTS

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        if plain_url(newurl) is None:
            raise RefusedAccess(f"{REFUSED_URL}: redirected to {newurl[:200]!r}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Web(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    def __init__(self, *, only_public: bool) -> None:
        super().__init__()
        self._only_public = only_public

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(_Connection, only_public=self._only_public), req)

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(_TlsConnection, only_public=self._only_public), req)


class _Response(http.client.HTTPResponse):
    """An answer that ends after the connection's time-out as a whole, not per packet, and holds no
    more than it may.
    """

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_DeadlineReader(sock, self.fp.detach(), sock.gettimeout()))

    def read(self, amt: int | None = None) -> bytes:
        if amt is not None:
            return super().read(amt)
        body = BoundedBody(MAX_RESPONSE_BYTES, self.length or 0)
        data = body.extend(iter(partial(super().read, _READ_AT_ONCE_BYTES), b""))
        if self.length:
            raise http.client.IncompleteRead(b"", self.length)
        return data


class _DeadlineReader(io.RawIOBase):
    def __init__(
        self, sock: socket.socket, raw: io.RawIOBase, timeout_seconds: float | None
    ) -> None:
        self._sock = sock
        self._raw = raw
        self._deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._deadline is not None:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("timed out")
            self._sock.settimeout(left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Guarded:
    response_class: Any = _Response

    def __init__(self, *args: Any, only_public: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if only_public:
            self._create_connection = connect_to_public


class _Connection(_Guarded, http.client.HTTPConnection):
    pass


class _TlsConnection(_Guarded, http.client.HTTPSConnection):
    pass
