"""The store: the only way in which artifacts are published, in a folder or in a bucket.

Belongs here: building, publishing, the pointer to the current artifact. Does not belong here: where
objects are (`folder`, `bucket`), whether files are whole (`artifacts`), what may be removed
(`pruning`), what depends on what (`lineage`).

An attempt writes where no other attempt writes, and is published by one act that only one can win:
the creation of its manifest. Locks save work; nothing depends on them. Layout::

    <stage>/<key>/<fingerprint>/_<attempt>/...   files of an attempt, with its manifest
    <stage>/<key>/<fingerprint>/manifest.json    names the attempt that was published; its time is
                                                 that of its last use
    <stage>/<key>/current                        the fingerprint that downstream steps read
    .notes/<name>                                what is no artifact, for all hosts
    .scratch/ .locks/ .temporary/                of this machine
    .cache/ .copies/ .digests.jsonl              of this machine, and can be lost without harm
"""

from __future__ import annotations

import json
import logging
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from react_pipeline.store.artifacts import (
    FORMAT,
    Artifact,
    Inputs,
    manifest_content,
    parse_manifest,
    with_digest,
)
from react_pipeline.store.durable import fsync_tree, locked
from react_pipeline.store.errors import CorruptArtifact, InputError, MissingArtifact
from react_pipeline.store.folder import CURRENT, MANIFEST, SCRATCH, Folder, throw_away
from react_pipeline.store.pruning import RETENTION_SECONDS, prune
from react_pipeline.store.scratch import Scratch, removed

if TYPE_CHECKING:
    from react_pipeline.store.bucket import Bucket

logger = logging.getLogger(__name__)

BUILT = "built"
KEPT_SCRATCHES = 2
"""Scratches of one artifact that a further attempt leaves alone, since their processes may live."""
STORE = "store.json"
_FINGERPRINT = re.compile(r"[0-9a-f]{16}")

Write = Callable[[Path, Scratch], Mapping[str, Any]]
"""Fills a folder of its own and returns the counts of the manifest. What it keeps in the scratch is
there again after a kill.
"""


class Store:
    """Publishes artifacts, and opens them."""

    def __init__(self, place: Path | Folder | Bucket) -> None:
        """Open a store; nothing is written before the first build, and no request is made.

        Raises:
            InputError: If a folder holds a store of another format.
        """
        self.backend = Folder(place.resolve()) if isinstance(place, Path) else place
        if isinstance(place, Path):
            self._require_format()

    @property
    def root(self) -> Path:
        """Folder of this machine for what is kept beside artifacts."""
        return self.backend.home

    def build(self, inputs: Inputs, write: Write, *, is_current: bool = True) -> Artifact:
        """Publish the artifact of these inputs, or return the one that is already there.

        `write` fills the folder that it gets and returns the counts for the manifest. Builders on
        one machine take turns. Those that do not see each other's locks both build, and one
        publishes; the other opens that.

        Args:
            is_current: Whether the pointer names it then.

        Raises:
            StoreWriteError: If the disk refuses a write, or `prune` removed the files of this build
                before it was published. Nothing is published then.
        """
        if not self._require_format():
            self.backend.create(STORE, _FORMAT)
        with self.locked(inputs.slug):
            while True:
                artifact = self._whole(inputs.place) or self._attempt(inputs, write)
                throw_away(self._scratches(inputs), self.root)
                if not artifact.reused:
                    artifact.remember()  # last: to remove a link changes the file, too
                if is_current:
                    self.set_current(artifact)
                # `prune` removes the manifest, and looks at the pointer then.
                if self.read(f"{inputs.place}/{MANIFEST}"):
                    return artifact

    def _attempt(self, inputs: Inputs, write: Write) -> Artifact:
        attempt = f"_{secrets.token_hex(8)}"
        prefix = f"{inputs.place}/{attempt}"
        try:
            self._publish(inputs, attempt, write)
            winner = self._whole(inputs.place)
            if winner is None:
                raise removed(self.backend.address(prefix))
        except Exception as error:
            winner = self._whole(inputs.place)
            if winner is None:
                raise
            logger.warning("%s: another attempt was faster (%s)", prefix, error)
        if winner.manifest["attempt"] == attempt:
            return replace(winner, reused=False)
        self.backend.discard(prefix)
        return winner

    def _publish(self, inputs: Inputs, attempt: str, write: Write) -> None:
        """Build in a private scratch, and create the manifest unless there is one."""
        scratch = self.scratch(inputs)
        with scratch.faults():
            files = scratch.folder / attempt
            files.mkdir()
            record = {
                "format": FORMAT,
                "fingerprint": inputs.fingerprint,
                **inputs.identity,
                "attempt": attempt,
                "counts": scratch.build(BUILT, files, lambda folder: dict(write(folder, scratch))),
                "files": scratch.digests(files),
                "created": datetime.now(UTC).isoformat(timespec="milliseconds"),
            }
            if scratch.is_removed:
                raise removed(scratch.folder)
            content = manifest_content(with_digest(record))
            (files / MANIFEST).write_bytes(content)
            fsync_tree(files)
            self.backend.finish(f"{inputs.place}/{attempt}", files, [MANIFEST, *record["files"]])
            self.backend.create(f"{inputs.place}/{MANIFEST}", content)

    def _whole(self, place: str) -> Artifact | None:
        """Return what is published, withdrawn if it is damaged or a file is missing; None if
        nothing is.
        """
        path = f"{place}/{MANIFEST}"
        while (content := self.read(path)) is not None:
            try:
                artifact = self._parse(place, content)
                artifact.require_files()
            except CorruptArtifact as error:
                if self.read(path) == content:  # else another made it again
                    logger.warning("%s; building it again", error)
                    self.backend.delete(path)
            else:
                return artifact
        return None

    def set_current(self, artifact: Artifact) -> None:
        """Write the pointer. What it named before was used until now."""
        old = self.pointer(artifact.stage, artifact.key)
        if old != artifact.fingerprint:
            base = f"{artifact.stage}/{artifact.key}"
            if old and _FINGERPRINT.fullmatch(old):
                self.backend.touch(f"{base}/{old}/{MANIFEST}")
            self.backend.put(f"{base}/{CURRENT}", f"{artifact.fingerprint}\n".encode())

    def scratch(self, inputs: Inputs) -> Scratch:
        """Begin a private scratch for an attempt, with what the furthest earlier one had kept."""
        scratch = Scratch(self._scratches(inputs) / secrets.token_hex(8))
        others = self.earlier_scratches(inputs)
        try:
            scratch.begin(next(iter(others), None))
        except FileNotFoundError as error:
            raise removed(scratch.folder) from error
        for other in others[KEPT_SCRATCHES:]:
            throw_away(other.folder, self.root)
        return scratch

    def earlier_scratches(self, inputs: Inputs) -> list[Scratch]:
        """Return what attempts that were not published have left on this machine, the furthest
        first.
        """
        there = map(Scratch, self._scratches(inputs).glob("*"))
        others = [scratch for scratch in there if not scratch.is_removed]
        return sorted(others, key=lambda scratch: scratch.progress, reverse=True)

    def _scratches(self, inputs: Inputs) -> Path:
        return self.root / SCRATCH / inputs.slug

    def open(self, stage: str, key: str, fingerprint: str) -> Artifact:
        """Return a published artifact by its manifest; its files are verified when they are asked
        for.

        Raises:
            MissingArtifact: If it was never published.
            CorruptArtifact: If its manifest is damaged.
        """
        place = f"{stage}/{key}/{fingerprint}"
        if not _FINGERPRINT.fullmatch(fingerprint):
            raise self.missing(place)
        return self.at(place)

    def at(self, place: str) -> Artifact:
        """Return the artifact of a place, `<stage>/<key>/<fingerprint>`; errors as of `open`."""
        path = f"{place}/{MANIFEST}"
        try:
            return self._parse(place, self.backend.read(path))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise self.missing(place) from error
        except OSError as error:  # a disk that cannot read it
            raise self.damaged(place, str(error)) from error

    def _parse(self, place: str, content: bytes) -> Artifact:
        if manifest := parse_manifest(content, place):
            return Artifact(self, manifest)
        raise self.damaged(place, f"{MANIFEST} is not that of this artifact")

    def damaged(self, place: str, problem: str) -> CorruptArtifact:
        """Return the error of an artifact that is not as it was published."""
        stage, key, _ = _names(place)
        return CorruptArtifact(
            f"{self.backend.address(place)}: {problem}; rematerialize `{stage}` for {key!r}"
        )

    def missing(self, place: str) -> MissingArtifact:
        """Return the error of an artifact that is not there, or not any more."""
        stage, key, _ = _names(place)
        return MissingArtifact(
            f"{self.backend.address(place)}: is not there; materialize `{stage}` for {key!r}",
            (stage, key),
        )

    def current(self, stage: str, key: str) -> Artifact:
        """Return the artifact that downstream steps read: the one built (or opened again) last.

        Raises:
            MissingArtifact: If none was built yet.
            CorruptArtifact: If its manifest is damaged.
        """
        fingerprint = self.pointer(stage, key)
        if fingerprint is None:
            raise MissingArtifact(
                f"`{stage}` has not been materialized for {key!r}: materialize it first",
                (stage, key),
            )
        return self.open(stage, key, fingerprint)

    def pointer(self, stage: str, key: str) -> str | None:
        """Return the fingerprint of the current artifact, which may be damaged; None if there is
        none.
        """
        content = self.read(f"{stage}/{key}/{CURRENT}")
        return None if content is None else content.decode(errors="replace").strip()

    def has(self, stage: str, key: str) -> bool:
        """Return whether a stage has a current artifact of this key, which may be damaged."""
        return self.pointer(stage, key) is not None

    def keys(self, stage: str) -> list[str]:
        """Keys of a stage that have a current artifact, sorted."""
        paths = self._heads(stage, CURRENT)
        return sorted(path[len(stage) + 1 :] for path in paths)

    def versions(self, stage: str, key: str) -> list[str]:
        """Return the fingerprints of all published artifacts of a stage and key, sorted."""
        places = self.places(f"{stage}/{key}")
        return sorted(fingerprint for _, of_key, fingerprint in places if of_key == key)

    def places(self, prefix: str = "") -> Iterator[tuple[str, str, str]]:
        """Yield stage, key and fingerprint of each published artifact below a prefix."""
        return map(_names, self._heads(prefix, MANIFEST))

    def _heads(self, prefix: str, name: str) -> Iterator[str]:
        """Yield the folders with an object of this name that is no file of an attempt."""
        for entry in self.backend.entries(prefix, until=name):
            folder, _, last = entry.path.rpartition("/")
            if last == name and "/_" not in folder and not folder.startswith("."):
                yield folder

    def address(self, stage: str, key: str) -> str:
        """Return where the artifacts of a stage and key are: a path or a URL."""
        return self.backend.address(f"{stage}/{key}")

    def read_note(self, name: str) -> str | None:
        """Return the text of a note; None if there is none."""
        content = self.read(f".notes/{name}")
        return None if content is None else content.decode(errors="replace")

    def write_note(self, name: str, text: str) -> None:
        """Keep a text that is no artifact, for all hosts."""
        self.backend.put(f".notes/{name}", text.encode())

    def read(self, path: str) -> bytes | None:
        """Return a small object; None if it is not there."""
        with suppress(FileNotFoundError, NotADirectoryError):
            return self.backend.read(path)
        return None

    def look(self) -> Store:
        """Return the same store at this moment, for whoever only asks what is fresh."""
        return _Look(self)

    def verify(self) -> Iterator[tuple[str, CorruptArtifact | None]]:
        """Read every file of every artifact where it is published, whatever is remembered; yields
        the address of each artifact with what is wrong with it.
        """
        for place in sorted(self._heads("", MANIFEST)):
            found = None
            try:
                self.at(place).read_all()
            except (MissingArtifact, FileNotFoundError):  # pruned meanwhile
                continue
            except CorruptArtifact as error:
                found = error
            except OSError as error:
                found = self.damaged(place, str(error))
            yield self.backend.address(place), found

    def prune(self, *, dry_run: bool = False, keep_seconds: float = RETENTION_SECONDS) -> list[str]:
        """Remove what nothing uses any more (`pruning.prune`); returns the addresses."""
        with self.locked("prune"):
            return prune(self, dry_run=dry_run, keep_seconds=keep_seconds)

    def locked(self, name: str) -> AbstractContextManager[bool]:
        """Take turns with other processes of this machine, as by `durable.locked`."""
        return locked(self.root / ".locks" / f"{name}.lock")

    def _require_format(self) -> bool:
        """Refuse a store of another format; returns whether there is a store."""
        content = self.read(STORE)
        if content not in (None, _FORMAT):
            raise InputError(
                f"{self.backend.address(STORE)}: {content[:80]!r} is another format than "
                f"{_FORMAT!r}, which this version reads; point `store` at an empty place, or use "
                "the version that wrote it"
            )
        return content is not None


class _Look(Store):
    """A store at one moment: asks for each pointer and each artifact once. Nothing is built in it:
    what is published later is in later looks.
    """

    def __init__(self, store: Store) -> None:
        self.backend = store.backend.look()
        self._store = store
        for name in ("pointer", "keys", "open"):
            setattr(self, name, cache(getattr(self, name)))

    def open(self, stage: str, key: str, fingerprint: str) -> Artifact:
        """Behave as in `Store`; files that are missing or of another size are noticed."""
        artifact = super().open(stage, key, fingerprint)
        artifact.require_files()
        return replace(artifact, store=self._store)  # whose files may be asked for later


_FORMAT = json.dumps({"format": FORMAT}).encode()


def _names(place: str) -> tuple[str, str, str]:
    """Stage, key and fingerprint of an artifact."""
    stage, rest = place.split("/", 1)
    key, _, fingerprint = rest.rpartition("/")
    return stage, key, fingerprint
