"""Builders that are killed at random moments, next to others of the same fingerprint, `prune` and a
reader that verifies.

`python tests/store/torture.py {folder,bucket} {real,useless} {fair,brutal} KILLS SEED`. Locks are
useless where each is granted at once. Pruning is brutal where it keeps nothing that is not current.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from react_pipeline.store import (
    Artifact,
    Bucket,
    Inputs,
    MissingArtifact,
    Scratch,
    SourceUnavailable,
    Store,
    StoreWriteError,
    durable,
    link_or_copy,
)

UNITS = 5
TRIES = 12
"""Builds of a round after its kills, of which one must succeed: Dagster tries again, too."""
ROUND_SECONDS = 120
RETRIED = (StoreWriteError, MissingArtifact, SourceUnavailable, FileNotFoundError)
BEFORE, WRITING = range(2)
"""Phases of a builder: it waits or reads, it has written a byte."""

_phases = mmap.mmap(-1, 1 << 12)
_phase = [0]


def enter(phase: int) -> None:
    _phases[_phase[0]] = phase


def nap() -> None:
    if random.random() < 0.5:  # noqa: S311
        time.sleep(random.random() * 0.02)  # noqa: S311


def write_files(place: str) -> Callable[[Path, Scratch], dict[str, Any]]:
    """Writes files that show whether they belong together, some of them by the scratch."""

    def write(folder: Path, scratch: Scratch) -> dict[str, Any]:
        enter(WRITING)
        token = os.urandom(8).hex()
        (folder / "x").mkdir()
        (folder / "x" / "self").write_text(token * 300)
        tokens: dict[int, str] = {}
        made = 0

        def make(path: Path) -> None:
            nonlocal made
            made += 1
            text = json.dumps([place, [token] * 400])
            with path.open("w") as file:
                file.write(text[: len(text) // 2])
                file.flush()
                nap()
                file.write(text[len(text) // 2 :])

        for number in range(UNITS):
            path = scratch.keep(f"units/u{number}", make)
            tokens[number] = token_of_unit(path, place)
            link_or_copy(path, folder / f"u{number}")
            nap()
        (folder / "all.json").write_text(json.dumps(tokens))
        nap()
        (folder / "y").mkdir()
        (folder / "y" / "self").write_text(token * 300)
        return {"made": made, "token": token}

    return write


def token_of_unit(path: Path, place: str) -> str:
    found, tokens = json.loads(path.read_text())
    assert found == place and len(tokens) == 400 and len(set(tokens)) == 1, "torn"
    return str(tokens[0])


def check(artifact: Artifact) -> None:
    """Fail unless an artifact is whole and of one build."""
    folder = artifact.path
    names = {"x/self", "y/self", "all.json", *(f"u{n}" for n in range(UNITS))}
    assert set(artifact.manifest["files"]) == names, "torn"
    one, other = (folder / "x" / "self").read_text(), (folder / "y" / "self").read_text()
    assert one == other == artifact.counts["token"] * 300, "mixed"
    tokens = json.loads((folder / "all.json").read_text())
    for n in range(UNITS):
        token = token_of_unit(folder / f"u{n}", artifact.place)
        assert token == tokens[str(n)], "mixed units"


def fork(action: Callable[[], dict[str, Any]], result: Path, phase: int = 0) -> int:
    """Run an action in a process whose end is written to a file."""
    process = os.fork()
    if process:
        return process
    random.seed(os.urandom(8))
    _phase[0] = phase
    try:
        answer = {**action(), "end": "ok"}
    except BaseException as error:
        end = type(error).__name__ if isinstance(error, RETRIED) else "error"
        answer = {"end": end, "text": traceback.format_exc()}
    result.with_suffix(".part").write_text(json.dumps(answer))
    result.with_suffix(".part").rename(result)
    os._exit(0)


@dataclass
class Torture:
    """One run.

    Attributes:
        seen: How often what happened, by name.
        problems: What must never happen, a text each.
    """

    kind: str
    pruning: str
    base: Path
    chance: random.Random
    seen: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def open_store(self, host: int) -> Store:
        if self.kind == "folder":
            return Store(self.base / "store")
        url = f"s3://artifacts/{self.base.name}"
        return Store(Bucket(url, self.base / f"host{host}"))

    def build(self, value: int, host: int, late: float) -> dict[str, Any]:
        time.sleep(late)
        store = self.open_store(host)
        first = Inputs("parent", "all", {"v": value % 3}, {}, "1")
        parent = store.build(first, write_files(first.place))
        enter(BEFORE)
        inputs = Inputs("child", "a/b", {"v": value}, {"parent": parent}, "1")
        child = store.build(inputs, write_files(inputs.place))
        return {"attempt": child.prefix, "parent": parent.prefix, "made": child.counts["made"]}

    def keep_pruning(self) -> dict[str, Any]:
        store, seen = self.open_store(7), Counter[str]()
        fair, pause = (25, 0.4) if self.kind == "folder" else (60, 2)
        keep_seconds = fair if self.pruning == "fair" else 0
        while not (self.base / "stop").exists():
            removed = store.prune(keep_seconds=keep_seconds)
            seen["attempts pruned"] += sum("/_" in path for path in removed)
            seen["artifacts pruned"] += sum("/_" not in path for path in removed)
            time.sleep(random.random() * pause)  # noqa: S311
        return seen

    def keep_reading(self) -> dict[str, Any]:
        seen = Counter[str]()
        store = self.open_store(8)
        while not (self.base / "stop").exists():
            for stage, key in (("parent", "all"), ("child", "a/b")):
                time.sleep(0.03)
                durable._known.cache_clear()
                with suppress(*RETRIED):
                    check(store.current(stage, key))
                    seen["read"] += 1
        return seen

    def run(self, kills: int, seconds: float) -> None:
        (self.base / "results").mkdir()
        helpers = {}
        for name, action in (("pruner", self.keep_pruning), ("reader", self.keep_reading)):
            result = self.base / f"{name}.json"
            helpers[name] = fork(action, result), result
        until = time.monotonic() + seconds
        value = number = 0
        try:
            while self.seen["kills"] < kills and len(self.problems) < 5:
                if time.monotonic() > until:
                    self.problems.append(f"only {self.seen['kills']} kills in {seconds:.0f} s")
                number += 1
                returns = self.chance.random() < 0.3
                value = self.chance.randint(max(1, value - 4), value + 1) if returns else value + 1
                self.round(number, value)
        finally:
            (self.base / "stop").touch()
            for name, (process, result) in helpers.items():
                os.waitpid(process, 0)
                answer = json.loads(result.read_text())
                if answer.pop("end") != "ok":
                    self.problems.append(f"{name}: {answer}")
                else:
                    self.seen.update(answer)

    def round(self, number: int, value: int) -> None:
        """Builders of one fingerprint, some of which are killed, and then one that is not."""
        ends = [end for end in self.builders(number, value) if end is not None]
        last: dict[str, Any] = {}
        for again in range(TRIES):
            act = partial(self.build, value, again % 2, 0)
            ends.append(last := self.ran(act, f"{number}-last{again}"))
            if last["end"] == "ok":
                break
        for end in ends:
            self.seen[end["end"]] += 1
            if end["end"] == "error":
                self.problems.append(f"round {number}: {end['text'][-1500:]}")
        if last["end"] != "ok":
            self.problems.append(f"round {number}: no build ended well: {last}")
            return
        self.seen["units resumed"] += UNITS - last["made"]
        if self.pruning == "fair":
            if len(published := {end["attempt"] for end in ends if end["end"] == "ok"}) > 1:
                self.problems.append(f"round {number}: published twice: {published}")
            look = self.ran(partial(self.look, last), f"{number}-look")
            if look["end"] != "ok":
                self.problems.append(f"round {number}: lost: {look['text'][-1500:]}")

    def ran(self, action: Callable[[], dict[str, Any]], name: str) -> dict[str, Any]:
        """How an action ends in a process of its own."""
        result = self.base / "results" / f"{name}.json"
        os.waitpid(fork(action, result), 0)
        return dict(json.loads(result.read_text()))

    def look(self, last: dict[str, Any]) -> dict[str, Any]:
        """Read what the last build of a round has published."""
        durable._known.cache_clear()
        store = self.open_store(9)
        child = store.current("child", "a/b")
        check(child)
        parent = store.current("parent", "all")
        assert (child.prefix, parent.prefix) == (last["attempt"], last["parent"])
        return {}

    def builders(self, number: int, value: int) -> list[dict[str, Any] | None]:
        """The ends of builders that start at about the same time; None for one that was killed.

        Most kills come a random time after a builder has written its first byte.
        """
        span = 0.1 if self.kind == "folder" else 0.5
        running: dict[int, tuple[Path, int]] = {}
        due: dict[int, float] = {}
        started = time.monotonic()
        for n in range(1, 1 + self.chance.randint(2, 4)):
            result = self.base / "results" / f"{number}-{n}.json"
            _phases[n] = BEFORE
            host, late = self.chance.randint(0, 1), self.chance.random() * 0.1
            process = fork(partial(self.build, value, host, late), result, n)
            running[process] = result, n
            if self.chance.random() < 0.1:
                due[process] = started + self.chance.random() * 4 * span
        kills_left = self.chance.randint(1, len(running))
        ends: list[dict[str, Any] | None] = []
        while running:
            time.sleep(0.002)
            now = time.monotonic()
            for process, (result, n) in list(running.items()):
                phase = _phases[n]
                if phase == WRITING and process not in due and kills_left:
                    kills_left -= 1
                    due[process] = now + self.chance.random() * span
                if now > due.get(process, started + ROUND_SECONDS):
                    os.kill(process, signal.SIGKILL)
                done, status = os.waitpid(process, os.WNOHANG)
                if done:
                    del running[process]
                    if not os.WIFSIGNALED(status):
                        ends.append(json.loads(result.read_text()))
                    elif process in due:
                        self.seen["kills"] += 1
                        self.seen["kills behind the first byte"] += phase == WRITING
                        ends.append(None)
                    else:
                        self.problems.append(f"round {number}: a builder hung")
        return ends


def main(
    kind: str, locks: str, pruning: str, kills: int, seed: int
) -> tuple[Counter[str], list[str]]:
    """Run it; returns what was seen, and what must never be."""
    server = None
    if kind == "bucket":
        script = Path(__file__).parents[1] / "support" / "bucket.py"
        server = subprocess.Popen(
            [sys.executable, str(script), "0"], stdout=subprocess.PIPE, text=True
        )
        assert server.stdout is not None
        from support.bucket import ENVIRONMENT

        os.environ.update({**ENVIRONMENT, "AWS_ENDPOINT_URL": server.stdout.readline().strip()})
        import obstore  # noqa: F401 - before the forks; used after them alone
        from obstore import exceptions, store  # noqa: F401
    if locks == "useless":
        durable.lock = lambda *_, **__: True
    memory = Path("/dev/shm")  # noqa: S108 - faster than a disk
    base = Path(
        tempfile.mkdtemp(prefix=f"torture-{kind}-", dir=memory if memory.exists() else None)
    )
    torture = Torture(kind, pruning, base, random.Random(seed))  # noqa: S311
    try:
        torture.run(kills, seconds=max(60.0, kills * (6 if kind == "folder" else 20)))
    finally:
        shutil.rmtree(base, ignore_errors=True)
        if server is not None:
            server.kill()
            server.wait()
    return torture.seen, torture.problems


if __name__ == "__main__":
    began = time.monotonic()
    counts, wrong = main(*sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5]))
    print(*sys.argv[1:], f"{time.monotonic() - began:.0f} s", dict(counts))
    print(*(f"PROBLEM {text}" for text in wrong), sep="\n")
    sys.exit(bool(wrong))
