"""The guard of every fetch: addresses, redirects, sizes, deadlines. Servers are real, on
loopback.
"""

from __future__ import annotations

import socket
import urllib.error
from collections.abc import Iterator
from typing import Any

import pytest
import support.web
from support.web import Web, served

from react_pipeline.extensions.web import web_access
from react_pipeline.extensions.web.public_addresses import is_public
from react_pipeline.extensions.web.web_access import MAX_REDIRECTS, guarded_opener
from react_pipeline.web_policy import plain_url


def huge(handler: Any, _before: int) -> None:
    handler.send_response(200)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b"x" * 65_536)
    except OSError:
        return


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setenv("no_proxy", "*")
    answers: dict[str, Any] = {
        "/a": b"picture",
        "/cut": support.web.cut(b"x" * 100),
        "/drip": support.web.dripping,
        "/huge": huge,
        "/announced": lambda handler, _: support.web.send(
            handler, b"x", Content_Length=str(10**12)
        ),
        "/to-file": support.web.redirected("file:///etc/hostname"),
        "/to-ftp": support.web.redirected("ftp://127.0.0.1/x"),
        "/loop": support.web.redirected("/loop"),
    }
    with served(answers) as server:
        yield server


def fetch(url: str, *, allow_private: bool = True, timeout: float = 5) -> bytes:
    with guarded_opener(allow_private_addresses=allow_private).open(url, timeout=timeout) as answer:
        return answer.read()


def test_an_allowed_address_is_read(web: Web) -> None:
    assert fetch(f"{web.url}/a") == b"picture"
    with guarded_opener(allow_private_addresses=True).open(f"{web.url}/a", timeout=5) as answer:
        assert (answer.read(3), answer.read()) == (b"pic", b"ture")


def test_a_read_brings_no_more_than_it_asks_for(web: Web) -> None:
    with guarded_opener(allow_private_addresses=True).open(f"{web.url}/a", timeout=5) as answer:
        assert (answer.read(3), answer.read()) == (b"pic", b"ture")


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "127.1", "0x7f000001", "2130706433", "0.0.0.0", "[::1]"],  # noqa: S104
)
def test_loopback_in_any_spelling_is_never_connected_to(web: Web, host: str) -> None:
    with pytest.raises(urllib.error.URLError, match="private_address|not known|rror"):
        fetch(web.url.replace("127.0.0.1", host) + "/a", allow_private=False)
    assert not web.asked


@pytest.mark.parametrize("path", ["/to-file", "/to-ftp"])
def test_a_redirect_to_another_scheme_is_refused(web: Web, path: str) -> None:
    with pytest.raises(OSError, match="refused_url|not allowed"):
        fetch(f"{web.url}{path}")


def test_a_circle_of_redirects_ends(web: Web) -> None:
    with pytest.raises(urllib.error.HTTPError):
        fetch(f"{web.url}/loop")
    assert web.asked["/loop"] <= MAX_REDIRECTS + 1


@pytest.mark.parametrize("url", ["file:///etc/passwd", "data:text/plain,x", "ftp://example.org/x"])
def test_no_other_scheme_is_opened(url: str) -> None:
    with pytest.raises(urllib.error.URLError, match="unknown url type"):
        fetch(url)


@pytest.mark.parametrize("path", ["/huge", "/announced"])
def test_an_answer_that_is_too_large_is_dropped(
    web: Web, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_access, "MAX_RESPONSE_BYTES", 1 << 20)
    with pytest.raises(OSError, match="too_many_bytes"):
        fetch(f"{web.url}{path}")


def test_an_answer_that_ends_too_early_is_an_error(web: Web) -> None:
    with pytest.raises(Exception, match="50 more expected"):
        fetch(f"{web.url}/cut")


def test_an_answer_that_comes_byte_by_byte_meets_the_time_out(web: Web) -> None:
    # No single read takes so long; and at its end the answer would be cut, which is another error.
    with pytest.raises(TimeoutError):
        fetch(f"{web.url}/drip", timeout=0.5)


def test_each_read_has_what_is_left_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(web_access.time, "monotonic", lambda: now[0])
    client, server = socket.socketpair()
    with client, server:
        reader = web_access._DeadlineReader(client, client.makefile("rb", 0), 5.0)
        server.sendall(b"ab")
        now[0] += 3
        assert reader.read(1) == b"a" and client.gettimeout() == 2.0
        now[0] += 2
        with pytest.raises(TimeoutError):
            reader.read(1)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:4700::1111", True),
        ("10.0.0.1", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("127.0.0.1", False),
        ("0.0.0.0", False),  # noqa: S104
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:93.184.216.34", True),
        ("2002:7f00:0001::", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b:1::7f00:1", False),
        ("::127.0.0.1", False),
        ("fec0::1", False),
        ("192.0.0.192", False),
        ("168.63.129.16", False),
        ("::ffff:168.63.129.16", False),
        ("::ffff:0:7f00:1", False),
    ],
)
def test_only_addresses_of_the_public_internet_are_public(address: str, public: bool) -> None:
    assert is_public(address) is public


@pytest.mark.parametrize(
    ("url", "plain"),
    [
        ("http://a.org/x.jpg", "http://a.org/x.jpg"),
        (" HTTPS://a.org/x y.jpg?q=%20&r='1' ", "HTTPS://a.org/x%20y.jpg?q=%20&r='1'"),
        ("http://a.org/café.jpg", "http://a.org/caf%C3%A9.jpg"),
        ("http://bücher.example:81/é", "http://xn--bcher-kva.example:81/%C3%A9"),
        ("http://ü@bücher.example/", None),
        ("http://" + "ü" * 70 + ".example/", None),
        ("file:///etc/passwd", None),
        ("pipe:rm -rf x", None),
        ("data:image/png;base64,AAAA", None),
        ("http://user:secret@a.org/x", None),
        ("http:///x", None),
        ("http://a.org:99999/x", None),
        ("http://a.org/x\r\nHost: b", None),
        ("http://[::1/x", None),
        ("", None),
        (None, None),
        (float("nan"), None),
        ("http://a.org/" + "x" * 9_000, None),
    ],
)
def test_only_plain_web_addresses_pass(url: Any, plain: str | None) -> None:
    assert plain_url(url) == plain
