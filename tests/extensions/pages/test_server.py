"""The server of all boards: what it refuses, and what its pages may load."""

from __future__ import annotations

import re
from itertools import product
from typing import Any

import pytest
from support.drawings import draw, encode

from react_pipeline.extensions.pages.server import Board, Button, Item, Menu, View, create_app
from react_pipeline.store import InputError, SourceUnavailable, StoreWriteError

HOST = {"Host": "127.0.0.1:1235"}
HOSTILE = "<img src=x onerror=alert(1)>"


class Stub(Board):
    title = HOSTILE
    hint = "a hint"
    max_pixels = 1_000_000
    searches = True

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.error: Exception | None = None

    def view(self, asked: Any) -> View:
        buttons = (Button(HOSTILE, "k", ask={"text": "x"}),)
        menu = Menu("side", "Nearest", "text", (("text", HOSTILE),))
        return View(f"{sorted(asked)}", (Item("picture/0", HOSTILE),), buttons, (menu,))

    def picture(self, number: int) -> bytes:
        return [encode(draw("circle", "red", 0)), b"<svg onload='alert(1)'/>"][number]

    def answer(self, answer: Any) -> bool:
        if self.error:
            raise self.error
        self.answers.append(answer)
        return answer != "late"


@pytest.fixture
def board() -> Stub:
    return Stub()


@pytest.fixture
def client(board: Stub) -> Any:
    return create_app(board).test_client()


def test_a_view_is_what_the_board_says(client: Any, board: Stub) -> None:
    answer = client.post("/view", json={"asked": {"text": "a"}, "answer": 1}, headers=HOST)
    view = answer.get_json()
    assert board.answers == [1] and view["status"] == "['text']"
    assert view["items"][0]["caption"] == view["buttons"][0]["text"] == HOSTILE
    assert view["menus"][0]["options"] == [["text", HOSTILE]]
    assert answer.mimetype == "application/json"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert client.get("/picture/0", headers=HOST).data.startswith(b"\xff\xd8")


def test_page_and_script_come_from_here_alone(client: Any) -> None:
    page = client.get("/", headers=HOST)
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'; script-src 'self'" in policy and "http" not in policy
    # A policy of the page's own would forbid what the header allows.
    assert "Content-Security-Policy" not in page.text and HOSTILE not in page.text
    assert re.findall(r"(?:src|href)=['\"]([^'\"#]+)", page.text) == ["data:,", "board.js"]
    script = client.get("/board.js", headers=HOST)
    assert script.mimetype == "text/javascript"
    assert not re.search("innerHTML|insertAdjacent|document.write|eval", script.text)


@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Origin": "https://evil.example"}])
def test_a_page_of_another_site_asks_and_answers_nothing(
    client: Any, board: Stub, headers: dict[str, str]
) -> None:
    body = {"answer": 1}
    assert client.post("/view", json=body, headers={**HOST, **headers}).status_code == 403
    assert not board.answers
    mine = {**HOST, "Origin": "http://127.0.0.1:1235"}
    assert client.post("/view", json=body, headers=mine).status_code == 200


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        *product(
            [b"", b"{", b"[]", b"null", b"\xff", b"[" * 4000, b'{"asked": [1]}'],
            ["application/json"],
            [400],
        ),
        (b'{"answer": 1}', "text/plain", 415),
        (b'"' + b"x" * 5000 + b'"', "application/json", 413),
    ],
)
def test_a_request_that_means_nothing_is_refused(  # FAULTS 55
    client: Any, board: Stub, body: bytes, kind: str, status: int
) -> None:
    answer = client.post("/view", data=body, content_type=kind, headers=HOST)
    assert answer.status_code == status and "\n" not in answer.get_json()["message"]
    assert not board.answers


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InputError("what it is"), 400),
        (ValueError("what it is"), 400),
        (StoreWriteError("what it is"), 507),
        (SourceUnavailable("what it is"), 500),
    ],
)
def test_errors_say_whose_fault_they_are(
    client: Any, board: Stub, error: Exception, status: int
) -> None:
    assert client.post("/view", json={"answer": "late"}, headers=HOST).status_code == 409
    board.error = error
    answer = client.post("/view", json={"answer": 1}, headers=HOST)
    assert (answer.status_code, answer.get_json()["message"]) == (status, "what it is")


@pytest.mark.parametrize(
    "path",
    [
        "/picture/1",
        "/picture/2",
        "/picture/99999999999999999999",
        "/picture/-1",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/board.html",
    ],
)
def test_no_address_leads_to_another_file(client: Any, path: str) -> None:
    answer = client.get(path, headers=HOST, follow_redirects=True)
    assert (
        answer.status_code == 404 and b"root:" not in answer.data and b"import" not in answer.data
    )
