"""Builders that are killed at random moments, next to others of the same fingerprint, `prune` and a
reader that verifies.

`python tests/store/torture.py {folder,bucket} {real,useless} {fair,brutal} KILLS SEED`. Locks are
useless where each is granted at once. Pruning is brutal where it keeps nothing that is not current.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.bucket import ENVIRONMENT
from support.processes import fast_folder, forked

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


def nap() -> None:
    if random.random() < 0.5:  # noqa: S311
        time.sleep(random.random() * 0.02)  # noqa: S311


def write_files(alarm: float, place: str, folder: Path, scratch: Scratch) -> dict[str, Any]:
    """Write files that show whether they belong together, some of them by the scratch; an alarm
    kills this process so many seconds after the first byte, none if 0.
    """
    signal.setitimer(signal.ITIMER_REAL, alarm)
    token, units = os.urandom(8).hex(), []
    (folder / "x").mkdir()
    (folder / "x" / "first").write_text(token * 300)

    def make(path: Path) -> None:
        text = json.dumps([place, [token] * 400])
        with path.open("w") as file:
            file.write(text[: len(text) // 2])
            file.flush()
            nap()
            file.write(text[len(text) // 2 :])

    for number in range(UNITS):
        path = scratch.keep(f"units/u{number}", make)
        units.append(token_of_unit(path, place))
        link_or_copy(path, folder / f"u{number}")
        nap()
    (folder / "last").write_text(json.dumps([token, *units]))
    nap()
    return {"token": token, "resumed": UNITS - units.count(token)}


def token_of_unit(path: Path, place: str) -> str:
    found, tokens = json.loads(path.read_text())
    assert found == place and len(tokens) == 400 and len(set(tokens)) == 1, "torn"
    return str(tokens[0])


def check(artifact: Artifact) -> None:
    """Fail unless an artifact is whole and of one build."""
    folder, names = artifact.path, [f"u{n}" for n in range(UNITS)]
    assert set(artifact.manifest["files"]) == {"x/first", "last", *names}, "torn"
    token, *units = json.loads((folder / "last").read_text())
    assert (folder / "x" / "first").read_text() == token * 300, "mixed"
    assert artifact.counts["token"] == token, "mixed"
    assert units == [token_of_unit(folder / name, artifact.place) for name in names], "mixed"


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
        return Store(Bucket(f"s3://artifacts/{self.base.name}", self.base / f"host{host}"))

    def build(self, value: int, host: int, late: float = 0.0, alarm: float = 0.0) -> dict[str, Any]:
        random.seed(os.urandom(8))
        time.sleep(late)
        store = self.open_store(host)
        first = Inputs("parent", "all", {"v": value % 3}, {}, "1")
        parent = store.build(first, partial(write_files, alarm, first.place))
        inputs = Inputs("child", "a/b", {"v": value}, {"parent": parent}, "1")
        child = store.build(inputs, partial(write_files, alarm, inputs.place))
        return {
            "attempts": [child.prefix, parent.prefix],
            "units resumed": child.counts["resumed"],
        }

    def keep_pruning(self) -> dict[str, Any]:
        store, seen = self.open_store(7), Counter[str]()
        fair, pause = (25, 0.4) if self.kind == "folder" else (60, 2)
        while not (self.base / "stop").exists():
            removed = store.prune(keep_seconds=fair if self.pruning == "fair" else 0)
            seen["pruned"] += len(removed)
            time.sleep(random.random() * pause)  # noqa: S311
        return seen

    def keep_reading(self) -> dict[str, Any]:
        store, seen = self.open_store(8), Counter[str]()
        while not (self.base / "stop").exists():
            for stage, key in (("parent", "all"), ("child", "a/b")):
                time.sleep(0.03)
                durable._known.cache_clear()
                with suppress(*RETRIED):
                    check(store.current(stage, key))
                    seen["read"] += 1
        return seen

    def look(self, attempts: list[str]) -> None:
        """Read what the last build of a round has published."""
        durable._known.cache_clear()
        store = self.open_store(9)
        child, parent = store.current("child", "a/b"), store.current("parent", "all")
        check(child)
        assert [child.prefix, parent.prefix] == attempts

    def begin(self, action: Callable[[], object], name: str) -> tuple[str, BaseProcess]:
        return name, forked(action, self.base / name)

    def end(self, name: str, process: BaseProcess) -> dict[str, Any]:
        """Return the result of an action; an error that a retry cannot fix is a problem."""
        process.join(ROUND_SECONDS)
        if process.exitcode is None:
            process.kill()
            self.problems.append(f"{name} hung")
        if process.exitcode:
            self.seen["kills"] += process.exitcode == -signal.SIGALRM
            return {"error": "killed"}
        end: dict[str, Any] = json.loads((self.base / name).read_text())
        self.seen[end["error"] or "ended well"] += 1
        if end["error"] and end["error"] not in {error.__name__ for error in RETRIED}:
            self.problems.append(f"{name}: {end['text']}")
        return end

    def run(self, kills: int) -> None:
        helpers = [
            self.begin(self.keep_pruning, "pruner"),
            self.begin(self.keep_reading, "reader"),
        ]
        value = number = 0
        try:
            while self.seen["kills"] < kills and len(self.problems) < 5:
                number += 1
                returns = self.chance.random() < 0.3
                value = self.chance.randint(max(1, value - 4), value + 1) if returns else value + 1
                self.round(f"round {number}", value)
        finally:
            (self.base / "stop").touch()
            for helper in helpers:
                self.seen.update(self.end(*helper).get("value") or {})

    def round(self, name: str, value: int) -> None:
        """Builders of one fingerprint that start at about the same time, most of which are killed,
        and then one that is not.
        """
        chance, span = self.chance.random, 0.1 if self.kind == "folder" else 0.5
        builders = []
        for n in range(self.chance.randint(2, 4)):
            alarm = chance() * span if chance() < 0.7 else 0.0
            build = partial(self.build, value, self.chance.randint(0, 1), chance() * 0.1, alarm)
            builders.append(self.begin(build, f"{name}, {n}"))
        ends = [self.end(*builder) for builder in builders]
        for again in range(TRIES):
            build = partial(self.build, value, again % 2)
            ends.append(self.end(*self.begin(build, f"{name}, last {again}")))
            if not ends[-1]["error"]:
                break
        else:
            self.problems.append(f"{name}: no build ended well: {ends[-1]}")
            return
        last = ends[-1]["value"]
        self.seen["units resumed"] += last["units resumed"]
        if self.pruning == "fair":
            published = {end["value"]["attempts"][0] for end in ends if not end["error"]}
            if len(published) > 1:
                self.problems.append(f"{name}: published twice: {published}")
            look = self.end(*self.begin(partial(self.look, last["attempts"]), f"{name}, look"))
            if look["error"]:
                self.problems.append(f"{name}: lost: {look['text']}")


def main(kind: str, locks: str, pruning: str, kills: int, seed: int) -> Torture:
    with fast_folder() as base, ExitStack() as stack:
        if kind == "bucket":
            script = Path(__file__).parents[1] / "support" / "bucket.py"
            command = [sys.executable, str(script), "0"]
            server = stack.enter_context(
                subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            )
            stack.callback(server.kill)
            os.environ.update(ENVIRONMENT, AWS_ENDPOINT_URL=server.stdout.readline().strip())
            import obstore  # noqa: F401 - before the forks; used after them alone
            from obstore import exceptions, store  # noqa: F401
        if locks == "useless":
            durable.lock = lambda *_, **__: True
        torture = Torture(kind, pruning, Path(base), random.Random(seed))  # noqa: S311
        torture.run(kills)
    return torture


if __name__ == "__main__":
    began = time.monotonic()
    done = main(*sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5]))
    print(*sys.argv[1:], f"{time.monotonic() - began:.0f} s", dict(done.seen))
    print(*(f"PROBLEM {text}" for text in done.problems), sep="\n")
    sys.exit(bool(done.problems))
