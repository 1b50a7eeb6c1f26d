"""Which addresses may be connected to, and which URLs may be fetched."""

from __future__ import annotations

from typing import Any

import pytest

from react_pipeline.extensions.sources.image_client import is_public
from react_pipeline.web_policy import plain_url


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
