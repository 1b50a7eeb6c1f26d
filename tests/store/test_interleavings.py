"""FAULTS 3, 37, 39, 45: builders on two hosts, readers and pruning in random interleavings, with
kills and lost leases.

Every file operation of the store is a point at which the schedule may go on with another actor: an
audit hook stops each actor there. A killed actor is never resumed and its locks are free; hosts do
not see each other's locks.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import pytest
from greenlet import GreenletExit, getcurrent, greenlet

from react_pipeline.store import Scratch, artifacts, attempts
from react_pipeline.store import store as store_module
from react_pipeline.store.artifacts import Inputs
from react_pipeline.store.errors import ReactError, StoreWriteError
from react_pipeline.store.store import Store

STOPS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.utime", "os.scandir"}


class Actor(greenlet):
    """One process of one host."""

    def __init__(self, run: Callable[[], None], host: str) -> None:
        super().__init__(run)
        self.host = host
        self.killed = False


def _hook(event: str, _: Any) -> None:
    if event in STOPS:
        _renamed.append(event == "os.rename")
        _pause()


def _pause() -> None:
    here = getcurrent()
    if isinstance(here, Actor) and here.parent is not None and not here.killed:
        here.parent.switch()


_hooked: list[bool] = []
_renamed: list[bool] = []


class World:
    """A store with its actors; `play` runs one schedule."""

    def __init__(self, root: Path, seed: int) -> None:
        self.store_root, self.random, self.seen = root, random.Random(seed), Counter[str]()  # noqa: S311 - reproducible
        self.locks: dict[tuple[str, str], tuple[Actor, TextIO]] = {}

    def lock(self, file: TextIO, *, wait: bool = True) -> bool:
        here = getcurrent()
        assert isinstance(here, Actor)
        while True:
            holder = self.locks.get((here.host, file.name))
            if holder is None or holder[0].killed or holder[0].dead or holder[1].closed:
                self.locks[here.host, file.name] = here, file
                return True
            if not wait:
                return False
            _pause()

    def build(self, value: int) -> None:
        store = Store(self.store_root)
        token = f"{self.random.getrandbits(40):x}"
        try:
            parent = store.build(
                Inputs("parent", "all", {"value": value}, {}, "1"),
                partial(write, token=token),
            )
            child = Inputs("child", "all", {}, {"parent": parent}, "1")
            built = store.build(child, partial(write, token=token))
            self.seen["reused" if built.reused else "built"] += 1
        except StoreWriteError:
            self.seen["taken for dead"] += 1

    def read(self) -> None:
        for _ in range(40):
            _pause()
            try:
                whole(Store(self.store_root).current("child", "all").path)
                self.seen["read"] += 1
            except (ReactError, FileNotFoundError):  # pruned since it was looked up
                self.seen["missing"] += 1

    def prune(self) -> None:
        store = Store(self.store_root)
        relied_on = {attempt: attempt.relies_on() for attempt in attempts.attempts(store.staging)}
        there = {path.name for path in self.store_root.glob("[!.]*/all/*")}
        before = {attempt for attempt in relied_on if fresh(attempt)}
        store.prune(keep_seconds=0)
        after = {path.name for path in self.store_root.glob("[!.]*/all/*")}
        for attempt in before:
            if fresh(attempt):
                assert relied_on[attempt] & there <= after, "pruned what a build relies on"
        self.seen["pruned"] += len(there - after)

    def play(self) -> None:
        hosts = ("here", "here", "elsewhere")
        actors = [Actor(partial(self.build, self.random.randint(1, 2)), h) for h in hosts]
        actors += [Actor(self.read, "here"), Actor(self.prune, self.random.choice(hosts))]
        kills = self.random.choice((0, 0, 1, 2))
        while living := [actor for actor in actors if not actor.dead and not actor.killed]:
            self.random.choice(living).switch()
            chance = self.random.random()
            if kills and chance < 0.01:
                kills -= 1
                self.random.choice(living).killed = True
                self.seen["killed"] += 1
            elif chance > 0.995 or (chance > 0.9 and kills == 0 and len(living) < 2):
                for lease in self.store_root.glob(".staging/*.lease"):
                    os.utime(lease, (0, 0))
            if any(_renamed):
                for path in self.store_root.glob("[!.]*/all/????????????????"):
                    whole(path)
                # That rename itself comes with the actor's next step.
                _renamed[:] = [True] if _renamed[-1] else []
        self.finish(actors)

    def finish(self, actors: list[Actor]) -> None:
        """What was interrupted ends well: a last build on each host, and nothing is left."""
        for host in ("here", "elsewhere"):
            for lease in self.store_root.glob(".staging/*.lease"):
                os.utime(lease, (0, 0))
            last = Actor(lambda: self.build(1), host)
            while not last.dead:
                last.switch()
            sweep = Actor(lambda: self.prune(), host)
            while not sweep.dead:
                sweep.switch()
        assert not [
            path for path in self.store_root.glob(".staging/*") if not path.name.startswith(".")
        ]
        whole(
            self.store_root
            / "child"
            / "all"
            / (self.store_root / "child/all/current").read_text().strip()
        )
        for actor in actors:
            if not actor.dead:
                actor.throw(GreenletExit)


def write(staging: Path, scratch: Scratch, token: str) -> dict[str, int]:
    token = scratch.keep("token", lambda path: path.write_text(token)).read_text()
    with (staging / "a").open("w") as file:
        file.write(token)
    (staging / "sub").mkdir()
    (staging / "sub" / "b").write_text(token)
    return {}


def whole(path: Path) -> None:
    """An artifact that is visible is complete, and of one build."""
    manifest = artifacts.read_manifest(path, path.parents[1].name)
    assert set(manifest["files"]) == {"a", "sub/b"}
    artifacts.verify(artifacts.Artifact(path, manifest), anew=True)
    assert (path / "a").read_text() == (path / "sub" / "b").read_text()


def fresh(attempt: attempts.Attempt) -> bool:
    try:
        return attempt.lease.stat().st_mtime > 0
    except FileNotFoundError:
        return False


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    if not _hooked:
        sys.addaudithook(_hook)  # can never be removed; it does nothing outside an actor
        _hooked.append(True)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    sleep = store_module.time.sleep

    def sleep_or_pause(seconds: float) -> None:
        # Threads that other tests left, such as PySpark's, sleep too, and would never stop.
        if isinstance(getcurrent(), Actor):
            _pause()
        else:
            sleep(seconds)

    monkeypatch.setattr(store_module.time, "sleep", sleep_or_pause)
    monkeypatch.setattr(store_module, "has_locks", lambda _: True)
    monkeypatch.setattr(attempts, "host_of", host_of_actor)
    monkeypatch.setattr(attempts.Attempt, "_touch", lambda *_: None)
    memory = Path("/dev/shm")  # noqa: S108 - faster than a disk
    root = Path(tempfile.mkdtemp(dir=memory if memory.exists() else None))
    yield root
    shutil.rmtree(root, ignore_errors=True)


def host_of_actor(_root: Path) -> str:
    here = getcurrent()
    return here.host if isinstance(here, Actor) else "nowhere"


@pytest.mark.parametrize("schedules", [100, pytest.param(10_000, marks=pytest.mark.slow)])
def test_no_interleaving_tears_or_prunes_an_artifact_in_use(
    schedules: int, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: Counter[str] = Counter()
    for seed in range(schedules):
        world = World(disk / str(seed), seed)
        monkeypatch.setattr(store_module, "lock", world.lock)
        try:
            world.play()
        except BaseException as error:
            raise AssertionError(f"schedule {seed}") from error
        seen += world.seen
        shutil.rmtree(world.store_root)
    assert (
        min(
            seen[kind] for kind in ("built", "reused", "killed", "read", "pruned", "taken for dead")
        )
        > 0
    ), seen
