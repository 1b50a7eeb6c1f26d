"""What is outside the store, checked cheaply: names, sizes and times of files; of seed images also
their digests.

Whether a file that looks different did change shows when its stage runs. Remote shards are not
looked at: thousands of requests a minute would overload a server. The schedule materializes
`corpus`, and that asks.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

from react_pipeline.project.local_files import escape_name, files_below, matches
from react_pipeline.project.project import Project
from react_pipeline.settings import (
    DomainConfig,
    EncoderConfig,
    EvaluationSetConfig,
    absolute_path,
)
from react_pipeline.store import (
    Artifact,
    CorpusError,
    InputError,
    ReactError,
    file_stamp,
    hash_value,
    sha256_of,
)

MAX_LISTED = 100_000
"""Files that one look lists; a change beyond them is seen by the schedule."""

_REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")

MISSING = "missing"


@dataclass(frozen=True)
class Look:
    """The files of a stage as they were at one moment.

    Attributes:
        seen: The number of local files, and a digest of their names, sizes and times, of the names
            of remote ones, and of versions of packages; "" if the stage names none.
        is_complete: Whether another look that sees the same means that nothing changed; else only
            the step can say.
    """

    seen: str
    is_complete: bool


def of_corpus(project: Project, _key: str) -> Look:
    """Look at shards, images, tables, and folders of ready embeddings and indices."""
    corpus = project.config.corpus
    return look_at(project, corpus.files(), corpus.packages)


def of_encoder(project: Project, encoder: EncoderConfig) -> Look:
    """Look at the checkpoint's file or folder; a tag of open_clip names no file."""
    from react_pipeline.extensions.demo import installed_versions

    names = (encoder.pretrained,) if encoder.pretrained else ()
    return look_at(project, names, installed_versions if encoder.is_demo else dict)


def of_labelled(project: Project, images: EvaluationSetConfig | None) -> Look:
    """Look at the files that the kind of a domain's labelled images names, if it has any."""
    if images is None:
        return Look("", True)
    return look_at(project, images.files(), images.packages, complete=images.is_watched)


def unlisted(_project: Project, _key: str) -> Look:
    """Look at no files, for stages that have too many for every look: their step compares them."""
    return Look("", False)


def look_at(
    project: Project,
    names: tuple[str, ...],
    packages: Callable[[], Mapping[str, str]] = dict,
    *,
    complete: bool = True,
) -> Look:
    """Look at files as they are now.

    Args:
        names: Paths, folders and patterns; of a remote one only its step can say.
        packages: Returns versions of the installed packages that the stage is made from.
        complete: Whether equal files mean equal inputs.
    """
    versions: Mapping[str, str] = {}
    with suppress(InputError):  # not installed any more: what was made of them stays
        versions = packages()
    if not names and not versions:
        return Look("", complete)
    rows: list[tuple[str | int, ...]] = []
    base = str(project.path).removesuffix(project.path.name)
    for path in islice(_local(project, names), MAX_LISTED):
        with suppress(OSError):  # removed while we looked
            # Without the inode, which some network file systems make up.
            rows.append((escape_name(path).removeprefix(base), *file_stamp(path.stat())[1:]))
    remote = [name for name in names if _REMOTE.match(name)]
    return Look(
        f"{len(rows)} files, digest {hash_value([rows, remote, dict(versions)])}",
        complete and not remote and len(rows) < MAX_LISTED,
    )


def remember_look(project: Project, artifact: Artifact, look: Look) -> None:
    """Keep what was seen before the step ran that gave this artifact."""
    # A cache that cannot be written costs runs that build nothing, and no result.
    with suppress(OSError, ReactError):
        project.store.write_note(_memory(artifact), f"{artifact.fingerprint} {look.seen}")


def changed_since_run(project: Project, artifact: Artifact, look: Look) -> str:
    """Return how a stage's files look different from when its current artifact was made or found
    again; "" if they do not.

    A look that led to another artifact, or none, counts as different: a look may be lost, and of
    two runs at once the last to publish need not be the last to have looked.
    """
    if not look.seen:
        return ""
    note = project.store.read_note(_memory(artifact))
    if note is None:
        return "its source files were not looked at when it last ran"
    fingerprint, _, before = note.partition(" ")
    is_same = (fingerprint, before) == (artifact.fingerprint, look.seen)
    if is_same:
        return ""
    return f"its source files look different: {look.seen}; when it last ran: {before}"


def _memory(artifact: Artifact) -> str:
    return f"looks/{artifact.stage}--{artifact.key.replace('/', '--')}"


def _local(project: Project, names: Iterable[str]) -> Iterator[Path]:
    """Yield the files that local paths, folders and patterns name, each in a stable order."""
    for name in names:
        if _REMOTE.match(name):
            continue
        # The step reports a range that is wrong, and what cannot be read.
        with suppress(ValueError, OSError, CorpusError):
            for _, paths in matches(project.path.parent / name):
                for path in paths:
                    yield from files_below(path) if path.is_dir() else filter(Path.is_file, (path,))


def seed_path(directory: Path, seed: Path) -> Path:
    """Return the path of a seed: relative to `directory`, the folder of the domain files."""
    return Path(os.path.normpath(absolute_path(directory, seed)))


def seed_digests(directory: Path, domain: DomainConfig) -> dict[str, list[str]]:
    """Compute the SHA-256 of each class's seed images (`missing` for a file that is not there), for
    the classes that have any.
    """
    return {
        entry.label: [_seed_digest(seed_path(directory, seed)) for seed in entry.seeds]
        for entry in domain.classes
        if entry.seeds
    }


def _seed_digest(path: Path) -> str:
    try:
        return _remembered(path, file_stamp(path.stat()))
    except OSError:
        return MISSING


@lru_cache(maxsize=100_000)
def _remembered(path: Path, _stamp: tuple[int, ...]) -> str:
    return sha256_of(path)
