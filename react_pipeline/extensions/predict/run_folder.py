"""The folder of a run of `predict` or `embed`: who writes to it, and what the run was.

Belongs here: refusing, locking, resuming and clearing it. Loads nothing large, so that a wrong
folder is refused before the model is loaded.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from react_pipeline.store import InputError, StoreWriteError, lock, write_atomically

RUN_FILE = "run.json"
LEDGER_FILE = "ledger.csv"
WORK = ".work"
PREDICTIONS, LABELS = "predictions", "labels"
WRITTEN = {
    RUN_FILE,
    LEDGER_FILE,
    WORK,
    LABELS,
    "index.html",
    "predictions.parquet",
    "predictions.csv",
    "vectors.parquet",
}
"""What `overwrite` removes, and nothing else."""

_REMEDY = "choose an empty or new folder with --output"

_locked: set[int] = set()


def _let_go() -> None:
    # A decoding process outlives a killed run by seconds, and would keep its lock.
    for descriptor in _locked:
        os.close(descriptor)
    _locked.clear()


os.register_at_fork(after_in_child=_let_go)


def require_output(output: Path) -> None:
    """Refuse a place that cannot be written or holds other files; nothing is created.

    Raises:
        InputError: Naming it.
    """
    with _refusing(output):
        _require_place(output)
        if output.exists():
            with _locked_folder(output, shared=True):
                _require_own(output)


def _require_place(output: Path) -> None:
    existing = next(path for path in (output, *output.absolute().parents) if path.exists())
    fault = "" if existing.is_dir() else f"{existing} is no folder"
    if not fault and not os.access(existing, os.W_OK):
        fault = f"no right to write to {existing}"
    if fault:
        raise InputError(f"{output}: {fault}; {_REMEDY}")


def _require_own(output: Path) -> dict[str, Any] | None:
    """The record in a folder, None in an empty one; other files are refused."""
    record = _record(output)
    if record is None and any(output.iterdir()):
        raise InputError(f"{output}: holds other files; {_REMEDY}")
    return record


@contextmanager
def _locked_folder(output: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold the lock of a folder, so that no half-written run is judged.

    `shared`: other readers may hold it at the same time.
    """
    descriptor = os.open(output, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if not lock(descriptor, wait=False, shared=shared):
            raise InputError(
                f"{output}: another run writes to it; wait for it, or choose another folder"
            )
        _locked.add(descriptor)
        yield
    finally:
        _locked.discard(descriptor)
        os.close(descriptor)


@contextmanager
def _refusing(output: Path) -> Iterator[None]:
    """Where an error of the file system means that `output` cannot be used."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{output}: {error.strerror}; choose another folder with --output"
        ) from error


@contextmanager
def held_run(output: Path, identity: dict[str, Any], overwrite: bool) -> Iterator[dict[str, Any]]:
    """The record of the run of this identity in a folder that no other process writes to."""
    with _refusing(output):
        _require_place(output)
        output.mkdir(parents=True, exist_ok=True)
        with _locked_folder(output), _as_write_error(output):
            record = _require_own(output)
            before = record or identity
            changed = sorted(name for name in identity if before.get(name) != identity[name])
            if changed and not overwrite:
                raise InputError(
                    f"{output}: holds a run of other {', '.join(changed)}; choose another folder, "
                    "or --overwrite it"
                )
            if changed:
                _clear(output)
                record = None
            yield record or dict(identity)


@contextmanager
def _as_write_error(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreWriteError(
            f"{error.filename or output}: {error.strerror or error}; free space and run again"
        ) from error


def _clear(output: Path) -> None:
    """Remove the files of an earlier run, and nothing else."""
    for path in output.iterdir():
        if path.name in WRITTEN:
            is_folder = path.is_dir() and not path.is_symlink()
            shutil.rmtree(path) if is_folder else path.unlink()


def _record(output: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((output / RUN_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def write_record(output: Path, record: dict[str, Any]) -> None:
    """Write the record of a run."""
    write_atomically(output / RUN_FILE, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
