"""Servers: the Dagster and MLflow user interfaces as child processes, bound to loopback.

Belongs here: starting them once over a Dagster home, waiting until they answer, and stopping them
together. Does not belong here: what they show or refuse (`ui.assets`), where they answer
(`react_pipeline.project`).

Dagster is three processes, as in production: one that has loaded the assets, the webserver, and the
daemon.
"""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TextIO

import httpx
import psutil
import yaml

from react_pipeline.extensions.ui.serve import HOST, url_origin
from react_pipeline.project import (
    CONFIG_VARIABLE,
    HOME_VARIABLE,
    LOCK_FILE,
    Project,
    prepare_home,
    ui_addresses,
    ui_record,
)
from react_pipeline.store import InputError, ReactError, lock
from react_pipeline.tracking import DAGSTER_VARIABLE, MLFLOW_VARIABLE, Tracking

logger = logging.getLogger(__name__)

CODE_SERVER = (
    "-m",
    "dagster",
    "code-server",
    "start",
    "--module-name",
    "react_pipeline.assets.definitions",
    "--use-python-environment-entry-point",
    "--inject-env-vars-from-instance",
)
WEBSERVER = ("-m", "react_pipeline.extensions.ui.assets")
_ENTRY_POINT = "entry_points(group='console_scripts', name='dagster-daemon')['dagster-daemon']"
DAEMON = ("-c", f"from importlib.metadata import entry_points; {_ENTRY_POINT}.load()()", "run")
"""The program `dagster-daemon`, wherever the scripts of this Python are; Dagster has no public
module for it.
"""

FIRST_PORTS = {"dagster": 3000, "mlflow": 5000}
VARIABLES = {"dagster": DAGSTER_VARIABLE, "mlflow": MLFLOW_VARIABLE}
PORTS_TRIED = 50

START_SECONDS = 180.0
WATCH_SECONDS = 1.0
STOP_SECONDS = 10.0
"""Seconds that a process group has to end after each signal."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)


@dataclass
class Server:
    """A running user interface.

    Attributes:
        url: Where it answers; empty if it is not a page.
        process: Leader of a process group of its own.
        log: What it writes.
    """

    name: str
    url: str
    process: subprocess.Popen[bytes]
    log: Path


@contextmanager
def serve(
    project: Project, dagster_port: int | None = None, mlflow_port: int | None = None
) -> Iterator[list[Server]]:
    """Start both user interfaces and stop them on leaving; MLflow's only if the tracking URI is a
    local database.

    A port that is not given is the first free one from 3000, or 5000, so that two projects run side
    by side.

    Raises:
        InputError: If they run already over this Dagster home, or a port is taken.
        ReactError: If one ends, or does not answer within `START_SECONDS`.
    """
    tracking = Tracking(project)
    home = prepare_home(project.path.parent)
    with (
        locked_for_ui(home) as held,
        tempfile.TemporaryDirectory(prefix="react-ui-") as directory,
    ):
        addresses = {"dagster": _address("dagster", dagster_port)}
        if not tracking.uri.startswith("http"):
            addresses["mlflow"] = _address("mlflow", mlflow_port)
        group = Group(project, home, held, addresses)
        try:
            if "mlflow" in addresses:
                group.start_mlflow(tracking)
            group.start_dagster(Path(directory))
            yield group.servers
        finally:
            end(server.process for server in group.servers)


@contextmanager
def locked_for_ui(home: Path) -> Iterator[TextIO]:
    """Prevent two `ui` processes from sharing a Dagster home: two daemons would launch every run
    twice. Yields the lock file.

    A process that inherits its descriptor holds the lock too.

    Raises:
        InputError: If they run already: where, and how to end them.
    """
    with (home / LOCK_FILE).open("a") as file:
        if not lock(file, wait=False):
            there = (
                ", ".join(f"{name} {url}" for name, url in ui_addresses(home).items())
                or "it is just starting"
            )
            processes = " ".join(map(str, ui_record(home).get("processes") or ()))
            kill = f", or: kill {processes}" if processes else ""
            raise InputError(
                f"`react-pipeline ui` runs already over {home}: {there}; use it, or end it first "
                f"(Ctrl-C where it runs{kill})"
            )
        file.truncate(0)  # what a `ui` that was killed has left
        try:
            yield file
        finally:
            file.truncate(0)


def tell_addresses(file: TextIO, addresses: Mapping[str, str], processes: Sequence[int]) -> None:
    """Write into the held lock where each user interface answers, by name, and which processes to
    end if this one is killed.
    """
    file.truncate(0)
    file.write(json.dumps({"addresses": dict(addresses), "processes": list(processes)}))
    file.flush()


class Group:
    """The servers of one project while they are started."""

    def __init__(
        self, project: Project, home: Path, held: TextIO, addresses: Mapping[str, str]
    ) -> None:
        """`held`: the lock file of the home."""
        self.servers: list[Server] = []
        self._lock, self._addresses, self._folder = held, addresses, project.path.parent
        self._logs = project.config.store.parent / "logs"
        self._logs.mkdir(parents=True, exist_ok=True)
        self._environment = {
            "MLFLOW_DISABLE_TELEMETRY": "true",
            # So that runs of MLflow and of Dagster link to one another; behind a proxy the operator
            # has set its addresses.
            **os.environ,
            **{
                VARIABLES[name]: os.environ.get(VARIABLES[name]) or url
                for name, url in addresses.items()
            },
            HOME_VARIABLE: str(home),
            CONFIG_VARIABLE: str(project.path),
        }

    def start_mlflow(self, tracking: Tracking) -> None:
        """Start MLflow's server over a local database; `start_dagster` waits for it."""
        tracking.connect()
        # Not among the arguments, which every user of the machine can list.
        self._environment["MLFLOW_BACKEND_STORE_URI"] = tracking.uri
        # It refuses other names than these, and writing by pages of other sites.
        public = url_origin(self._environment[MLFLOW_VARIABLE])
        hosts = f"{HOST}:*,localhost:*,{public.partition('://')[2]}"
        guard = ["--allowed-hosts", hosts, "--cors-allowed-origins", public, "--workers", "1"]
        self.start("mlflow", "-m", "mlflow", "server", *self._where("mlflow"), *guard)

    def start_dagster(self, directory: Path) -> None:
        """Start Dagster's three processes, and wait until all pages answer."""
        code = directory / "code"
        location = {"socket": str(code), "location_name": "react"}
        workspace = directory / "workspace.yaml"
        workspace.write_text(yaml.safe_dump({"load_from": [{"grpc_server": location}]}))
        server = self.start("dagster-code", *CODE_SERVER, "--socket", str(code))
        _wait(server, code.stat)  # its socket
        shown = ["--workspace", str(workspace)]
        self.start("dagster", *WEBSERVER, *self._where("dagster"), *shown)
        self.start("dagster-daemon", *DAEMON, *shown)
        for server in self.servers:
            if server.url:
                _wait(server, partial(httpx.get, server.url, trust_env=False))

    def _where(self, name: str) -> list[str]:
        return ["--host", HOST, "--port", self._addresses[name].rpartition(":")[2]]

    def start(self, name: str, *arguments: str) -> Server:
        """Start a process of Python, and tell who else wants to start one that it is there."""
        # Dagster's daemon is what must not run twice: it holds the lock with us until it has ended.
        held = (self._lock.fileno(),) if name.startswith("dagster") else ()
        log = self._logs / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603 - a command of ours, no shell
                [sys.executable, *arguments],
                cwd=self._folder,
                env=self._environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=held,
                preexec_fn=listen_to_signals,
            )
        server = Server(name, self._addresses.get(name, ""), process, log)
        self.servers.append(server)
        tell_addresses(self._lock, self._addresses, [one.process.pid for one in self.servers])
        return server


def listen_to_signals() -> None:
    """Undo in a child, before its program begins, that this process ignores SIGINT, as a script's
    background does.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def watch(servers: Sequence[Server]) -> None:
    """Return only when Dagster has ended; the end of MLflow, which no run needs, is a warning.

    Raises:
        ReactError: Saying how Dagster ended.
    """
    ended: set[str] = set()
    while True:
        for server in servers:
            if server.name in ended:
                continue
            try:
                _require_running(server)
            except ReactError as error:
                if server.name.startswith("dagster"):
                    raise
                ended.add(server.name)
                logger.warning(
                    "%s. Dagster and its runs go on; for this page start `react-pipeline ui` again",
                    error,
                )
        time.sleep(WATCH_SECONDS)


def end(
    processes: Iterable[subprocess.Popen[bytes]], signals: Sequence[signal.Signals] = SIGNALS
) -> None:
    """End the process groups of these leaders: each signal goes to all groups that still have a
    living process, also to those whose leader was killed itself; they then have `STOP_SECONDS`.
    """
    groups = living({process.pid for process in processes})
    for number in signals:
        for group in groups:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(group, number)
        deadline = time.monotonic() + STOP_SECONDS
        while (groups := living(groups)) and time.monotonic() < deadline:
            time.sleep(0.05)


def living(groups: set[int]) -> set[int]:
    """Return the groups that still have a process other than a zombie."""
    alive = set()
    for process in psutil.process_iter() if groups else ():
        with suppress(ProcessLookupError, psutil.Error):
            group = os.getpgid(process.pid)
            if group in groups and process.status() != psutil.STATUS_ZOMBIE:
                alive.add(group)
    return alive


def _wait(server: Server, attempt: Callable[[], object]) -> None:
    """Try until no error says that the server does not answer yet."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        _require_running(server)
        with suppress(OSError, httpx.TransportError):
            attempt()
            return
        time.sleep(0.3)
    raise ReactError(
        f"{server.name} does not answer after {START_SECONDS:.0f} seconds; see {server.log}"
    )


def _require_running(server: Server) -> None:
    if (code := server.process.poll()) is not None:
        how = f"with exit code {code}" if code >= 0 else f"by {signal.Signals(-code).name}"
        raise ReactError(f"{server.name} ended {how}; see {server.log}")


def _address(name: str, wanted: int | None) -> str:
    """Return an address with the wanted port, or the first free one.

    Raises:
        InputError: If it is taken.
    """
    first = FIRST_PORTS[name]
    for port in [wanted] if wanted else range(first, first + PORTS_TRIED):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                probe.bind((HOST, port))
                return f"http://{HOST}:{port}"
    taken = f"port {wanted} is" if wanted else f"the ports from {first} are"
    raise InputError(f"{taken} taken by another program: choose another one with --{name}-port")
