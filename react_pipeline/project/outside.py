"""What is outside the store, checked cheaply: names, sizes and times of files, not their bytes.

Belongs here: whether shards, a checkpoint's files or labelled images may have changed, and the digests of seed images,
which are asked for at every look. Does not belong here: whether the others really did change (the stages `corpus`,
`base_checkpoint` and `evaluation_set` read them when they are built).

Remote shards are not looked at: thousands of requests a minute would overload a server. The schedule
materializes `corpus`, and that asks.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

from react_pipeline.demo import installed_versions
from react_pipeline.project.project import Project
from react_pipeline.settings import DomainConfig
from react_pipeline.store import Artifact, InputError, digest_of, outside_stamp, sha256_of

MAX_LISTED = 100_000
"""Files that one look lists; a change beyond them is seen by the schedule."""

_REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")


MISSING = "missing"


@dataclass(frozen=True)
class Files:
    """Local files that a stage reads.

    Attributes:
        names: Paths, folders and patterns.
        complete: Whether equal files mean equal inputs, so that a look at them is enough; else only its step can say.
    """

    names: tuple[str, ...] = ()
    complete: bool = True


def of_corpus(project: Project, _key: str) -> Files:
    """Shards, images, tables, and folders of ready embeddings and indices."""
    corpus = project.config.corpus
    paths = (str(path) for path in (corpus.embeddings, corpus.subset, corpus.indices) if path is not None)
    names = (*corpus.shards, *corpus.images, *corpus.urls, *paths)
    return Files(names, complete=not any(map(_REMOTE.match, names)))


def of_checkpoint(project: Project, _key: str) -> Files:
    """The checkpoint's file or folder; a tag of open_clip names no file."""
    return Files((project.config.encoder.pretrained,) if project.config.encoder.pretrained else ())


def of_labelled_images(project: Project, slug: str) -> Files:
    """The folder or manifest of a domain's labelled images; the images that a manifest lists are not looked at."""
    evaluation = project.domain(slug).evaluation
    if evaluation is None or evaluation.path is None:
        return Files()
    return Files((str(evaluation.path),), complete=evaluation.kind != "manifest")


def unlisted(_project: Project, _key: str) -> Files:
    """Of stages whose files are too many to be listed at every look: their step compares them."""
    return Files(complete=False)


def glance(project: Project, files: Files) -> str:
    """A digest of the names, sizes and times of local files; "" if there is none."""
    return _digest(_listed(project, files))


def full_glance(project: Project, files: Files) -> str | None:
    """As `glance`; None where equal glances do not mean equal inputs, or there are more files than are listed."""
    rows = _listed(project, files)
    return _digest(rows) if files.complete and len(rows) < MAX_LISTED else None


def changed_sources(project: Project, artifact: Artifact) -> str:
    """How what an artifact was made from differs from what it records; "" if it does not, or if a look cannot say.

    Looks at the packages that the demo is made from, and at names and sizes of local tar shards. Shards of equal name
    and size may still differ in their time (`glance`).
    """
    if _is_demo(project, artifact.stage, artifact.key):
        return _changed_packages(artifact)
    is_webdataset = artifact.stage == "corpus" and project.config.corpus.kind == "webdataset"
    return _changed_shards(project, artifact) if is_webdataset else ""


def _is_demo(project: Project, stage: str, key: str) -> bool:
    if stage == "evaluation_set":
        evaluation = project.domain(key).evaluation
        return evaluation is not None and evaluation.kind == "demo"
    made = {"corpus": project.config.corpus.kind, "base_checkpoint": project.config.encoder.model}
    return made.get(stage) == "demo"


def _changed_packages(artifact: Artifact) -> str:
    recorded = artifact.manifest["content"]
    recorded = recorded.get("demo", recorded)
    try:
        today = installed_versions()
    except InputError:  # what was made of them stays
        return ""
    names = sorted(name for name in {*today, *recorded} if today.get(name) != recorded.get(name))
    return f"it was made from another version of {', '.join(names)}" if names else ""


def _changed_shards(project: Project, corpus: Artifact) -> str:
    import pandas as pd  # not part of the light installation

    table = pd.read_parquet(corpus.file("shards.parquet"), columns=["path", "bytes"])
    recorded = Counter(
        (Path(row.path).name, int(row.bytes)) for row in table.itertuples() if not _REMOTE.match(str(row.path))
    )
    tars = {path.resolve(): path for path in _local(project, project.config.corpus.shards) if path.suffix == ".tar"}
    today = Counter((path.name, path.stat().st_size) for path in tars.values())
    new, gone = (today - recorded).total(), (recorded - today).total()
    return f"{new} shards are new or of another size, {gone} are gone" if new or gone else ""


def _listed(project: Project, files: Files) -> list[tuple[str | int, ...]]:
    rows: list[tuple[str | int, ...]] = []
    for path in islice(_local(project, files.names), MAX_LISTED):
        with suppress(OSError):  # removed while we looked
            rows.append((str(path), *outside_stamp(path)))
    return rows


def _digest(rows: list[tuple[str | int, ...]]) -> str:
    return digest_of(rows) if rows else ""


def _local(project: Project, names: Iterable[str]) -> Iterator[Path]:
    """The files that local paths, folders and patterns name, each in a stable order."""
    for name in names:
        if _REMOTE.match(name):
            continue
        path = root = project.path.parent / name
        # Only a name that does not exist literally is a pattern: a folder may be called `[2024]`.
        while not root.exists():
            root = root.parent
        for found in [path] if root == path else sorted(root.glob(str(path.relative_to(root)))):
            yield from _files_below(found) if found.is_dir() else (found,)


def _files_below(folder: Path) -> Iterator[Path]:
    for directory, below, files in os.walk(folder):
        below.sort()
        yield from (Path(directory, name) for name in sorted(files))


def seed_path(directory: Path, seed: Path) -> Path:
    """Path of a seed: relative to `directory`, the folder of the domain files."""
    return Path(os.path.normpath(directory / seed))


def seed_digests(directory: Path, domain: DomainConfig) -> dict[str, list[str]]:
    """SHA-256 of each class's seed images (`missing` for a file that is not there), for the classes that have any."""
    return {
        entry.label: [_seed_digest(seed_path(directory, seed)) for seed in entry.seeds]
        for entry in domain.classes
        if entry.seeds
    }


def _seed_digest(path: Path) -> str:
    try:
        # A named pipe would be waited for without end, and a device may have none.
        return _remembered(path, outside_stamp(path)) if path.is_file() else MISSING
    except OSError:
        return MISSING


@lru_cache(maxsize=100_000)
def _remembered(path: Path, _stamp: tuple[int, ...]) -> str:
    return sha256_of(path)
