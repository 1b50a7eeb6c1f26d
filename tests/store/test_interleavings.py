"""FAULTS 3, 37, 39, 45: builders on two hosts, readers and pruning in random interleavings, with
kills.

Every file operation of the store is a point at which the schedule may go on with another actor: an
audit hook stops each actor there. A killed actor is never resumed and its locks are free; hosts do
not see each other's locks.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TextIO
from unittest.mock import patch

import pytest
from greenlet import GreenletExit, getcurrent, greenlet
from support.processes import fast_folder

from react_pipeline.store import (
    Artifact,
    CorruptArtifact,
    Inputs,
    MissingArtifact,
    Scratch,
    Store,
    StoreWriteError,
    durable,
    link_or_copy,
)

STOPS = {"open", "os.rename", "os.link", "os.remove", "os.rmdir", "os.mkdir", "os.scandir"}


class Actor(greenlet):
    """One process of one host."""

    def __init__(self, run: Callable[[], None], host: str) -> None:
        super().__init__(run)
        self.host = host
        self.killed = False

    @property
    def is_alive(self) -> bool:
        return not self.dead and not self.killed


def _hook(event: str, _: Any) -> None:
    if event in STOPS:
        _published.append(event == "os.link")
        _pause()


def _pause() -> None:
    here = getcurrent()
    if isinstance(here, Actor) and here.parent is not None and not here.killed:
        here.parent.switch()


_hooked: list[bool] = []
_published: list[bool] = []


class World:
    """A store with its actors; `play` runs one schedule."""

    def __init__(self, root: Path, seed: int) -> None:
        self.store_root, self.random, self.seen = root, random.Random(seed), Counter[str]()  # noqa: S311 - reproducible
        self.locks: dict[tuple[str, str], tuple[Actor, TextIO]] = {}

    def lock(self, file: TextIO, *, wait: bool = True) -> bool:
        here = getcurrent()
        while True:
            holder = self.locks.get((here.host, file.name))
            if holder is None or not holder[0].is_alive or holder[1].closed:
                self.locks[here.host, file.name] = here, file
                return True
            if not wait:
                return False
            _pause()

    def build(self, value: int) -> None:
        store = Store(self.store_root)
        token = f"{self.random.getrandbits(40):x}"
        try:
            first = Inputs("parent", "all", {"value": value}, {}, "1")
            parent = store.build(first, partial(write, token))
            child = Inputs("child", "all", {}, {"parent": parent}, "1")
            built = store.build(child, partial(write, token))
            self.seen["reused" if built.reused else "built"] += 1
        except StoreWriteError:
            self.seen["removed before it was published"] += 1

    def read(self) -> None:
        while True:
            _pause()
            try:
                whole(Store(self.store_root).current("child", "all"))
                self.seen["read"] += 1
            except (MissingArtifact, CorruptArtifact):  # pruned since it was looked up
                self.seen["missing"] += 1

    def keep_pruning(self, keep_seconds: float) -> None:
        while True:
            _pause()
            self.prune(keep_seconds)

    def prune(self, keep_seconds: float) -> None:
        store = Store(self.store_root)
        there = set(self.store_root.glob("[!.]*/all/????????????????/manifest.json"))
        store.prune(keep_seconds=keep_seconds)
        gone = {path for path in there if not path.exists()}
        assert not (gone and keep_seconds), "pruned what was made a moment ago"
        self.seen["pruned"] += len(gone)

    def play(self) -> None:
        hosts = ("here", "here", "elsewhere")
        keep_seconds = self.random.choice((0, 0, 3600))
        if self.random.random() < 0.5:
            self.run(partial(self.build, 1), "here")
        builders = [Actor(partial(self.build, self.random.randint(1, 2)), host) for host in hosts]
        prune = partial(self.keep_pruning, keep_seconds)
        others = [Actor(self.read, "here"), Actor(prune, self.random.choice(hosts))]
        actors = [*builders, *others]
        kills = self.random.choice((0, 0, 1, 2))
        while any(builder.is_alive for builder in builders):
            living = [actor for actor in actors if actor.is_alive]
            self.random.choice(living).switch()
            if kills and self.random.random() < 0.01:
                kills -= 1
                self.random.choice(living).killed = True
                self.seen["killed"] += 1
            if any(_published):
                self.look()
                # That link itself comes with the actor's next step.
                _published[:] = [True] if _published[-1] else []
        for actor in actors:
            actor.killed = True
        self.finish(actors)

    def run(self, act: Callable[[], None], host: str) -> None:
        actor = Actor(act, host)
        while not actor.dead:
            actor.switch()

    def look(self) -> None:
        """What is visible is complete, and of one build."""
        for path in self.store_root.glob("[!.]*/all/????????????????/manifest.json"):
            manifest = json.loads(path.read_text())
            # One that was condemned before it was published is not opened, and then withdrawn.
            if (path.parent / manifest["attempt"] / "manifest.json").exists():
                whole(Artifact(Store(self.store_root), manifest))

    def finish(self, actors: list[Actor]) -> None:
        """What was interrupted ends well: a last build on each host, and nothing is left."""
        for host in ("here", "elsewhere"):
            for act in (partial(self.build, 1), partial(self.prune, 0)):
                with patch("react_pipeline.store.pruning.RETENTION_SECONDS", -3_600):
                    self.run(act, host)
        assert not list(self.store_root.glob(".scratch/*"))
        store = Store(self.store_root)
        child = store.current("child", "all")
        whole(child)
        whole(store.open("parent", "all", child.parents["parent"]))
        assert [error for _, error in store.verify() if error is not None] == []
        for actor in actors:
            if not actor.dead:
                actor.throw(GreenletExit)


def write(token: str, directory: Path, scratch: Scratch) -> dict[str, int]:
    kept = scratch.keep("a", lambda path: path.write_text(token))
    link_or_copy(kept, directory / "a")
    (directory / "sub").mkdir()
    (directory / "sub" / "b").write_text(kept.read_text())
    return {}


def whole(artifact: Artifact) -> None:
    assert set(artifact.manifest["files"]) == {"a", "sub/b"}
    durable._known.cache_clear()
    (artifact.store.root / artifact.prefix / ".digests.jsonl").unlink(missing_ok=True)
    path = artifact.path
    try:
        assert (path / "a").read_text() == (path / "sub" / "b").read_text()
    except FileNotFoundError as error:
        raise MissingArtifact("pruned since it was verified") from error


@pytest.fixture
def disk() -> Iterator[Path]:
    if not _hooked:
        sys.addaudithook(_hook)  # can never be removed; it does nothing outside an actor
        _hooked.append(True)
    with fast_folder() as folder:
        yield Path(folder)


@pytest.mark.parametrize("schedules", [100, pytest.param(3_000, marks=pytest.mark.slow)])
def test_no_interleaving_tears_or_loses_an_artifact(
    schedules: int, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: Counter[str] = Counter()
    for seed in range(schedules):
        world = World(disk / str(seed), seed)
        monkeypatch.setattr(durable, "lock", world.lock)
        try:
            world.play()
        except BaseException as error:
            raise AssertionError(f"schedule {seed}") from error
        seen += world.seen
        shutil.rmtree(world.store_root)
    assert min(seen[kind] for kind in ("built", "reused", "killed", "read", "pruned")) > 0, seen
