"""The files of `dagster_home/production`: PostgreSQL, MLflow, S3, nginx for real on loopback; the
rest is validated.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from support import web
from support.bucket import BucketServer
from support.services import answer, free_port, program, running
from support.tracking import artifact_of, tracking_at

from react_pipeline.project.project import Project

REPOSITORY = Path(__file__).parents[2]
PRODUCTION = REPOSITORY / "dagster_home" / "production"


def read(name: str) -> dict:
    return yaml.safe_load((PRODUCTION / name).read_text())


def write_instance(home: Path, *more: str) -> None:
    home.mkdir(parents=True)
    files = [
        REPOSITORY / "dagster_home" / "dagster.yaml",
        *(PRODUCTION / name for name in ("storage.yaml", *more)),
    ]
    (home / "dagster.yaml").write_text("\n".join(path.read_text() for path in files))


PASSWORD = {"Authorization": "Basic " + b64encode(b"ann:secret").decode()}


@contextmanager
def proxy(file: str, changed: dict[str, str], directory: Path) -> Iterator[None]:
    """A real nginx with one of the files, in which some words are others; it lets `PASSWORD` in."""
    nginx = program("nginx", "nginx-light", ["/usr/sbin"])
    hashed = subprocess.run(
        ["openssl", "passwd", "-apr1", "secret"], capture_output=True, text=True, check=True
    ).stdout
    arguments = f"-p {directory} -c nginx.conf -e stderr -g".split()
    arguments.append(f"daemon off; pid {directory}/pid;")
    # Its workers read the passwords as another user, to whom every start of pytest closes the
    # folders of tests.
    with tempfile.TemporaryDirectory() as open_to_all:
        Path(open_to_all).chmod(0o755)
        passwords = Path(open_to_all, "passwords")
        passwords.write_text(f"ann:{hashed}")
        text = (PRODUCTION / file).read_text()
        for old, new in {**changed, "/etc/nginx/passwords": str(passwords)}.items():
            assert old in text
            text = text.replace(old, new)
        (directory / "nginx.conf").write_text(text)
        with running([nginx, *arguments], directory / "nginx.log"):
            yield


def written_commands(heading: str) -> list[list[str]]:
    """The words of each command that docs/production.md gives below a heading, in their order."""
    page = (REPOSITORY / "docs" / "production.md").read_text()
    section = re.search(rf"^## {heading}$(.*?)^## ", page, re.MULTILINE | re.DOTALL)[1]
    blocks = re.findall(r"^ *```console\n(.*?)^ *```$", section, re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line.strip().removeprefix("$ ")) for line in lines]


JSON, TEXT = {"Content-Type": "application/json"}, {"Content-Type": "text/plain;charset=UTF-8"}
LINK = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
FOREIGN_REQUESTS = [
    ("GET", "/", {"Host": "rebound.example"}, 421),
    ("POST", "/graphql", {**JSON, "Origin": "http://{host}"}, 200),
    ("POST", "/graphql", {**JSON, "Origin": "http://evil.example"}, 403),
    ("POST", "/graphql", {**JSON, "Origin": "http://{host}.evil.example"}, 403),
    ("POST", "/graphql", TEXT, 415),
    ("GET", "/graphql?query=mutation", {}, 405),
    ("GET", "/x/../%67raphql?query=mutation", {}, 405),
    ("GET", "/asset-groups?expanded=x", LINK, 200),
    ("GET", "/", {**LINK, "Sec-Fetch-Dest": "iframe"}, 403),
    ("POST", "/graphql", {**JSON, **LINK}, 403),
    (
        "GET",
        "/graphql",
        {"Origin": "http://evil.example", "Upgrade": "websocket", "Connection": "Upgrade"},
        403,
    ),
]
"""Method, path, headers, and the status by Dagster's proxy; 405 and 415 are its alone."""


def test_dagster_takes_the_configuration_of_the_launcher(tmp_path: Path) -> None:
    from dagster._config import process_config, resolve_to_config_type
    from dagster._core.instance.config import dagster_instance_config

    write_instance(tmp_path / "home", "docker-launcher.yaml")
    config, _ = dagster_instance_config(str(tmp_path / "home"))
    assert {"storage", "compute_logs", "concurrency", "run_launcher"} <= set(config)
    chosen = config["run_launcher"]
    launcher_class = getattr(pytest.importorskip(chosen["module"]), chosen["class"])
    processed = process_config(
        resolve_to_config_type(launcher_class.config_type()), chosen["config"]
    )
    assert processed.success, processed.errors


def test_files_that_compose_mounts_or_builds_from_are_there() -> None:
    compose = read("compose.yaml")
    for name, service in compose["services"].items():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            # The passwords are made by whoever installs it.
            if source.startswith("./") and source != "./passwords":
                assert (PRODUCTION / source).exists(), f"{name}: {source}"
            elif not source.startswith("."):
                assert source in compose["volumes"]
        assert set(service.get("depends_on", [])) <= set(compose["services"])
        # Nothing but the proxy, which asks for a password, is reachable from outside.
        assert ("ports" in service) == (name == "proxy")
    build = compose["x-dagster"]["build"]
    dockerfile = ((PRODUCTION / build["context"]).resolve() / "Dockerfile").read_text()
    assert f"AS {build['target']}\n" in dockerfile
    copied = re.findall(r"^!(.+)$", (REPOSITORY / ".dockerignore").read_text(), re.MULTILINE)
    assert all(list(REPOSITORY.glob(part)) for part in copied)
    read_in_the_image = re.findall(r"(?:/opt/react/|-[cr] )([^\s/]\S*)", dockerfile)
    assert read_in_the_image and all(
        any(Path(part).match(kept) for kept in copied) for part in read_in_the_image
    )


def test_networks_and_volumes_of_the_launcher_match_compose() -> None:
    compose = read("compose.yaml")
    config = read("docker-launcher.yaml")["run_launcher"]["config"]
    assert config["network"] == f"{compose['name']}_default"
    (volume,) = config["container_kwargs"]["volumes"]
    assert volume.split(":")[0] in {f"{compose['name']}_{name}" for name in compose["volumes"]}
    # What a run is given by name must be in the environment of who starts it.
    environment = compose["services"]["react-code"]["environment"]
    dockerfile = (REPOSITORY / "Dockerfile").read_text()
    assert all(name in environment or f"{name}=" in dockerfile for name in config["env_vars"])
    assert {"REACT_DAGSTER_URL", "REACT_MLFLOW_URL"} <= set(config["env_vars"])


@pytest.mark.parametrize(
    ("file", "ports", "backends"),
    [
        ("nginx.conf", (3000, 5000), ("webserver:3000", "mlflow:5000")),
        ("nginx-one-server.conf", (8300, 8500), ("127.0.0.1:3000", "127.0.0.1:5000")),
    ],
)
def test_the_proxy_lets_in_no_stranger_and_no_foreign_page(
    file: str, ports: tuple[int, int], backends: tuple[str, str], tmp_path: Path
) -> None:
    seen: list[dict[str, str]] = []

    class Backend(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            seen.append(dict(self.headers))
            web.send(self, b"inside")

        do_POST = do_GET  # noqa: N815 - the name that http.server wants

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Backend)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    front, second = free_port(), free_port()
    changed = {name: f"127.0.0.1:{server.server_port}" for name in backends}
    changed |= {
        f"listen {ports[0]}": f"listen 127.0.0.1:{front}",
        f"listen {ports[1]}": f"listen 127.0.0.1:{second}",
    }
    try:
        with proxy(file, changed, tmp_path):
            for port in (front, second):
                host = f"your.host:{port}"
                page = f"http://127.0.0.1:{port}/"
                assert answer(page, headers={"Host": host})[0] == 401
                wrong = {"Authorization": "Basic " + b64encode(b"ann:wrong").decode()}
                assert answer(page, headers={"Host": host, **wrong})[0] == 401
                assert not seen
                inside = answer(page, headers={"Host": host, **PASSWORD})
                assert inside == (200, b"inside")
                # The password stays at the proxy; the name by which the page was asked for does not
                # change.
                headers = seen.pop()
                assert "Authorization" not in headers
                assert headers["Host"] == host
                for method, path, more, status in FOREIGN_REQUESTS:
                    given = {
                        "Host": host,
                        **PASSWORD,
                        **{name: value.format(host=host) for name, value in more.items()},
                    }
                    expected = 200 if port == second and status in (405, 415) else status
                    body = b"{}" if method == "POST" else None
                    answered, _ = answer(f"{page}{path[1:]}", headers=given, body=body)
                    request = port, method, path, more
                    assert (answered, bool(seen)) == (expected, expected == 200), request
                    seen.clear()
    finally:
        server.shutdown()


@pytest.mark.slow
def test_the_server_of_mlflow_keeps_files_in_s3(
    tiny_project: Project, mlflow_database: Path, server: BucketServer, tmp_path: Path
) -> None:
    server.ask("PUT", "mlflow")
    port = free_port()
    # As compose.yaml starts it; only addresses and the database differ.
    given = (part.partition("=") for part in read("compose.yaml")["services"]["mlflow"]["command"])
    options = {name: value for name, _, value in list(given)[2:]}
    options |= {"--host": "127.0.0.1", "--port": str(port), "--workers": "1"}
    options |= {"--backend-store-uri": f"sqlite:///{shutil.copy(mlflow_database, tmp_path)}"}
    options |= {"--allowed-hosts": f"127.0.0.1:{port}"}
    arguments = [f"{name}={value}" if value else name for name, value in options.items()]
    environment = {**os.environ, "AWS_DEFAULT_REGION": "us-east-1"}
    environment["MLFLOW_S3_ENDPOINT_URL"] = server.address
    mlflow = [sys.executable, "-m", "mlflow", "server", *arguments]
    with running(mlflow, tmp_path / "mlflow.log", env=environment):
        address = f"http://127.0.0.1:{port}"
        assert answer(f"{address}/health")[0] == 200, (tmp_path / "mlflow.log").read_text()
        artifact = artifact_of(tiny_project, "corpus", "all")
        assert tracking_at(tiny_project, address).log_artifact(artifact)
    assert any(
        method == "PUT" and path.startswith("/mlflow/") and path.endswith("manifest.json")
        for method, path in server.requests
    )


@pytest.mark.slow
def test_what_the_page_says_for_one_server_works_together(
    tiny_project: Project, mlflow_database: Path, tmp_path: Path
) -> None:
    commands = written_commands("One server, without containers")
    bin_folder = Path(sys.executable).parent
    names = ("mlflow", "dagster", "python", "dagster-daemon")
    programs = [words for words in commands if words[0] in names]
    assert tuple(words[0] for words in programs) == names
    assert any(
        words[0] == "cp" and words[1].endswith("nginx-one-server.conf") for words in commands
    )
    ports = {str(port): str(free_port()) for port in (3000, 4000, 5000, 8300, 8500)}

    def on_free_ports(text: str) -> str:
        return re.sub(r"\b(3000|4000|5000|8300|8500)\b", lambda found: ports[found[0]], text)

    page_workspace = "dagster_home/production/workspace-one-server.yaml"
    workspace = tmp_path / "workspace.yaml"
    workspace.write_text(on_free_ports((REPOSITORY / page_workspace).read_text()))
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(REPOSITORY / "dagster_home" / "dagster.yaml", home)
    # No PostgreSQL and no S3 here: another test has these.
    template = shutil.copy(mlflow_database, tmp_path)
    instead = {page_workspace: str(workspace), "s3://mlflow": str(tmp_path / "files")}
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(home),
        "REACT_PIPELINE_CONFIG": str(tiny_project.path),
    }
    environment |= {"OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment["MLFLOW_BACKEND_STORE_URI"] = f"sqlite:///{template}"
    environment["REACT_DAGSTER_URL"] = f"http://your.host:{ports['8300']}"
    subprocess.run(
        [sys.executable, "-m", "dagster", "instance", "info"], env=environment, check=True
    )
    inside, outside = (
        "http://127.0.0.1:{}",
        {"Host": "your.host:{}", "Origin": "http://your.host:{}", **PASSWORD},
    )

    def page(port: str, path: str, body: dict) -> dict:
        headers = {name: value.format(ports[port]) for name, value in outside.items()}
        url = f"{inside.format(ports[port])}{path}"
        status, text = answer(url, headers={**JSON, **headers}, body=json.dumps(body).encode())
        assert status == 200, text
        return json.loads(text)

    with ExitStack() as started:
        for words in programs:
            words = [instead.get(word, on_free_ports(word)) for word in words]
            log = tmp_path / f"{len(words)}-{words[0]}.log"
            command = [str(bin_folder / words[0]), *words[1:]]
            started.enter_context(running(command, log, env=environment, cwd=REPOSITORY))
        changed = {f"127.0.0.1:{old}": f"127.0.0.1:{ports[old]}" for old in ("3000", "5000")}
        changed |= {f"listen {old}": f"listen 127.0.0.1:{ports[old]}" for old in ("8300", "8500")}
        started.enter_context(proxy("nginx-one-server.conf", changed, tmp_path))
        for port in ("3000", "5000"):
            answer(inside.format(ports[port]))
        # Runs write past the proxy, browsers read and search through it.
        tracking = tracking_at(tiny_project, inside.format(ports["5000"]))
        tracking.connect()
        search = {"experiment_ids": [tracking.experiment_id], "max_results": 10}
        assert page("8500", "/ajax-api/2.0/mlflow/runs/search", search) == {}
        query = (
            "{assetNodes{assetKey{path}} instance{daemonHealth{allDaemonStatuses{required "
            "healthy}}}}"
        )
        found: dict = {}
        for _ in range(600):
            found = page("8300", "/graphql", {"query": query})["data"]
            daemons = found["instance"]["daemonHealth"]["allDaemonStatuses"]
            if found["assetNodes"] and all(
                daemon["healthy"] for daemon in daemons if daemon["required"]
            ):
                break
            time.sleep(1)
        assert "retrieved_set" in {node["assetKey"]["path"][-1] for node in found["assetNodes"]}
        assert all(daemon["healthy"] for daemon in daemons if daemon["required"])
