"""A push to a stand-in of the Hub, and one clear line for whatever goes wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import _http
from support.customized import customized
from support.hub import TOKEN, HubServer, serve_hub

from react_pipeline.extensions.hub.export import create_repository, upload
from react_pipeline.project import Project
from react_pipeline.store import InputError, ReactError

NAME = "me/shapes"
KEY = "models/me/shapes"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with serve_hub() as server:
        use(monkeypatch, server.url)
        yield server


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


def test_a_new_repository_is_private_and_holds_the_folder(hub: HubServer, folder: Path) -> None:
    create_repository(NAME, overwrite=False)
    address = upload(folder, NAME)
    assert address.startswith(hub.url) and "/commit/" in address
    assert held(hub) == contents(folder)
    (asked,) = hub.created
    assert "private" in (asked.get("visibility"), "private" if asked.get("private") else "")


def test_an_existing_repository_is_only_replaced_with_overwrite(
    hub: HubServer, folder: Path
) -> None:
    hub.repositories[KEY] = {".gitattributes": b"", "model.onnx": b"old", "export.json": b"{}"}
    with pytest.raises(InputError, match="--overwrite"):
        create_repository(NAME, overwrite=False)
    assert held(hub)["model.onnx"] == b"old"
    create_repository(NAME, overwrite=True)
    upload(folder, NAME)
    assert held(hub) == contents(folder)


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


@pytest.mark.parametrize("name", ["me/shapes/more", "../me", "me/a b"])
def test_a_name_that_is_no_repository_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="OWNER/NAME"):
        create_repository(name, overwrite=False)


@pytest.mark.slow
@pytest.mark.operations
def test_the_command_pushes_what_it_exports(
    hub: HubServer, retrieved_project: Project, tmp_path: Path
) -> None:
    """In a process of its own, with the variables that a user sets."""
    customized(retrieved_project, "gated-image")
    to = tmp_path / "exported"
    own = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "react_pipeline", "export", "shapes", "gated-image"]
    command += ["--config", str(retrieved_project.path), "--to", str(to), "--push", NAME]
    push = partial(
        subprocess.run,
        command,
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    done = push()
    assert done.returncode == 0, done.stderr
    assert f"{hub.url}/me/shapes/commit/" in done.stdout
    assert TOKEN not in done.stdout + done.stderr
    assert held(hub) == contents(to)
    # Taken by now: refused before the folder is written again.
    before = json.loads((to / "export.json").read_text())
    done = push()
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "--overwrite" in done.stderr
    assert json.loads((to / "export.json").read_text()) == before
