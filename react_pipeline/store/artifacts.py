"""Artifacts: files that are absent, or complete and verified.

Belongs here: what an artifact and the inputs of a step are, the manifest, verification: a file is
hashed once on each machine, as long as the kernel reports no write to it. Does not belong here: how
artifacts are published (`store`), what any artifact contains, which depends on which (`lineage`).
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from react_pipeline.store.durable import known_sha256, remember
from react_pipeline.store.errors import CorruptArtifact
from react_pipeline.store.folder import MANIFEST

if TYPE_CHECKING:
    from react_pipeline.store.store import Store

FORMAT = 3
"""Version of the layout and of the manifest. A store of another format is refused."""
MAX_PARSED = 200_000
"""Manifests that a process remembers, by their bytes; some may be removed by now."""


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys and no spaces, so that equal values have equal text. NaN is
    refused.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def hash_value(value: Any) -> str:
    """Return 16 hexadecimal digits over a value of plain types; equal values give equal digests."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Artifact:
    """A published artifact; `manifest` is what was recorded when it was published.

    Its files are verified when they are asked for. `reused` is true when a build opened what was
    already published.
    """

    store: Store = field(compare=False, repr=False)
    manifest: Mapping[str, Any]
    reused: bool = field(default=True, compare=False)

    @property
    def stage(self) -> str:
        """Name of the asset, such as `faiss_index`."""
        return str(self.manifest["stage"])

    @property
    def key(self) -> str:
        """`all`, a domain's slug, or `<domain>/<method>`."""
        return str(self.manifest["key"])

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits, a digest of every input of this artifact."""
        return str(self.manifest["fingerprint"])

    @property
    def counts(self) -> dict[str, Any]:
        """The counts and measurements of the build."""
        return dict(self.manifest["counts"])

    @property
    def files(self) -> Mapping[str, Any]:
        """`sha256` and `bytes` of each file, by name."""
        return self.manifest["files"]

    @property
    def parents(self) -> dict[str, str]:
        """Fingerprint of each parent, by name."""
        return dict(self.manifest["parents"])

    @property
    def place(self) -> str:
        """Path of its manifest and its attempts in the store."""
        return f"{self.stage}/{self.key}/{self.fingerprint}"

    @property
    def prefix(self) -> str:
        """Path of its files in the store."""
        return f"{self.place}/{self.manifest['attempt']}"

    @property
    def address(self) -> str:
        """Where it is published: a path or a URL."""
        return self.store.backend.address(self.place)

    @cached_property
    def path(self) -> Path:
        """Folder of its files on this machine, all of them verified.

        Raises:
            CorruptArtifact: If anything differs from the manifest; the next build makes the
                artifact again.
            MissingArtifact: If it was removed.
        """
        return self.verify()

    def verify(self) -> Path:
        """Verify all of its files, and return their folder; errors as of `path`."""
        return self.folder_with(self.files)

    def file(self, name: str) -> Path:
        """Return the path of a verified file; errors as of `path`."""
        return self.folder_with([name]) / name

    def folder_with(self, names: Collection[str]) -> Path:
        """Return the folder of its files on this machine, in which at least these are verified;
        errors as of `path`.
        """
        if unknown := set(names) - self.files.keys():
            raise self.damaged(f"no file {min(unknown)!r} in its manifest")
        try:
            for anew in (False, True):
                folder = self.store.backend.fetch(self.prefix, names, anew=anew)
                names = [name for name in names if not self._is_whole(folder, name)]
                if not names:
                    return folder
            wrong = min(names)
            how = "differ from the manifest" if (folder / wrong).exists() else "are gone"
            problem = f"the bytes of {wrong} {how}"
        except FileNotFoundError as error:
            problem = f"{error.filename or error} is gone"
        except OSError as error:
            problem = f"{error.filename}: {error.strerror or error}"
            if error.errno == errno.EIO:
                raise self.condemned(problem) from error
            raise self.damaged(problem) from error  # it is whole, maybe
        if self.store.read(f"{self.place}/{MANIFEST}") is None:
            raise self.store.missing(self.place)
        raise self.condemned(problem)

    def _is_whole(self, folder: Path, name: str) -> bool:
        with suppress(FileNotFoundError):  # a copy that was pruned, and is fetched anew
            return known_sha256(folder, folder / name) == str(self.files[name]["sha256"])
        return False

    def remember(self) -> None:
        """Remember that its files on this machine are as they were published."""
        folder = self.store.backend.fetch(self.prefix, (), anew=False)
        digests = {folder / name: str(file["sha256"]) for name, file in self.files.items()}
        with suppress(FileNotFoundError):  # pruned meanwhile
            remember(folder, digests)

    def require_files(self) -> None:
        """Compare names and sizes of its files with the manifest.

        Raises:
            CorruptArtifact: If one is missing or of another size, or its bytes differed before.
        """
        start = len(self.prefix) + 1
        entries = self.store.backend.entries(self.prefix)
        sizes = {entry.path[start:]: entry.size for entry in entries}
        for name, recorded in self.files.items():
            if MANIFEST not in sizes or sizes.get(name) != recorded["bytes"]:
                raise self.damaged(f"{name} is missing or damaged")

    def read_all(self) -> None:
        """Read every file where it is published, whatever is remembered.

        Raises:
            CorruptArtifact: If one differs from the manifest.
        """
        self.require_files()
        for name, recorded in self.files.items():
            if self.store.backend.sha256_of(f"{self.prefix}/{name}") != recorded["sha256"]:
                raise self.condemned(f"the bytes of {name} differ from the manifest")

    def condemned(self, problem: str) -> CorruptArtifact:
        """Return what is wrong with it, after which the next build makes it again."""
        with suppress(OSError):  # a store that may only be read
            self.store.backend.delete(f"{self.prefix}/{MANIFEST}")
        return self.damaged(problem)

    def damaged(self, problem: str) -> CorruptArtifact:
        """Return the error that it is not as it was published."""
        return self.store.damaged(self.place, problem)

    def open_parent(self, stage: str) -> Artifact:
        """Return the artifact of a stage that this one was made from, of the same key.

        Raises:
            MissingArtifact: If it was removed.
            CorruptArtifact: If its manifest is damaged.
        """
        return self.store.open(stage, self.key, self.parents[stage])


@dataclass(frozen=True)
class Inputs:
    """Everything that decides what a step builds.

    Attributes:
        key: `all`, a domain's slug, or `<domain>/<method>`.
        config: The part of the configuration that changes the result, as plain JSON values.
        content: Identity of outside data (digests of the user's shards, say), as plain JSON values.
        parents: Artifacts the step reads, by name.
        code_version: Changed by hand when the step's code changes its result.
    """

    stage: str
    key: str
    config: Mapping[str, Any]
    parents: Mapping[str, Artifact]
    code_version: str
    content: Any = None

    @property
    def identity(self) -> dict[str, Any]:
        """All of it as plain values, parents by their fingerprints."""
        return {
            **vars(self),
            "parents": {name: parent.fingerprint for name, parent in self.parents.items()},
        }

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits over all inputs; equal inputs give equal fingerprints."""
        return hash_value(self.identity)

    @property
    def place(self) -> str:
        """Path of the manifest and of the attempts in a store."""
        return f"{self.stage}/{self.key}/{self.fingerprint}"

    @property
    def slug(self) -> str:
        """The same where no folder below a folder is possible."""
        return self.place.replace("/", "--")


def manifest_content(manifest: Mapping[str, Any]) -> bytes:
    """Return the bytes of a manifest."""
    return (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode()


def with_digest(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest with its own digest, since its counts are reported as results."""
    # As it is read back: JSON turns tuples into lists and keys into text.
    stored: dict[str, Any] = json.loads(json.dumps(manifest))
    return {**stored, "digest": _digest(stored)}


@lru_cache(MAX_PARSED)
def parse_manifest(content: bytes, place: str) -> Mapping[str, Any] | None:
    """Return the manifest in the bytes of `<place>/manifest.json`; None if they are not the
    manifest of this artifact.
    """
    try:
        manifest: dict[str, Any] = json.loads(content)
        named = "/".join(manifest[name] for name in ("stage", "key", "fingerprint"))
        rest = {name: value for name, value in manifest.items() if name != "digest"}
        is_whole = manifest["digest"] == _digest(rest) and manifest["format"] == FORMAT
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return manifest if is_whole and named == place else None


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(
        json.dumps(manifest, sort_keys=True, ensure_ascii=False).encode()
    ).hexdigest()
