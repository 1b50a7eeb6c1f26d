"""The folder of a run of `predict` or `embed`: its options, who writes to it, and what the run was.

Belongs here: refusing, locking and resuming it. Loads nothing large, so that a wrong
folder is refused before the model is loaded.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from react_pipeline.settings import MAX_PIXELS, DistributorConfig
from react_pipeline.store import InputError, StoreWriteError, lock, write_atomically

if TYPE_CHECKING:
    from react_pipeline.extensions.predict.pictures import LedgerRow

RUN_FILE = "run.json"
LEDGER_FILE = "ledger.csv"
WORK = ".work"
PREDICTIONS, VECTORS, LABELS = "predictions", "vectors", "labels"
_REMEDY = "choose an empty or new folder with --output"


@dataclass(frozen=True)
class Options:
    """How a run goes.

    Attributes:
        top_k: Classes per picture.
        threshold: Below this confidence the prediction is `unknown`.
        transductive: Judge all pictures together (`transduction`).
        column: Of a table of pictures.
        workers: Decoding processes.
        max_pixels: Larger pictures are skipped.
        is_lenient: Truncated pictures are used as far as they decode.
        distributor: Where shards are labelled.
    """

    top_k: int = 5
    threshold: float = 0.0
    transductive: bool = False
    column: str = "path"
    workers: int = 2
    max_pixels: int = MAX_PIXELS
    is_lenient: bool = False
    distributor: DistributorConfig = DistributorConfig()


def require_output(output: Path) -> None:
    """Refuse a place that cannot be written or holds other files; nothing is created.

    Raises:
        InputError: Naming it.
    """
    try:
        existing = next(path for path in (output, *output.absolute().parents) if path.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK):
            raise InputError(
                f"{output}: {existing} is no folder with the right to write; {_REMEDY}"
            )
        # Hidden files may be those of a run that has just begun.
        others = output.exists() and any(path.name[0] != "." for path in output.iterdir())
    except OSError as error:
        raise InputError(f"{output}: {error.strerror}; {_REMEDY}") from error
    if others and not _record(output):
        raise InputError(f"{output}: holds other files; {_REMEDY}")


@contextmanager
def held_run(output: Path, identity: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the record of the run of this identity in a folder that no other process writes to.

    Raises:
        InputError: If the folder holds something else, or another run writes to it.
        StoreWriteError: If the disk refuses a file.
    """
    require_output(output)
    try:
        output.mkdir(parents=True, exist_ok=True)
        with ExitStack() as held:
            descriptor = os.open(output, os.O_RDONLY | os.O_DIRECTORY)
            held.callback(os.close, descriptor)
            if not lock(descriptor, wait=False):
                raise InputError(
                    f"{output}: another run writes to it; wait for it, or choose another folder"
                )
            record = _record(output) or dict(identity)
            changed = sorted(name for name in identity if record.get(name) != identity[name])
            if changed:
                raise InputError(f"{output}: holds a run of other {', '.join(changed)}; {_REMEDY}")
            yield record
    except OSError as error:
        raise StoreWriteError(
            f"{error.filename or output}: {error.strerror or error}; free space and run again"
        ) from error


def _record(output: Path) -> dict[str, Any]:
    """Return the record in a folder, empty if there is none."""
    try:
        record = json.loads((output / RUN_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def write_record(output: Path, record: dict[str, Any]) -> None:
    """Write the record of a run."""
    write_atomically(output / RUN_FILE, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def write_ledger(output: Path, ledger: Sequence[LedgerRow]) -> dict[str, int]:
    """Write what could not be used, and count it by reason, the most frequent first."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([("path", "reason", "detail"), *ledger])
    write_atomically(output / LEDGER_FILE, text.getvalue())
    return dict(Counter(reason for _, reason, _ in ledger).most_common())
