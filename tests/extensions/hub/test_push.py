"""A push to a stand-in of the Hub, and one clear line for whatever goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import _http
from support.commands import call
from support.customized import customized
from support.hub import TOKEN, HubServer

from react_pipeline.extensions.hub.export import create_repository, upload
from react_pipeline.project import Project
from react_pipeline.store import InputError, ReactError

NAME = "me/shapes"
KEY = "models/me/shapes"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    server = HubServer()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    use(monkeypatch, server.url)
    yield server
    server.stop()


def use(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """As HF_ENDPOINT, which the library reads when it is imported."""
    # Versions before 1.0 keep a client for each thread, of a test that was offline too.
    getattr(_http, "reset_sessions", lambda: None)()
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What an export looks like from outside."""
    (tmp_path / "exported" / "text").mkdir(parents=True)
    for name in ("README.md", "export.json", "open_clip_model.safetensors", "text/config.json"):
        (tmp_path / "exported" / name).write_text("{}")
    return tmp_path / "exported"


def held(hub: HubServer) -> dict[str, bytes]:
    return {name: one for name, one in hub.repositories[KEY].items() if name != ".gitattributes"}


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize(("status", "token"), [(401, "hf_wrong"), (403, TOKEN)])
def test_a_token_that_is_refused_is_one_line(
    hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch, status: int, token: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    hub.refuse = lambda _, path: 403 if status == 403 and path.endswith("/create") else None
    with pytest.raises(InputError, match=str(status)) as raised:
        create_repository(NAME, overwrite=False)
    assert token not in str(raised.value) and "\n" not in str(raised.value)
    assert hub.repositories == {}


@pytest.mark.parametrize(("method", "at"), [("PUT", "/upload/"), ("POST", "/commit/")])
@pytest.mark.parametrize("status", [0, 500])
def test_an_interrupted_upload_publishes_nothing(
    hub: HubServer, folder: Path, method: str, at: str, status: int
) -> None:
    hub.repositories[KEY] = before = {"export.json": b"{}", "model.onnx": b"old"}
    hub.refuse = lambda asked, path: status if asked == method and at in path else None
    with pytest.raises(ReactError, match="push again") as raised:
        upload(folder, NAME)
    assert "secret" not in str(raised.value) and "\n" not in str(raised.value)
    assert hub.repositories[KEY] == before
    hub.refuse = lambda _method, _path: None
    upload(folder, NAME)
    assert held(hub) == contents(folder)


def test_without_a_network_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    use(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(ReactError, match="nothing was sent") as raised:
        create_repository(NAME, overwrite=False)
    assert "\n" not in str(raised.value) and constants.ENDPOINT in str(raised.value)


def test_a_name_that_is_no_repository_is_refused() -> None:
    with pytest.raises(InputError, match="OWNER/NAME"):
        create_repository("me/shapes/more", overwrite=False)


def test_an_existing_repository_is_only_replaced_with_overwrite(
    hub: HubServer, retrieved_project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    customized(retrieved_project, "gated-image")

    def push(to: str, *more: str) -> tuple[int, str, str]:
        options = ["--config", str(retrieved_project.path), "--to", str(tmp_path / to)]
        return call(capsys, "export", "shapes", "gated-image", *options, "--push", NAME, *more)

    code, out, reported = push("first")
    assert code == 0, reported
    assert f"{hub.url}/me/shapes/commit/" in out and TOKEN not in out + reported
    assert held(hub) == contents(tmp_path / "first")
    (asked,) = hub.created
    assert "private" in (asked.get("visibility"), "private" if asked.get("private") else "")
    hub.repositories[KEY]["model.onnx"] = b"old"
    code, _, reported = push("second")
    assert code == 2 and "--overwrite" in reported and len(reported.splitlines()) == 1
    assert "model.onnx" in held(hub) and not (tmp_path / "second").exists()
    code, _, reported = push("second", "--overwrite")
    assert code == 0, reported
    assert held(hub) == contents(tmp_path / "second")
