"""Verification: whether the files of an artifact are as they were published.

A file is hashed once on each machine, as long as the kernel reports no write to it. Does
not belong here: how a damaged artifact is made again (`store`).
"""

from __future__ import annotations

import errno
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from react_pipeline.store.durable import file_stamp, sha256_of
from react_pipeline.store.errors import CorruptArtifact, MissingArtifact
from react_pipeline.store.folder import MANIFEST

if TYPE_CHECKING:
    from react_pipeline.store.artifacts import Artifact
    from react_pipeline.store.store import Store

VERIFIED = ".verified"
"""File beside those of an attempt: how these looked on this machine when they were verified."""


def verified_folder(artifact: Artifact, names: Collection[str]) -> Path:
    """Return the folder of an artifact on this machine, in which these files are as they were
    published.

    Raises:
        MissingArtifact: If the artifact was removed.
        CorruptArtifact: If a file differs; the next build makes the artifact again.
    """
    store = artifact.store
    try:
        for anew in (False, True):
            folder = store.backend.fetch(artifact.prefix, names, anew=anew)
            names = _wrong_files(folder, names, artifact.manifest["files"])
            if not names:
                return folder
        problem = f"the bytes of {min(names)} differ from the manifest"
    except FileNotFoundError as error:
        problem = f"{error.filename or error} is gone"
    except OSError as error:
        problem = f"{error.filename}: {error.strerror or error}"
        if error.errno == errno.EIO:
            raise _condemned(artifact, problem) from error
        raise store.damaged(artifact.place, problem) from error  # it is whole, maybe
    if store.read(f"{artifact.place}/{MANIFEST}") is None:
        removed = f"{artifact.fingerprint} was removed"
        raise store.missing(artifact.stage, artifact.key, removed)
    raise _condemned(artifact, problem)


def require_files(artifact: Artifact) -> None:
    """Compare names and sizes of the files of an artifact with its manifest.

    Raises:
        CorruptArtifact: If one is missing or of another size, or its bytes differed before.
    """
    start = len(artifact.prefix) + 1
    entries = artifact.store.backend.entries(artifact.prefix)
    sizes = {entry.path[start:]: entry.size for entry in entries}
    for name, recorded in artifact.manifest["files"].items():
        if MANIFEST not in sizes or sizes.get(name) != recorded["bytes"]:
            raise artifact.store.damaged(artifact.place, f"{name} is missing or damaged")


def verify_all(store: Store, places: Iterable[str]) -> Iterator[tuple[str, CorruptArtifact | None]]:
    """Read every file of these artifacts where it is published, whatever is remembered; yields
    the address of each with what is wrong with it.
    """
    for place in places:
        found = None
        try:
            artifact = store.at(place)
            require_files(artifact)
            for name, recorded in artifact.manifest["files"].items():
                if store.backend.sha256_of(artifact.prefix, name) != recorded["sha256"]:
                    problem = f"the bytes of {name} differ from the manifest"
                    raise _condemned(artifact, problem)
        except (MissingArtifact, FileNotFoundError):  # pruned meanwhile
            continue
        except CorruptArtifact as error:
            found = error
        except OSError as error:
            found = store.damaged(place, str(error))
        yield store.backend.address(place), found


def _condemned(artifact: Artifact, problem: str) -> CorruptArtifact:
    """Return what is wrong with an artifact, which the next build makes again."""
    with suppress(OSError):  # a store that may only be read
        artifact.store.backend.delete(f"{artifact.prefix}/{MANIFEST}")
    return artifact.store.damaged(artifact.place, problem)


def remember(folder: Path, names: Collection[str]) -> None:
    """Remember on this machine how verified files look."""
    stamps = {name: _stamp(folder / name) for name in names}
    _known(folder).update(stamps)
    with suppress(OSError):  # a store that may only be read
        if stamps:
            with (folder / VERIFIED).open("a") as lines:
                lines.write(json.dumps(stamps) + "\n")


def _wrong_files(folder: Path, names: Collection[str], recorded: Mapping[str, Any]) -> set[str]:
    """Return which of these files differ from the manifest."""
    known = _known(folder)
    unknown = {name for name in names if known.get(name) != _stamp(folder / name)}
    good = {name for name in unknown if _is_whole(folder / name, recorded[name])}
    remember(folder, good)
    return unknown - good


@cache
def _known(folder: Path) -> dict[str, str]:
    """Return how verified files looked; of a store that may only be read, too, in this process."""
    known: dict[str, str] = {}
    with suppress(OSError, ValueError, TypeError, RecursionError):
        for line in (folder / VERIFIED).read_bytes().splitlines():
            known.update(json.loads(line))
    return known


def _stamp(path: Path) -> str:
    try:
        return str(file_stamp(path.stat()))
    except FileNotFoundError:
        return ""


def _is_whole(path: Path, recorded: Mapping[str, Any]) -> bool:
    with suppress(FileNotFoundError):
        return path.stat().st_size == recorded["bytes"] and sha256_of(path) == recorded["sha256"]
    return False
