"""What a request's headers say of the page that sent it."""

from __future__ import annotations

import pytest

from react_pipeline.extensions.ui.serve import refusal, url_origin

HERE = {"Host": "127.0.0.1:3000"}
LINK = {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
PROXY = "https://your.host:8300"


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("POST", HERE),  # a program
        ("GET", {"Host": "LOCALHOST"}),
        ("GET", {"Host": "[::1]:3000"}),
        ("POST", {**HERE, "Origin": "http://127.0.0.1:3000", "Sec-Fetch-Site": "same-origin"}),
        (
            "GET",
            {
                **HERE,
                "Sec-Fetch-Site": "none",
                "Sec-Fetch-Mode": "navigate",
                "Sec-Fetch-Dest": "document",
            },
        ),
        ("GET", {**HERE, **LINK}),  # from MLflow's page to Dagster's
        ("POST", {"Host": "your.host:8300", "Origin": PROXY}),
        ("POST", {**HERE, "Origin": PROXY}),  # a proxy that asks by its own name
    ],
)
def test_programs_own_pages_and_links_are_answered(method: str, headers: dict[str, str]) -> None:
    assert refusal(method, headers.get, {PROXY}) == ""


@pytest.mark.parametrize(
    ("method", "headers", "word"),
    [
        ("GET", {}, "host"),
        ("GET", {"Host": "rebound.example:3000"}, "host"),
        ("GET", {"Host": "127.0.0.1.rebound.example"}, "host"),
        ("GET", {"Host": "evil.localhost:3000"}, "host"),
        ("GET", {"Host": "127.0.0.1:3000@rebound.example"}, "host"),
        ("GET", {"Host": "[::1"}, "host"),
        ("GET", {"Host": "your.host:8301"}, "host"),
        ("POST", {**HERE, "Origin": "https://evil.example"}, "origin"),
        ("POST", {**HERE, "Origin": "http://127.0.0.1:3001"}, "origin"),
        ("POST", {**HERE, "Origin": "http://localhost:3000"}, "origin"),
        ("GET", {**HERE, "Origin": "null"}, "origin"),
        ("GET", {**HERE, "Origin": "file://127.0.0.1:3000"}, "origin"),
        ("GET", {"Host": "your.host:8300", "Origin": "https://your.host:8301"}, "origin"),
        ("GET", {**HERE, "Sec-Fetch-Site": "cross-site"}, "cross-site"),
        ("GET", {**HERE, **LINK, "Sec-Fetch-Dest": "iframe"}, "same-site"),
        ("GET", {**HERE, **LINK, "Sec-Fetch-Mode": "no-cors"}, "same-site"),
        ("POST", {**HERE, **LINK}, "same-site"),
    ],
)
def test_another_host_origin_or_site_is_refused(
    method: str, headers: dict[str, str], word: str
) -> None:
    assert word in refusal(method, headers.get, {PROXY})


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("http://Your.Host:8300/page?x", "http://your.host:8300"),
        ("https://your.host", "https://your.host"),
        ("your.host:8300", ""),
        ("", ""),
    ],
)
def test_origin_of_an_address(url: str, origin: str) -> None:
    assert url_origin(url) == origin
