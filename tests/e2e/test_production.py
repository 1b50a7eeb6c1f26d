"""The files of `dagster_home/production`: PostgreSQL, MLflow, S3, nginx for real on loopback; the rest is validated."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from base64 import b64encode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from support_services import answer, free_port, postgres, program, running

from react_pipeline.lineage import Project

REPOSITORY = Path(__file__).parents[2]
PRODUCTION = REPOSITORY / "dagster_home" / "production"


def read(name: str) -> dict:
    return yaml.safe_load((PRODUCTION / name).read_text())


def write_instance(home: Path, *more: str) -> None:
    home.mkdir(parents=True)
    files = [REPOSITORY / "dagster_home" / "dagster.yaml", *(PRODUCTION / name for name in ("storage.yaml", *more))]
    (home / "dagster.yaml").write_text("\n".join(path.read_text() for path in files))


@pytest.mark.parametrize("launcher", ["docker-launcher.yaml", "kubernetes-launcher.yaml"])
def test_dagster_takes_the_configuration_of_each_launcher(launcher: str, tmp_path: Path) -> None:
    from dagster._config import process_config, resolve_to_config_type
    from dagster._core.instance.config import dagster_instance_config

    write_instance(tmp_path / "home", launcher)
    config, _ = dagster_instance_config(str(tmp_path / "home"))
    assert {"storage", "compute_logs", "concurrency", "run_launcher"} <= set(config)
    chosen = config["run_launcher"]
    launcher_class = getattr(pytest.importorskip(chosen["module"]), chosen["class"])
    processed = process_config(resolve_to_config_type(launcher_class.config_type()), chosen["config"])
    assert processed.success, processed.errors


def test_every_option_that_compose_gives_is_known_to_its_program() -> None:
    helps: dict[str, str] = {}
    checked = 0
    for service in read("compose.yaml")["services"].values():
        command = service.get("command", [])
        options = [re.match(r"--[a-z-]+", part)[0] for part in command if part.startswith("--")]
        if service.get("image") != "react-pipeline" or not options:
            continue
        words = [part for part in command if not part.startswith("--")]
        name = " ".join(words)
        if name not in helps:
            arguments = [str(Path(sys.executable).parent / words[0]), *words[1:], "--help"]
            helps[name] = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
        for option in options:
            assert option in helps[name], f"{name} knows no {option}"
            checked += 1
    assert checked >= 10


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
    dockerfile = (PRODUCTION / "Dockerfile").read_text()
    copied = [part for line in re.findall(r"^COPY (.+)$", dockerfile, re.MULTILINE) for part in line.split()[:-1]]
    assert copied and all((REPOSITORY / part).exists() for part in copied)


def test_proxy_lets_nobody_in_without_a_password(tmp_path: Path) -> None:
    nginx = program("nginx", "nginx-light", ["/usr/sbin"])
    seen: list[dict[str, str]] = []

    class Backend(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(dict(self.headers))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"inside")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Backend)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    front, second = free_port(), free_port()
    text = (PRODUCTION / "nginx.conf").read_text()
    for old, new in {
        "webserver:3000": f"127.0.0.1:{server.server_port}",
        "mlflow:5000": f"127.0.0.1:{server.server_port}",
        "listen 3000;": f"listen 127.0.0.1:{front};",
        "listen 5000;": f"listen 127.0.0.1:{second};",
        "/etc/nginx/passwords": str(tmp_path / "passwords"),
    }.items():
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "nginx.conf").write_text(text)
    hashed = subprocess.run(["openssl", "passwd", "-apr1", "secret"], capture_output=True, text=True, check=True).stdout
    (tmp_path / "passwords").write_text(f"ann:{hashed}")
    for path in [tmp_path, *tmp_path.parents[:3]]:
        path.chmod(path.stat().st_mode | 0o055)
    arguments = ["-p", str(tmp_path), "-c", "nginx.conf", "-e", "stderr", "-g", f"daemon off; pid {tmp_path}/pid;"]
    try:
        with running([nginx, *arguments], tmp_path / "nginx.log"):
            for port in (front, second):
                assert answer(f"http://127.0.0.1:{port}/", 30)[0] == 401
                wrong = {"Authorization": "Basic " + b64encode(b"ann:wrong").decode()}
                assert answer(f"http://127.0.0.1:{port}/", 30, wrong)[0] == 401
                assert not seen
                right = {"Authorization": "Basic " + b64encode(b"ann:secret").decode()}
                assert answer(f"http://127.0.0.1:{port}/", 30, right) == (200, b"inside")
                # The password stays at the proxy; the name by which the page was asked for does not change.
                headers = seen.pop()
                assert "Authorization" not in headers
                assert headers["Host"] == f"127.0.0.1:{port}"
    finally:
        server.shutdown()


@pytest.mark.slow
def test_runs_are_stored_in_postgres_and_files_in_s3(tiny_project: Project, tmp_path: Path) -> None:
    import boto3
    import psycopg2
    from moto.server import ThreadedMotoServer

    s3 = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    s3.start()
    endpoint = "http://{}:{}".format(*s3.get_host_and_port())
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    session = boto3.Session(keys["AWS_ACCESS_KEY_ID"], keys["AWS_SECRET_ACCESS_KEY"], region_name="us-east-1")
    client = session.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket="mlflow")
    home, port = tmp_path / "home", free_port()
    write_instance(home)
    try:
        with postgres(tmp_path / "services") as url:
            told = {
                "--host": "127.0.0.1",
                "--port": port,
                "--backend-store-uri": f"{url}/mlflow".replace("postgresql:", "postgresql+psycopg2:"),
            }
            told |= {"--allowed-hosts": f"127.0.0.1:{port}", "--workers": 1}
            # `mlflow server` as compose.yaml starts it; only addresses differ.
            given = [part.partition("=") for part in read("compose.yaml")["services"]["mlflow"]["command"][2:]]
            options = {name: value for name, _, value in given} | told
            arguments = [f"{name}={value}" if value != "" else name for name, value in options.items()]
            environment = {**os.environ, **keys, "MLFLOW_S3_ENDPOINT_URL": endpoint}
            mlflow = [sys.executable, "-m", "mlflow", "server", *arguments]
            with running(mlflow, tmp_path / "mlflow.log", env=environment):
                assert answer(f"http://127.0.0.1:{port}/health", 120)[0] == 200, (tmp_path / "mlflow.log").read_text()
                pipeline = yaml.safe_load(tiny_project.path.read_text())
                tiny_project.path.write_text(yaml.safe_dump({**pipeline, "tracking_uri": f"http://127.0.0.1:{port}"}))
                environment = {
                    **os.environ,
                    "DAGSTER_HOME": str(home),
                    "DAGSTER_POSTGRES_URL": f"{url}/dagster".replace("postgresql:", "postgresql+psycopg2:"),
                    "DAGSTER_COMPUTE_LOGS": str(tmp_path / "logs"),
                }
                arguments = ["--select", "key:corpus or key:base_checkpoint", "--config", str(tiny_project.path)]
                command = [sys.executable, "-m", "react_pipeline.cli", "materialize", *arguments]
                subprocess.run(command, check=True, env=environment, timeout=200)
            with psycopg2.connect(f"{url}/dagster") as connection, connection.cursor() as cursor:
                cursor.execute("SELECT count(*) FROM runs WHERE status = 'SUCCESS'")
                assert cursor.fetchone() == (1,)
            with psycopg2.connect(f"{url}/mlflow") as connection, connection.cursor() as cursor:
                cursor.execute("SELECT count(*) FROM runs WHERE status = 'FINISHED'")
                assert cursor.fetchone()[0] >= 2
            names = [entry["Key"] for entry in client.list_objects_v2(Bucket="mlflow").get("Contents", [])]
            assert any(name.endswith("manifest.json") for name in names)
            # No database and no log of this instance lies on the disk of the program.
            assert {path.suffix for path in home.rglob("*.db")} == set()
    finally:
        s3.stop()


@pytest.mark.slow
def test_webserver_shows_the_assets_of_several_code_locations(tiny_project: Project, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(REPOSITORY / "dagster_home" / "dagster.yaml", home)
    (tmp_path / "other.py").write_text(
        "import dagster as dg\n\n@dg.asset\ndef invoices():\n    pass\n\ndefs = dg.Definitions([invoices])\n"
    )
    first, second, front = free_port(), free_port(), free_port()
    workspace = read("workspace.yaml")
    assert workspace["load_from"][0]["grpc_server"]["location_name"] == "react"
    workspace["load_from"][0]["grpc_server"] |= {"host": "127.0.0.1", "port": first}
    other = {"grpc_server": {"host": "127.0.0.1", "port": second, "location_name": "other"}}
    (tmp_path / "workspace.yaml").write_text(yaml.safe_dump({"load_from": [*workspace["load_from"], other]}))
    environment = {**os.environ, "DAGSTER_HOME": str(home), "REACT_PIPELINE_CONFIG": str(tiny_project.path)}
    server = [sys.executable, "-m", "dagster", "code-server", "start", "--host=127.0.0.1"]
    web = [str(Path(sys.executable).parent / "dagster-webserver"), "--host=127.0.0.1", f"--port={front}"]
    # Programs that open a fresh SQLite together race its migration; PostgreSQL is not asked to do that.
    subprocess.run([sys.executable, "-m", "dagster", "instance", "info"], env=environment, check=True)
    module, file = "--module-name=assets.definitions", f"--python-file={tmp_path / 'other.py'}"
    with (
        running([*server, f"--port={first}", module], tmp_path / "1.log", env=environment, cwd=REPOSITORY),
        running([*server, f"--port={second}", file], tmp_path / "2.log", env=environment),
        running([*web, f"--workspace={tmp_path / 'workspace.yaml'}"], tmp_path / "3.log", env=environment),
    ):
        assert answer(f"http://127.0.0.1:{front}/server_info", 120)[0] == 200
        query = "{assetNodes{assetKey{path} repository{location{name}}}}"
        names: set[tuple[str, str]] = set()
        for _ in range(60):
            _, body = answer(f"http://127.0.0.1:{front}/graphql?query={query.replace(' ', '%20')}", 60)
            nodes = json.loads(body)["data"]["assetNodes"]
            names = {(node["repository"]["location"]["name"], node["assetKey"]["path"][-1]) for node in nodes}
            if {location for location, _ in names} == {"react", "other"}:
                break
            time.sleep(1)
        assert {("react", "retrieved_set"), ("react", "comparison"), ("other", "invoices")} <= names
