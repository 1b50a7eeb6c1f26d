"""Launching on a server: what is asked of it, what becomes of its answers, and that no other place
than its own launcher builds for it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from dagster_graphql.schema import create_schema
from graphql import parse, validate
from support.launch import dagster_home
from support.services import user_interfaces
from typer.testing import CliRunner

from react_pipeline.assets.launch import materialize
from react_pipeline.commands.cli import app
from react_pipeline.extensions.operations import remote
from react_pipeline.project.project import Project
from react_pipeline.store.errors import InputError


class Server:
    """A webserver that takes a backfill and then gives these answers to polls, the last for good;
    None closes the connection.
    """

    def __init__(self) -> None:
        self.launched: dict[str, Any] = {"backfillId": "abcdefgh"}
        self.looks: list[dict[str, Any] | None] = [{"status": "COMPLETED_SUCCESS"}]
        self.status = 200
        self.errors: list[dict[str, str]] = []
        self.asked: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append(asked["variables"])
                look: dict[str, Any] | None = {"launchPartitionBackfill": outer.launched}
                if "id" in asked["variables"]:
                    look = outer.looks.pop(0) if len(outer.looks) > 1 else outer.looks[0]
                    if look is None:
                        self.close_connection = True
                        return
                    look = {"partitionBackfillOrError": look}
                self.send_response(outer.status)
                self.end_headers()
                errors = {"errors": outer.errors} if outer.errors else {}
                self.wfile.write(json.dumps({"data": look, **errors}).encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(remote, "POLL_SECONDS", 0)
    monkeypatch.setenv("no_proxy", "*")
    server = Server()
    yield server
    server.http.shutdown()


def counts(asset: str, targeted: int, made: int, failed: int = 0) -> dict[str, Any]:
    return {
        "assetKey": {"path": [asset]},
        "numPartitionsTargeted": targeted,
        "numPartitionsMaterialized": made,
        "numPartitionsFailed": failed,
    }


def status(status: str, *rows: dict[str, Any]) -> dict[str, Any]:
    return {"status": status, "assetBackfillData": {"assetBackfillStatuses": list(rows)}}


@pytest.mark.parametrize("query", [remote._LAUNCH, remote._STATUS])
def test_dagster_knows_every_field_that_is_asked(query: str) -> None:
    assert not validate(create_schema().graphql_schema, parse(query))


def test_a_selection_is_one_backfill(server: Server, tiny_project: Project) -> None:
    methods = ["base", "gated-image"]
    lines: list[str] = []
    arguments = ("key:corpus or key:retrieved_set or key:domain_results", ["shapes"], methods)
    assert remote.materialize_remotely(server.url, *arguments, tiny_project.path, lines.append)
    (asked,) = [one["params"]["partitionsByAssets"] for one in server.asked if "params" in one]
    names = {one["assetKey"]["path"][0]: one.get("partitions") for one in asked}
    assert names["corpus"] is None
    assert names["retrieved_set"] == {"ranges": [{"start": "shapes", "end": "shapes"}]}
    ranges = names["domain_results"]["ranges"]
    assert [one["start"] for one in ranges] == ["shapes|base", "shapes|gated-image"]
    assert lines == [f"{server.url}/runs/b/abcdefgh"]


def test_the_wait_shows_progress_and_outlives_a_restart(
    server: Server, tiny_project: Project
) -> None:
    whole = {"assetKey": {"path": ["corpus"]}, "materialized": True, "failed": False}
    server.looks = [
        status("REQUESTED", whole, counts("retrieved_set", 2, 0)),
        None,
        status("COMPLETED_FAILED", whole, counts("retrieved_set", 2, 1, 1)),
    ]
    lines: list[str] = []
    assert not remote.materialize_remotely(
        server.url, "corpus", (), (), tiny_project.path, lines.append
    )
    assert lines[1:] == ["1 of 3 made", "2 of 3 made; failed: retrieved_set"]


def test_the_command_ends_with_what_became_of_the_runs(
    server: Server, tiny_project: Project
) -> None:
    command = ["materialize", "--remote", server.url, "--config", str(tiny_project.path)]
    assert CliRunner().invoke(app, command).exit_code == 0
    server.looks = [{"status": "CANCELED"}]
    assert CliRunner().invoke(app, command).exit_code == 1


def test_a_refusal_and_a_silent_server_are_one_clear_error(
    server: Server, tiny_project: Project
) -> None:
    def ask(url: str) -> None:
        remote.materialize_remotely(url, "corpus", (), (), tiny_project.path)

    server.launched = {"__typename": "PartitionKeysNotFoundError"}
    with pytest.raises(InputError, match="PartitionKeysNotFoundError"):
        ask(server.url)
    server.status = 500  # Dagster's for its own errors
    server.launched = {"__typename": "PythonError", "message": "the server closed the connection"}
    with pytest.raises(InputError, match="the server closed the connection"):
        ask(server.url)
    server.errors = [{"message": "no partition `shapes`"}]
    with pytest.raises(InputError, match="no partition `shapes`$"):
        ask(server.url)
    server.status = 401
    with pytest.raises(InputError, match="netrc"):
        ask(server.url)
    with pytest.raises(InputError, match="http://"):
        ask("host:3000")
    server.http.server_close()
    with pytest.raises(InputError, match="--remote"):
        ask("http://127.0.0.1:1")


@pytest.mark.parametrize("launcher", ["K8sRunLauncher", "DockerRunLauncher"])
def test_nothing_is_built_in_place_of_another_launcher(
    launcher: str, tiny_project: Project, tmp_path: Path
) -> None:
    module = {"K8sRunLauncher": "dagster_k8s", "DockerRunLauncher": "dagster_docker"}[launcher]
    with dagster_home(tmp_path / "home") as home:
        with (home / "dagster.yaml").open("a") as file:
            file.write(f"\nrun_launcher: {{module: {module}, class: {launcher}}}\n")
        with pytest.raises(InputError, match="--remote"):
            materialize("corpus", config_path=tiny_project.path)


@pytest.mark.slow
@pytest.mark.operations
def test_a_real_server_builds_what_is_asked(tiny_project: Project) -> None:
    with user_interfaces(tiny_project) as (dagster, _):
        command = ["materialize", "--remote", dagster, "--select", "*retrieved_set"]
        config = ["--domain", "shapes", "--config", str(tiny_project.path)]
        add = ["domains", "add", str(tiny_project.config.domains / "shapes.yaml")]
        CliRunner().invoke(app, [*add, "--config", str(tiny_project.path)])
        said = CliRunner().invoke(app, [*command, *config])
        assert said.exit_code == 0, said.output
        assert "6 of 6 made" in said.output
    assert tiny_project.store.current("retrieved_set", "shapes")
