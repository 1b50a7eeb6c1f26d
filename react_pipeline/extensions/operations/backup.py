"""Backups: all that a project is, in one folder, and the way back into an empty place.

Belongs here: what is copied, in which order, and that it comes back whole. Does not belong here:
how a database is copied (`databases`). Steps may run meanwhile: pointers are read before the
artifacts that they name, artifacts never change, and `prune` waits.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from react_pipeline import __version__
from react_pipeline.extensions.operations.databases import (
    copy_sqlite,
    dump_postgres,
    is_postgres,
    is_sqlite,
    restore_postgres,
)
from react_pipeline.project import SETTINGS_FILE, Project, files_below, locate_home
from react_pipeline.settings import read_yaml, without_secrets
from react_pipeline.store import (
    CURRENT,
    MANIFEST,
    MAX_JSON_BYTES,
    InputError,
    ReactError,
    fsync_tree,
    read_json_bounded,
    sha256_of,
    write_atomically,
)

RECORD = "backup.json"
FORMAT = 1
DAGSTER_VARIABLE, MLFLOW_VARIABLE = "DAGSTER_POSTGRES_URL", "MLFLOW_BACKEND_STORE_URI"
"""Where the addresses of the PostgreSQL databases are."""
STORE, DOMAINS, DAGSTER, MLFLOW, FILES = "store", "domains", "dagster", "mlflow", "mlartifacts"
DUMP = ".pgdump"
_PASSING = (".lock", "-wal", "-shm", "-journal")
"""Files of a Dagster home that belong to running processes or are in the copy of a database."""


@dataclass
class Report:
    """What was copied, by part, and what a person must see to."""

    copied: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def back_up(project: Project, target: Path) -> Report:
    """Copy a project into a new folder, which is there when it is complete.

    Raises:
        InputError: If the folder is there, or a database cannot be copied.
    """
    if target.exists():
        raise InputError(f"{target}: is there already; give a new folder")
    report = Report()
    with _staged(target) as staging:
        shutil.copy2(project.path, staging / project.path.name)
        report.copied[DOMAINS] = _copy_folder(project.config.domains, staging / DOMAINS)
        # First the runs, then what they published: no restored run shows what is not there.
        _copy_dagster(locate_home(project.path.parent), staging, report)
        _copy_mlflow(project, staging, report)
        if project.config.store_url:
            report.notes.append(
                f"{project.config.store_url}: not copied; use versions or replication of the bucket"
            )
        else:
            with project.store.locked("prune"):
                report.copied[STORE] = _copy_store(project.store.root, staging / STORE)
        names = [path.relative_to(staging) for path in files_below(staging)]
        # Artifacts have digests in their manifests.
        files = {str(name): sha256_of(staging / name) for name in names if name.parts[0] != STORE}
        record = {
            "format": FORMAT,
            "version": __version__,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "config": project.path.name,
            "copied": report.copied,
            "files": files,
        }
        write_atomically(staging / RECORD, json.dumps(record, indent=1) + "\n")
    return report


def restore(source: Path, folder: Path) -> Report:
    """Put a backup into an empty folder, and its parts where `pipeline.yaml` says.

    Raises:
        InputError: If the backup is damaged, or something is in a place already.
    """
    record = verified(source)
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder}: is not empty; give an empty folder")
    variables = {DAGSTER: DAGSTER_VARIABLE, MLFLOW: MLFLOW_VARIABLE}
    dumps = {name: source / f"{name}{DUMP}" for name in variables}
    addresses = {
        name: _address(variables[name], name) for name, dump in dumps.items() if dump.exists()
    }
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / record["config"]
    shutil.copy2(source / record["config"], config)
    try:
        project = Project.load(config)
        places = _places(source, project)
    except ReactError:
        config.unlink()  # so that the same command can be given again
        raise
    report = Report(copied=record["copied"])
    for name, place in places.items():
        if (source / name).is_dir():
            shutil.copytree(source / name, place, dirs_exist_ok=True)
        elif (source / name).is_file():
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, place)
    for name, address in addresses.items():
        restore_postgres(dumps[name], address)
    if STORE in places:
        looks = list(project.store.verify())
        if damaged := [str(error) for _, error in looks if error is not None]:
            raise InputError(f"{source / STORE}: {len(damaged)} damaged: {damaged[0]}")
        if len(looks) != record["copied"][STORE]:
            raise InputError(f"{source / STORE}: {len(looks)} of {record['copied'][STORE]} there")
    return report


def _places(source: Path, project: Project) -> dict[str, Path]:
    """Where the parts of a backup belong, all of which are empty."""
    places = {DOMAINS: project.config.domains, DAGSTER: locate_home(project.path.parent)}
    if (source / STORE).is_dir() and not project.config.store_url:
        places[STORE] = project.store.root
    database = _sqlite_of(project)
    if database is not None:
        places[MLFLOW] = database
        places[FILES] = database.parent / FILES
    for name, place in places.items():
        if place.exists() and (place.is_file() or any(place.iterdir())):
            raise InputError(f"{place}: is there already; `{name}` of the backup belongs there")
    return places


def verified(source: Path) -> dict[str, Any]:
    """The record of a backup all of whose files are as they were written.

    Raises:
        InputError: Naming what is missing or damaged.
    """
    try:
        record: dict[str, Any] = read_json_bounded(source / RECORD, MAX_JSON_BYTES)
        files, version = dict(record["files"]), record["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{source / RECORD}: no record of a backup ({error})") from error
    if version != FORMAT:
        raise InputError(
            f"{source}: a backup of format {version}, this version reads format {FORMAT}"
        )
    for name, digest in files.items():
        path = source / name
        if not path.is_file() or sha256_of(path) != digest:
            raise InputError(f"{path}: missing or damaged; take another backup")
    return record


@contextmanager
def _staged(target: Path) -> Iterator[Path]:
    """A folder next to the target, which becomes it when all is written."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield scratch
        fsync_tree(scratch)
        scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _copy_folder(source: Path, target: Path) -> int:
    """Copy the regular files of a folder; returns how many. Files that end meanwhile are left."""
    target.mkdir(parents=True, exist_ok=True)
    count = 0
    for path in files_below(source) if source.is_dir() else ():
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            shutil.copy2(path, copy)
            count += 1
    return count


def _copy_store(root: Path, target: Path) -> int:
    """Copy published artifacts and pointers; returns how many artifacts there are."""
    target.mkdir()
    pointers = {path: path.read_text() for path in root.glob(f"[!.]*/**/{CURRENT}")}
    manifests = sorted(root.glob(f"[!.]*/**/{MANIFEST}"))
    for manifest in manifests:
        shutil.copytree(manifest.parent, target / manifest.parent.relative_to(root))
    for path, text in pointers.items():
        copy = target / path.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(text)
    if (marker := root / "store.json").is_file():
        shutil.copy2(marker, target)
    return len(manifests)


def _copy_dagster(home: Path, staging: Path, report: Report) -> None:
    target = staging / DAGSTER
    target.mkdir()
    count = 0
    for path in files_below(home) if home.is_dir() else ():
        if path.name.endswith(_PASSING):
            continue
        copy = target / path.relative_to(home)
        copy.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            (copy_sqlite if is_sqlite(path) else shutil.copy2)(path, copy)
            count += 1
    report.copied[DAGSTER] = count
    settings = home / SETTINGS_FILE
    if settings.is_file() and any("storage" in name for name in read_yaml(settings)):
        dump_postgres(_address(DAGSTER_VARIABLE, DAGSTER), staging / f"{DAGSTER}{DUMP}")


def _copy_mlflow(project: Project, staging: Path, report: Report) -> None:
    uri = project.config.tracking_uri or ""
    database = _sqlite_of(project)
    if database is not None:
        if database.is_file():
            copy_sqlite(database, staging / MLFLOW)
        report.copied[FILES] = _copy_folder(database.parent / FILES, staging / FILES)
    elif is_postgres(os.environ.get(MLFLOW_VARIABLE, "")):
        dump_postgres(_address(MLFLOW_VARIABLE, MLFLOW), staging / f"{MLFLOW}{DUMP}")
        report.notes.append("MLflow's files: not copied; they are where its server keeps them")
    else:
        report.notes.append(
            f"MLflow at {without_secrets(uri)}: not copied; set {MLFLOW_VARIABLE} to its "
            "PostgreSQL database, or copy it where it runs"
        )


def _sqlite_of(project: Project) -> Path | None:
    """MLflow's database, if it is a SQLite file."""
    uri = project.config.tracking_uri or ""
    prefix = "sqlite:///"
    return Path(uri.removeprefix(prefix)) if uri.startswith(prefix) else None


def _address(variable: str, part: str) -> str:
    url = os.environ.get(variable, "")
    if not is_postgres(url):
        raise InputError(
            f"{variable}: set it to the address of the PostgreSQL database of {part}, such as "
            "postgresql://user:password@host:5432/name"
        )
    return url
