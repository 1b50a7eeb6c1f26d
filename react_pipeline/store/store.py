"""The store: the only way in which artifacts are published, in a folder or in a bucket.

Belongs here: building, publishing, the pointer to the current artifact, verification. Does not
belong here: where objects are (`folder`, `bucket`), what may be removed (`pruning`), what depends
on what (`lineage`).

An attempt writes where no other attempt writes, and is published by one act that only one can win:
the creation of its manifest. Locks save work; nothing depends on them. Layout::

    <stage>/<key>/<fingerprint>/_<attempt>/...   files of an attempt, with its manifest
    <stage>/<key>/<fingerprint>/manifest.json    names the attempt that was published
    <stage>/<key>/<fingerprint>/used             written when another became current, or this again
    <stage>/<key>/current                        the fingerprint that downstream steps read
    .notes/<name>                                what is no artifact, for all hosts
    .scratch/ .locks/ .verified/ .temporary/     of this machine
"""

from __future__ import annotations

import errno
import json
import logging
import re
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from react_pipeline.store.artifacts import (
    FORMAT,
    Artifact,
    Inputs,
    manifest_content,
    parse_manifest,
    slug_of,
    with_digest,
)
from react_pipeline.store.durable import fsync, lock, release, sha256_of, stamp_of
from react_pipeline.store.errors import (
    CorruptArtifact,
    InputError,
    MissingArtifact,
    StoreWriteError,
)
from react_pipeline.store.folder import CURRENT, MANIFEST, TEMPORARY, USED, Folder
from react_pipeline.store.scratch import FILES, RECORD, Scratch, fill

if TYPE_CHECKING:
    from react_pipeline.store.bucket import Bucket
    from react_pipeline.store.look import StoreLook

logger = logging.getLogger(__name__)

RETENTION_SECONDS = 7 * 86_400.0
"""Longer than a build takes: what it reads was current when it began."""
BUILT = "built"
STORE = "store.json"
KEPT_SCRATCHES = 2
"""Scratches of one artifact that a further attempt leaves alone, since their processes may live."""
DISK_FAULTS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG})
"""Errors of the disk itself; others (a missing file, a refused connection) keep their own text."""
MAX_PARSED = 200_000

_FINGERPRINT = re.compile(r"[0-9a-f]{16}")

_parsed: dict[str, tuple[str, Mapping[str, Any]]] = {}
"""Manifests that were parsed, with their versions, by address; some may be removed by now."""
_verified: dict[tuple[str, str], dict[str, str]] = {}
"""How files looked when they were verified, by store and attempt."""

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
        if self.backend.is_local:
            self._require_format()

    @property
    def root(self) -> Path:
        """Folder of this machine for what is kept beside artifacts."""
        return self.backend.home

    def build(self, inputs: Inputs, write: Write) -> Artifact:
        """Publish the artifact of these inputs, or return the one that is already there.

        `write` fills the folder that it gets and returns the counts for the manifest. Builders on
        one machine take turns. Those that do not see each other's locks both build, and one
        publishes; the other opens that.

        Raises:
            StoreWriteError: If the disk refuses a write, or `prune` removed the files of this build
                before it was published. Nothing is published then.
        """
        self._require_format(begin=True)
        with self.locked(_slug(inputs)):
            while True:
                artifact = self._whole(inputs.place) or self._attempt(inputs, write)
                self.throw_away(self._scratches(inputs))
                if not artifact.reused:  # last: to remove a link changes the file, too
                    self.remember(artifact, artifact.manifest["files"])
                self._set_current(artifact)
                # `prune` removes the manifest, and looks at the pointer then.
                if self._read(f"{inputs.place}/{MANIFEST}"):
                    return artifact

    def _attempt(self, inputs: Inputs, write: Write) -> Artifact:
        attempt = f"_{secrets.token_hex(8)}"
        prefix = f"{inputs.place}/{attempt}"
        scratch = Scratch(self._scratches(inputs) / secrets.token_hex(8))
        winner = None
        try:
            self._begin(scratch)
            built = scratch.keep(BUILT, lambda folder: self._build(folder, scratch, write))
            if scratch.is_removed:
                raise _removed(str(scratch.folder))
            with self._disk_faults(built):
                record = {
                    "format": FORMAT,
                    "fingerprint": inputs.fingerprint,
                    **inputs.identity,
                    "attempt": attempt,
                    "files": scratch.digests(built / FILES),
                    **json.loads((built / RECORD).read_bytes()),
                    "created": datetime.now(UTC).isoformat(timespec="milliseconds"),
                }
                manifest = with_digest(record)
                content = manifest_content(manifest)
                (built / FILES / MANIFEST).write_bytes(content)
                for path in (built / FILES / MANIFEST, built / FILES):
                    fsync(path)
                self.backend.finish(prefix, built / FILES, [MANIFEST, *manifest["files"]])
                self.backend.create(f"{inputs.place}/{MANIFEST}", content)
            winner = self._whole(inputs.place)
            if winner is None:
                raise _removed(self.backend.address(prefix))
        except Exception as error:
            winner = self._whole(inputs.place)
            if winner is None and scratch.is_removed:
                raise _removed(str(scratch.folder)) from error
            if winner is None:
                raise
            logger.warning("%s: another attempt was faster (%s)", prefix, error)
        if winner.manifest["attempt"] == attempt:
            return replace(winner, reused=False)
        self.discard(prefix)
        return winner

    def _build(self, folder: Path, scratch: Scratch, write: Write) -> None:
        def measured(files: Path) -> dict[str, Any]:
            began = time.monotonic()
            counts = dict(write(files, scratch))
            return {"counts": counts, "build_seconds": round(time.monotonic() - began, 2)}

        with self._disk_faults(folder):
            fill(folder, measured)

    @contextmanager
    def _disk_faults(self, folder: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in DISK_FAULTS:
                raise
            written = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            free = shutil.disk_usage(self.root).free
            raise StoreWriteError(
                f"{error.filename or folder}: {error.strerror or error}; {written:,} bytes were "
                f"written and {free:,} are free on that disk, so this artifact needs more than "
                f"{written + free:,}. Nothing was published; free space (react-pipeline prune) and "
                "run again"
            ) from error

    def _whole(self, place: str) -> Artifact | None:
        """What is published, withdrawn if it is damaged or a file is missing; None if nothing
        is.
        """
        path = f"{place}/{MANIFEST}"
        while (content := self._read(path)) is not None:
            try:
                artifact = self._parse(path, content)
                self.require_files(artifact)
            except CorruptArtifact as error:
                logger.warning("%s; building it again", error)
                self.backend.remove(path, content)
            else:
                return artifact
        return None

    def require_files(self, artifact: Artifact) -> None:
        """Compare names and sizes of the files of an artifact with its manifest.

        Raises:
            CorruptArtifact: If one is missing or of another size, or its bytes differed before.
        """
        start = len(artifact.prefix) + 1
        sizes = {entry.path[start:]: entry.size for entry in self.backend.entries(artifact.prefix)}
        for name, recorded in artifact.manifest["files"].items():
            if MANIFEST not in sizes or sizes.get(name) != recorded["bytes"]:
                raise _damaged(artifact, f"{name} is missing or damaged")

    def discard(self, prefix: str) -> bool:
        """Remove an attempt, unless it is published; returns whether it did.

        It is condemned first, so that its process, if it lives, publishes nothing: its own manifest
        is removed before a look at the published one, and who publishes looks in the other order.
        """
        place, _, attempt = prefix.rpartition("/")

        def is_published() -> bool:
            try:
                return bool(self._at(place).manifest["attempt"] == attempt)
            except MissingArtifact:
                return False
            except CorruptArtifact:  # it may name this one
                return True

        if is_published():
            return False
        own = f"{prefix}/{MANIFEST}"
        content = self._read(own)
        self.backend.delete(own)
        if is_published():
            self.backend.put(own, content or b"")
            return False
        self.backend.discard(prefix)
        return True

    def _set_current(self, artifact: Artifact) -> None:
        """Write the pointer. What it named before, and what it names again, was used now."""
        old = self.pointer(artifact.stage, artifact.key)
        if old != artifact.fingerprint:
            base = f"{artifact.stage}/{artifact.key}"
            for fingerprint in (old, artifact.fingerprint if artifact.reused else None):
                if fingerprint and _FINGERPRINT.fullmatch(fingerprint):
                    self.backend.put(f"{base}/{fingerprint}/{USED}", b"")
            self.backend.put(f"{base}/{CURRENT}", f"{artifact.fingerprint}\n".encode())

    def _begin(self, scratch: Scratch) -> None:
        """Begin the private scratch of an attempt with what the furthest earlier one had kept."""
        others = (
            other for other in map(Scratch, scratch.folder.parent.glob("*")) if not other.is_removed
        )
        earlier = sorted(others, key=lambda other: other.kept_at, reverse=True)
        scratch.begin(earlier[0] if earlier else None)
        for other in earlier[KEPT_SCRATCHES:]:
            self.throw_away(other.folder)

    def _scratches(self, inputs: Inputs) -> Path:
        return self.root / ".scratch" / _slug(inputs)

    def throw_away(self, folder: Path) -> None:
        """Remove a folder of this machine; a process that uses it finds all it wrote, or none."""
        gone = self.root / TEMPORARY / secrets.token_hex(8)
        gone.parent.mkdir(exist_ok=True)
        with suppress(OSError):
            folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def is_begun(self, inputs: Inputs) -> bool:
        """Whether the artifact of these inputs is published, or anything was kept for it."""
        return bool(
            self._read(f"{inputs.place}/{MANIFEST}")
            or any(Scratch(path).kept_at for path in self._scratches(inputs).glob("*"))
        )

    def leave(self, inputs: Inputs, folder: Path) -> None:
        """Let the next build of these inputs go on from what is in a folder on the disk of the
        store.
        """
        scratch = Scratch(self._scratches(inputs) / secrets.token_hex(8))
        scratch.begin()
        for path in folder.iterdir():
            scratch.keep(path.name, path.rename)

    def open(self, stage: str, key: str, fingerprint: str) -> Artifact:
        """A published artifact by its manifest; its files are verified when they are asked for.

        Raises:
            MissingArtifact: If it was never published.
            CorruptArtifact: If its manifest is damaged.
        """
        if not _FINGERPRINT.fullmatch(fingerprint):
            raise MissingArtifact(
                f"{self.address(stage, key)}: {fingerprint!r} is no artifact; materialize "
                f"`{stage}` for {key!r}",
                (stage, key),
            )
        return self._at(f"{stage}/{key}/{fingerprint}")

    def _at(self, place: str) -> Artifact:
        """As `open`; a manifest is parsed once in this process for as long as it is the same."""
        path = f"{place}/{MANIFEST}"
        address = self.backend.address(path)
        try:
            version = self.backend.version(path)
            if version and _parsed.get(address, ("",))[0] == version:
                return self._artifact(_parsed[address][1])
            content = self.backend.read(path)
        except (FileNotFoundError, NotADirectoryError) as error:
            stage, _, rest = place.partition("/")
            key = rest.rpartition("/")[0]
            raise MissingArtifact(
                f"{address}: not there; materialize `{stage}` for {key!r}", (stage, key)
            ) from error
        except OSError as error:  # a disk that cannot read it
            raise self._corrupt(path, error) from error
        artifact = self._parse(path, content)
        if version:
            if len(_parsed) >= MAX_PARSED:
                _parsed.clear()
            _parsed[address] = version, artifact.manifest
        return artifact

    def _artifact(self, manifest: Mapping[str, Any]) -> Artifact:
        return Artifact(self, manifest)

    def _parse(self, path: str, content: bytes) -> Artifact:
        manifest = parse_manifest(content, path)
        if manifest is None:
            raise self._corrupt(path, "not the manifest of this artifact")
        return self._artifact(manifest)

    def _corrupt(self, path: str, problem: object) -> CorruptArtifact:
        stage = path.partition("/")[0]
        return CorruptArtifact(f"{self.backend.address(path)}: {problem}; rematerialize `{stage}`")

    def current(self, stage: str, key: str) -> Artifact:
        """The artifact that downstream steps read: the one built (or opened again) last.

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
        """The fingerprint of the current artifact, which may be damaged; None if there is none."""
        content = self._read(f"{stage}/{key}/{CURRENT}")
        return None if content is None else content.decode(errors="replace").strip()

    def has(self, stage: str, key: str) -> bool:
        """Whether a stage has a current artifact of this key, which may be damaged."""
        return self.pointer(stage, key) is not None

    def keys(self, stage: str) -> list[str]:
        """Keys of a stage that have a current artifact, sorted."""
        paths = self._heads(stage, CURRENT)
        return sorted(path[len(stage) + 1 :] for path in paths)

    def versions(self, stage: str, key: str) -> list[str]:
        """Fingerprints of all published artifacts of a stage and key, sorted."""
        depth = key.count("/") + 3
        paths = (path.split("/") for path in self._heads(f"{stage}/{key}", MANIFEST))
        return sorted(path[-1] for path in paths if len(path) == depth)

    def places(self) -> Iterator[tuple[str, str, str]]:
        """Stage, key and fingerprint of each published artifact."""
        for place in self._heads("", MANIFEST):
            stage, *key, fingerprint = place.split("/")
            yield stage, "/".join(key), fingerprint

    def _heads(self, prefix: str, name: str) -> Iterator[str]:
        """The folders of all heads of a name."""
        for entry in self.backend.heads(prefix, name):
            folder, _, last = entry.path.rpartition("/")
            if last == name and "/_" not in folder:
                yield folder

    def address(self, stage: str, key: str) -> str:
        """Where the artifacts of a stage and key are: a path or a URL."""
        return self.backend.address(f"{stage}/{key}")

    def read_note(self, name: str) -> str | None:
        """The text of a note; None if there is none."""
        content = self._read(f".notes/{name}")
        return None if content is None else content.decode(errors="replace").partition("\0")[0]

    def write_note(self, name: str, text: str) -> None:
        """Keep a text that is no artifact, for all hosts."""
        self.backend.put(f".notes/{name}", text.encode())

    def create_note(self, name: str, text: str) -> bool:
        """Keep a text unless there is a note of this name; true for the one caller that did."""
        unique = f"{text}\0{secrets.token_hex(8)}"
        return self.backend.create(f".notes/{name}", unique.encode())

    def _read(self, path: str) -> bytes | None:
        with suppress(FileNotFoundError, NotADirectoryError):
            return self.backend.read(path)
        return None

    def look(self) -> StoreLook:
        """The same store at this moment, for whoever reads no file."""
        from react_pipeline.store.look import StoreLook  # a store too

        return StoreLook(self)

    def verified(self, artifact: Artifact, names: Collection[str]) -> Path:
        """The folder of an artifact on this machine, in which these files are as they were
        published; each is hashed once, for as long as the kernel says that it was not written to.

        Raises:
            MissingArtifact: If the artifact was removed.
            CorruptArtifact: If a file differs; the next build makes the artifact again.
        """
        known = self._known(artifact) if names else {}
        wrong = list(names)
        try:
            for anew in (False, True):
                folder = self.backend.fetch(artifact.prefix, wrong, anew=anew)
                wrong = [name for name in wrong if known.get(name) != _stamp(folder / name)]
                good = {name for name in wrong if _is_whole(artifact, name, folder)}
                self.remember(artifact, good)
                wrong = [name for name in wrong if name not in good]
                if not wrong:
                    return folder
            problem = f"the bytes of {wrong[0]} differ from the manifest"
        except FileNotFoundError as error:
            problem = f"{error.filename or error} is gone"
        except OSError as error:
            if error.errno == errno.EIO:  # otherwise it is whole, maybe
                self._condemn(artifact)
            problem = f"{error.filename}: {error.strerror or error}"
            raise _damaged(artifact, problem) from error
        if self._read(f"{artifact.place}/{MANIFEST}") is None:
            raise MissingArtifact(
                f"{artifact.address}: removed; materialize `{artifact.stage}` for {artifact.key!r}",
                (artifact.stage, artifact.key),
            )
        self._condemn(artifact)
        raise _damaged(artifact, problem)

    def _condemn(self, artifact: Artifact) -> None:
        with suppress(OSError):  # a store that may only be read
            self.backend.delete(f"{artifact.prefix}/{MANIFEST}")

    def verify(self) -> Iterator[tuple[str, CorruptArtifact | None]]:
        """Read every file of every artifact where it is published, whatever is remembered; yields
        the address of each artifact with what is wrong with it.
        """
        for place in sorted(self._heads("", MANIFEST)):
            try:
                artifact = self._at(place)
                self.require_files(artifact)
                for name, recorded in artifact.manifest["files"].items():
                    if self.backend.sha256_of(artifact.prefix, name) != recorded["sha256"]:
                        self._condemn(artifact)
                        problem = f"the bytes of {name} differ from the manifest"
                        raise _damaged(artifact, problem)
            except (MissingArtifact, FileNotFoundError):  # pruned meanwhile
                continue
            except CorruptArtifact as error:
                yield self.backend.address(place), error
            except OSError as error:
                yield self.backend.address(place), _damaged(artifact, str(error))
            else:
                yield self.backend.address(place), None

    def prune(self, *, dry_run: bool = False, keep_seconds: float = RETENTION_SECONDS) -> list[str]:
        """Remove what nothing uses any more (`pruning.prune`); returns the addresses."""
        from react_pipeline.store.pruning import prune  # of a store

        with self.locked("prune"):
            return prune(self, dry_run=dry_run, keep_seconds=keep_seconds)

    def require_usable(self) -> None:
        """Try what building depends on.

        Raises:
            InputError: If access is refused, or something is not supported.
            SourceUnavailable: If a server does not answer.
        """
        self.backend.require_usable()

    @contextmanager
    def locked(self, name: str, *, wait: bool = True) -> Iterator[bool]:
        """Take turns with other processes of this machine, to save work; yields whether the lock is
        held.

        It is not where the file system has no locks, or another process holds it and `wait` is
        false.
        """
        locks = self.root / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / f"{name}.lock").open("w") as file:
            held = lock(file, wait=False)
            if wait and not held:
                logger.info("waiting: another run holds %s", name)
                held = lock(file)
            try:
                yield held
            finally:
                release(file, held)

    def _known(self, artifact: Artifact) -> dict[str, str]:
        here = str(self.root), artifact.prefix
        known = _verified.setdefault(here, {})
        if not known:
            with suppress(OSError, ValueError, RecursionError):
                for line in self._memory(artifact).read_bytes().splitlines():
                    known.update(json.loads(line))
        return known

    def remember(self, artifact: Artifact, names: Collection[str]) -> None:
        """Remember on this machine how verified files look."""
        if not names:
            return
        folder = self.backend.fetch(artifact.prefix, (), anew=False)
        stamps = {name: _stamp(folder / name) for name in names}
        self._known(artifact).update(stamps)
        with suppress(OSError):  # a store that may only be read
            memory = self._memory(artifact)
            memory.parent.mkdir(parents=True, exist_ok=True)
            with memory.open("a") as lines:
                lines.write(json.dumps(stamps) + "\n")

    def _memory(self, artifact: Artifact) -> Path:
        return self.root / ".verified" / f"{artifact.prefix.replace('/', '--')}"

    def _require_format(self, *, begin: bool = False) -> None:
        """Refuse a store of another format; write that of a new one, if it begins."""
        content = self._read(STORE)
        if content is None:
            if begin:
                self.backend.create(STORE, json.dumps({"format": FORMAT}).encode())
            return
        where = self.backend.address(STORE)
        try:
            version = json.loads(content)["format"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise InputError(
                f"{where}: unreadable ({error!r}); restore it, or remove the store"
            ) from error
        if version != FORMAT:
            raise InputError(
                f"{where}: a store of format {version}, this version reads format {FORMAT}; point "
                "`store` at an empty place, or use the version that wrote it"
            )


def _slug(inputs: Inputs) -> str:
    return slug_of(inputs.stage, inputs.key, inputs.fingerprint)


def _removed(address: str) -> StoreWriteError:
    return StoreWriteError(f"{address}: removed before it was published; run again")


def _stamp(path: Path) -> str:
    try:
        return str(stamp_of(path.stat()))
    except FileNotFoundError:
        return ""


def _is_whole(artifact: Artifact, name: str, folder: Path) -> bool:
    recorded = artifact.manifest["files"][name]
    path = folder / name
    with suppress(FileNotFoundError):
        return path.stat().st_size == recorded["bytes"] and sha256_of(path) == recorded["sha256"]
    return False


def _damaged(artifact: Artifact, problem: str) -> CorruptArtifact:
    return CorruptArtifact(
        f"{artifact.address}: {problem}; rematerialize `{artifact.stage}` for {artifact.key!r}"
    )
