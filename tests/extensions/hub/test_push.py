"""A push to a stand-in of the Hub: one commit, and one clear line for whatever goes wrong."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, constants
from support.customized import customized
from support.hub import TOKEN, HubServer
from typer.testing import CliRunner, Result

from react_pipeline.commands.cli import app
from react_pipeline.extensions.hub.export import export
from react_pipeline.extensions.hub.push import Repository, files_of
from react_pipeline.project import Project
from react_pipeline.store import InputError, ReactError

MODEL = Repository("me/shapes", "model")
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
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What an export looks like from outside."""
    files = {
        "README.md": "---\nlicense: mit\n---\n",
        "export.json": "{}",
        "open_clip_model.safetensors": "weights",
        "text/config.json": "{}",
    }
    for name, text in files.items():
        path = tmp_path / "exported" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "exported"


def held(hub: HubServer, key: str = KEY) -> dict[str, bytes]:
    return {name: one for name, one in hub.repositories[key].items() if name != ".gitattributes"}


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files_of(folder)}


@pytest.mark.parametrize("kind", ["model", "space"])
def test_a_new_repository_is_private_and_holds_the_folder(
    hub: HubServer, folder: Path, kind: str
) -> None:
    repository = Repository.named("me/shapes", kind)  # type: ignore[arg-type]
    repository.require_writable(overwrite=False)
    address = repository.send(folder, overwrite=False)
    assert address.startswith(hub.url) and "/commit/" in address
    assert held(hub, f"{kind}s/me/shapes") == contents(folder)
    (asked,) = hub.created
    assert "private" in (asked.get("visibility"), "private" if asked.get("private") else "")
    assert asked.get("sdk") == ("gradio" if kind == "space" else None)
    assert sum("/commit/" in request for request in hub.requests) == 1


def test_only_an_earlier_export_is_replaced(hub: HubServer, folder: Path) -> None:
    hub.repositories[KEY] = {".gitattributes": b"", "model.onnx": b"old", "export.json": b"{}"}
    for call in (MODEL.require_writable, lambda overwrite: MODEL.send(folder, overwrite)):
        with pytest.raises(InputError, match="--overwrite"):
            call(False)
    assert held(hub)["model.onnx"] == b"old"
    MODEL.require_writable(True)
    MODEL.send(folder, True)
    assert held(hub) == contents(folder)
    hub.repositories[KEY] = {"weights.bin": b"mine"}
    for overwrite in (False, True):
        with pytest.raises(InputError, match="exists and holds files"):
            MODEL.require_writable(overwrite)
    assert held(hub) == {"weights.bin": b"mine"}


def test_a_repository_made_by_hand_is_filled(hub: HubServer, folder: Path) -> None:
    hub.repositories[KEY] = {".gitattributes": b"", "README.md": b"mine"}
    MODEL.send(folder, False)
    assert held(hub) == contents(folder)


def test_without_a_token_nothing_is_asked(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("react_pipeline.extensions.hub.push.get_token", lambda: None)
    with pytest.raises(InputError, match="HF_TOKEN"):
        MODEL.require_writable(False)
    assert hub.requests == []


def test_a_token_that_is_not_accepted_is_one_line(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(InputError, match="401") as raised:
        MODEL.require_writable(False)
    assert "hf_wrong" not in str(raised.value) and "\n" not in str(raised.value)
    assert hub.repositories == {}


@pytest.mark.parametrize("at", ["/api/repos/create", "/commit/main"])
def test_a_token_without_the_right_to_write_is_one_line(
    hub: HubServer, folder: Path, at: str
) -> None:
    hub.refuse = lambda _, path: 403 if path.endswith(at) else None
    with pytest.raises(InputError, match="403") as raised:
        MODEL.send(folder, False)
    assert TOKEN not in str(raised.value) and "\n" not in str(raised.value)
    assert held(hub) == {} if KEY in hub.repositories else True


@pytest.mark.parametrize(("method", "at"), [("PUT", "/upload/"), ("POST", "/commit/")])
@pytest.mark.parametrize("status", [0, 500])
def test_an_interrupted_upload_publishes_nothing(
    hub: HubServer, folder: Path, method: str, at: str, status: int
) -> None:
    hub.repositories[KEY] = before = {"export.json": b"{}", "model.onnx": b"old"}
    hub.refuse = lambda asked, path: status if asked == method and at in path else None
    with pytest.raises(ReactError, match="nothing is half published") as raised:
        MODEL.send(folder, True)
    assert "secret" not in str(raised.value) and "\n" not in str(raised.value)
    assert hub.repositories[KEY] == before
    hub.refuse = lambda _method, _path: None
    MODEL.send(folder, True)
    assert held(hub) == contents(folder)


def test_without_a_network_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        use(monkeypatch, f"http://127.0.0.1:{free.getsockname()[1]}")
        with pytest.raises(ReactError, match="nothing was sent") as raised:
            MODEL.require_writable(False)
    assert "\n" not in str(raised.value) and constants.ENDPOINT in str(raised.value)


@pytest.mark.parametrize("name", ["shapes", "me/shapes/more", "../me", "me/a b"])
def test_a_name_that_is_no_repository_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="OWNER/NAME"):
        Repository.named(name, "model")


def run(project: Project, *more: str) -> Result:
    command = ["export", "shapes", "locked-text", "--config", str(project.path), *more]
    return CliRunner().invoke(app, command)


def test_a_dry_run_shows_all_and_asks_nobody(
    hub: HubServer, retrieved_project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    customized(retrieved_project, "locked-text")
    monkeypatch.delenv("HF_TOKEN")
    to = tmp_path / "exported"
    shown = run(
        retrieved_project, "--to", str(to), "--push", "me/shapes", "--dry-run", "--license", "mit"
    )
    assert shown.exit_code == 0, shown.output
    assert hub.requests == []
    sizes = files_of(to)
    lines = [line.split() for line in shown.output.splitlines()]
    for name, size in sizes.items():
        assert [f"{size:,}", name] in lines
    assert f"{sum(sizes.values()):,} bytes for model me/shapes; nothing was sent" in shown.output
    card = ModelCard.load(to / "README.md")
    assert card.content.strip() in shown.output and card.data.license == "mit"
    assert run(retrieved_project, "--to", str(to), "--dry-run").exit_code != 0


@pytest.mark.slow
@pytest.mark.operations
def test_the_command_pushes_what_it_exports(
    hub: HubServer, retrieved_project: Project, tmp_path: Path
) -> None:
    """In a process of its own, with the variables that a user sets."""
    customized(retrieved_project, "gated-image")
    to = tmp_path / "exported"
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(tmp_path / "home"),
    }
    command = [sys.executable, "-m", "react_pipeline", "export", "shapes", "gated-image"]
    command += ["--config", str(retrieved_project.path), "--to", str(to), "--push", "me/shapes"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{hub.url}/me/shapes/commit/" in done.stdout
    assert TOKEN not in done.stdout + done.stderr
    assert held(hub) == contents(to)
    # Taken by now: refused before the folder is written again.
    before = json.loads((to / "export.json").read_text())
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "exists and holds files" in done.stderr
    assert json.loads((to / "export.json").read_text()) == before


def test_an_unknown_format_is_refused_before_any_work(
    tiny_project: Project, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="onnx-int8"):
        export(tiny_project, "shapes", "locked-text", tmp_path / "to", formats=["tflite"])
